#include "gpu/cuda/linear.hpp"

#include "config/ensure.hpp"
#include "gpu/cuda/event.hpp"
#include "gpu/cuda/status.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <mutex>
#include <optional>
#include <vector>

namespace troupe::gpu::cuda {
namespace {

constexpr int max_candidates = 12;
constexpr int timed_runs = 3;

cudaDataType_t data_type_of(dtype type) {
  return type == dtype::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

class layout {
 public:
  /// A row-major [rows, width] matrix is to the library the column-major [width, rows].
  explicit layout(const tensor_view& view) {
    check(cublasLtMatrixLayoutCreate(&handle_, data_type_of(view.type),
                                     static_cast<uint64_t>(view.width()),
                                     static_cast<uint64_t>(view.rows()), view.row_stride),
          "cublasLtMatrixLayoutCreate");
  }
  layout(const layout&) = delete;
  layout& operator=(const layout&) = delete;
  ~layout() { cublasLtMatrixLayoutDestroy(handle_); }
  cublasLtMatrixLayout_t get() const { return handle_; }

 private:
  cublasLtMatrixLayout_t handle_ = nullptr;
};

/// A tensor's values on the host, from when this is made until `put_back`. No memory of the device
/// is taken for it: giving that back could wait for a peer that waits for this rank.
class kept_values {
 public:
  kept_values(const tensor_view& of, cudaStream_t stream)
      : of_(of), stream_(stream), values_(static_cast<size_t>(of.span_bytes())) {
    check(
        cudaMemcpyAsync(values_.data(), of_.data, values_.size(), cudaMemcpyDeviceToHost, stream_),
        "keeping a tensor");
    check(cudaStreamSynchronize(stream_), "keeping a tensor");
  }
  kept_values(const kept_values&) = delete;
  kept_values& operator=(const kept_values&) = delete;
  void put_back() {
    check(
        cudaMemcpyAsync(of_.data, values_.data(), values_.size(), cudaMemcpyHostToDevice, stream_),
        "putting a tensor back");
    check(cudaStreamSynchronize(stream_), "putting a tensor back");
  }

 private:
  tensor_view of_;
  cudaStream_t stream_;
  std::vector<std::byte> values_;
};

/// What each shape runs on this kind of device, for the whole process: two backends give the same
/// bits, and a shape is timed once.
class algorithm_choices {
 public:
  std::optional<cublasLtMatmulAlgo_t> find(const library_linear::shape_key& key) {
    const std::lock_guard lock(mutex_);
    const auto found = chosen_.find(key);
    if (found == chosen_.end()) return std::nullopt;
    return found->second;
  }
  /// The first choice stays. Nothing is locked while one is made: what a rank times may wait for a
  /// peer that makes one as well.
  cublasLtMatmulAlgo_t keep(const library_linear::shape_key& key,
                            const cublasLtMatmulAlgo_t& algorithm) {
    const std::lock_guard lock(mutex_);
    return chosen_.emplace(key, algorithm).first->second;
  }

 private:
  std::mutex mutex_;
  std::map<library_linear::shape_key, cublasLtMatmulAlgo_t> chosen_;
};

algorithm_choices& choices() {
  static algorithm_choices all;
  return all;
}

uint32_t alignment_of(const tensor_view& view) {
  const auto bits = reinterpret_cast<uintptr_t>(view.data) |
                    static_cast<uintptr_t>(view.row_stride * size_of(view.type)) | 256U;
  return static_cast<uint32_t>(bits & -bits);
}

}  // namespace

class library_linear::prepared {
 public:
  explicit prepared(const library_product& work)
      : weight_(work.weight),
        input_(work.input),
        output_(work.output),
        accumulates_(work.epilogue == product_epilogue::accumulate) {
    check(cublasLtMatmulDescCreate(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F),
          "cublasLtMatmulDescCreate");
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(work));
    if (work.bias.rank == 0) return;
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type_of(work.bias.type));
    set_bias(work.bias);  // takes part in the choice of an algorithm
  }
  prepared(const prepared&) = delete;
  prepared& operator=(const prepared&) = delete;
  ~prepared() { cublasLtMatmulDescDestroy(operation_); }

  void set_bias(const tensor_view& bias) {
    if (bias.rank != 0) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(bias.data));
  }

  std::vector<cublasLtMatmulHeuristicResult_t> candidates(cublasLtHandle_t handle,
                                                          const library_product& work) const;

  cublasStatus_t launch(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& chosen,
                        const library_product& work, const tensor_view& workspace,
                        cudaStream_t stream) const {
    const float one = 1, kept = accumulates_ ? 1 : 0;
    return cublasLtMatmul(handle, operation_, &one, work.weight.data, weight_.get(),
                          work.input.data, input_.get(), &kept, work.output.data, output_.get(),
                          work.output.data, output_.get(), &chosen, workspace.data,
                          static_cast<size_t>(workspace_bytes), stream);
  }

  cublasLtMatmulAlgo_t algorithm{};

 private:
  static cublasLtEpilogue_t epilogue_of(const library_product& work) {
    const bool gelu = work.epilogue == product_epilogue::gelu_tanh;
    if (work.bias.rank == 0) return gelu ? CUBLASLT_EPILOGUE_GELU : CUBLASLT_EPILOGUE_DEFAULT;
    return gelu ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_BIAS;
  }

  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, Value value) {
    check(cublasLtMatmulDescSetAttribute(operation_, attribute, &value, sizeof value),
          "cublasLtMatmulDescSetAttribute");
  }

  cublasLtMatmulDesc_t operation_ = nullptr;
  layout weight_, input_, output_;
  bool accumulates_;
};

std::vector<cublasLtMatmulHeuristicResult_t> library_linear::prepared::candidates(
    cublasLtHandle_t handle, const library_product& work) const {
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
          "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<size_t>(workspace_bytes));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(work.weight));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(work.input));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(work.output));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(work.output));
  std::vector<cublasLtMatmulHeuristicResult_t> found(max_candidates);
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle, operation_, weight_.get(), input_.get(), output_.get(), output_.get(), preference,
      max_candidates, found.data(), &count);
  cublasLtMatmulPreferenceDestroy(preference);
  check(status, "cublasLtMatmulAlgoGetHeuristic");
  found.resize(static_cast<size_t>(count));
  std::erase_if(found, [](const auto& result) { return result.state != CUBLAS_STATUS_SUCCESS; });
  return found;
}

library_linear::library_linear(cudaStream_t stream)
    : stream_(stream), workspace_("matmul_workspace", memory_kind::device) {
  check(cublasLtCreate(&handle_), "cublasLtCreate");
  const int32_t reservation = workspace_.reserve("workspace", dtype::u8, {workspace_bytes});
  workspace_.seal();
  workspace_view_ = workspace_.view(reservation);
}

library_linear::~library_linear() {
  prepared_.clear();
  cublasLtDestroy(handle_);
}

void library_linear::run(const library_product& work, bool capturing) {
  prepared& shape = find(work, capturing);
  shape.set_bias(work.bias);
  check(shape.launch(handle_, shape.algorithm, work, workspace_view_, stream_), "cublasLtMatmul");
}

library_linear::prepared& library_linear::find(const library_product& work, bool capturing) {
  const shape_key key{work.output.rows(),    work.input.width(),     work.output.width(),
                      work.input.row_stride, work.weight.row_stride, work.output.row_stride,
                      work.input.type,       work.output.type,       work.bias.rank != 0,
                      work.epilogue};
  const auto found = prepared_.find(key);
  if (found != prepared_.end()) return *found->second;
  config::ensure(!capturing, "a product of {} rows, {} -> {}, is met first inside a capture",
                 work.output.rows(), work.input.width(), work.output.width());
  auto made = std::make_unique<prepared>(work);
  const auto known = choices().find(key);
  made->algorithm = known ? *known : choices().keep(key, fastest(*made, work));
  return *prepared_.emplace(key, std::move(made)).first->second;
}

cublasLtMatmulAlgo_t library_linear::fastest(const prepared& shape,
                                             const library_product& work) const {
  std::optional<kept_values> added_to;
  if (work.epilogue == product_epilogue::accumulate) added_to.emplace(work.output, stream_);
  event start(event_timing::on), end(event_timing::on);
  float best = std::numeric_limits<float>::infinity();
  cublasLtMatmulAlgo_t algorithm{};
  for (const auto& candidate : shape.candidates(handle_, work)) {
    const auto launch = [&] {
      return shape.launch(handle_, candidate.algo, work, workspace_view_, stream_);
    };
    if (launch() != CUBLAS_STATUS_SUCCESS) continue;  // the library may refuse what it proposed
    start.record(stream_);
    for (int run = 0; run < timed_runs; ++run) check(launch(), "cublasLtMatmul");
    end.record(stream_);
    end.wait("cublasLtMatmul");
    const float elapsed = end.milliseconds_since(start);
    if (elapsed >= best) continue;
    best = elapsed;
    algorithm = candidate.algo;
  }
  if (added_to) added_to->put_back();
  if (best == std::numeric_limits<float>::infinity())
    throw error(fmt::format("cuBLASLt has no algorithm for {} rows, {} -> {}", work.output.rows(),
                            work.input.width(), work.output.width()));
  return algorithm;
}

}  // namespace troupe::gpu::cuda
