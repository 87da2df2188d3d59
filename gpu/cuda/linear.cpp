#include "gpu/cuda/linear.hpp"

#include "config/ensure.hpp"
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

// What the vendor advises for this architecture.
constexpr int64_t workspace_bytes = int64_t{32} << 20;
constexpr int max_candidates = 12;
constexpr int timed_runs = 3;

cudaDataType_t data_type_of(dtype type) { return type == dtype::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

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

class event {
 public:
  event() { check(cudaEventCreate(&handle_), "cudaEventCreate"); }
  event(const event&) = delete;
  event& operator=(const event&) = delete;
  ~event() { cudaEventDestroy(handle_); }
  cudaEvent_t get() const { return handle_; }

 private:
  cudaEvent_t handle_ = nullptr;
};

/// What each shape runs on this kind of device, for the whole process: two backends give the same bits, and
/// a shape is timed once.
class algorithm_choices {
 public:
  std::optional<cublasLtMatmulAlgo_t> find(const library_linear::shape_key& key) {
    const std::lock_guard lock(mutex_);
    const auto found = chosen_.find(key);
    if (found == chosen_.end()) return std::nullopt;
    return found->second;
  }
  /// The first choice stays. Nothing is locked while one is made: what a rank times may wait for a peer
  /// that makes one as well.
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

class library_linear::product {
 public:
  product(const tensor_view& output, const tensor_view& input, const tensor_view& weight,
          const tensor_view& bias)
      : weight_(weight), input_(input), output_(output) {
    check(cublasLtMatmulDescCreate(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F),
          "cublasLtMatmulDescCreate");
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (bias.rank == 0) return;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type_of(bias.type));
    set_bias(bias);  // takes part in the choice of an algorithm
  }
  product(const product&) = delete;
  product& operator=(const product&) = delete;
  ~product() { cublasLtMatmulDescDestroy(operation_); }

  void set_bias(const tensor_view& bias) {
    if (bias.rank != 0) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(bias.data));
  }

  std::vector<cublasLtMatmulHeuristicResult_t> candidates(cublasLtHandle_t handle,
                                                          const tensor_view& output,
                                                          const tensor_view& input,
                                                          const tensor_view& weight) const {
    cublasLtMatmulPreference_t preference = nullptr;
    check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const auto limit = static_cast<size_t>(workspace_bytes);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
            "cublasLtMatmulPreferenceSetAttribute");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, limit);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(weight));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(input));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(output));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(output));
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

  cublasStatus_t launch(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& chosen,
                        const tensor_view& output, const tensor_view& input,
                        const tensor_view& weight, const tensor_view& workspace,
                        cudaStream_t stream) const {
    const float one = 1, zero = 0;
    return cublasLtMatmul(handle, operation_, &one, weight.data, weight_.get(), input.data,
                          input_.get(), &zero, output.data, output_.get(), output.data,
                          output_.get(), &chosen, workspace.data,
                          static_cast<size_t>(workspace_bytes), stream);
  }

  cublasLtMatmulAlgo_t algorithm{};

 private:
  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, Value value) {
    check(cublasLtMatmulDescSetAttribute(operation_, attribute, &value, sizeof value),
          "cublasLtMatmulDescSetAttribute");
  }

  cublasLtMatmulDesc_t operation_ = nullptr;
  layout weight_, input_, output_;
};

library_linear::library_linear(cudaStream_t stream)
    : stream_(stream), workspace_("matmul_workspace", memory_kind::device) {
  check(cublasLtCreate(&handle_), "cublasLtCreate");
  const int32_t reservation = workspace_.reserve("workspace", dtype::u8, {workspace_bytes});
  workspace_.seal();
  workspace_view_ = workspace_.view(reservation);
}

library_linear::~library_linear() {
  products_.clear();
  cublasLtDestroy(handle_);
}

void library_linear::run(const tensor_view& output, const tensor_view& input,
                         const tensor_view& weight, const tensor_view& bias, bool capturing) {
  const shape_key key{output.rows(),     input.width(),     output.width(),
                      input.row_stride,  weight.row_stride, output.row_stride,
                      input.type,        output.type,       bias.rank != 0};
  product& found = product_of(key, output, input, weight, bias, capturing);
  found.set_bias(bias);
  check(found.launch(handle_, found.algorithm, output, input, weight, workspace_view_, stream_),
        "cublasLtMatmul");
}

library_linear::product& library_linear::product_of(const shape_key& key, const tensor_view& output,
                                                    const tensor_view& input,
                                                    const tensor_view& weight,
                                                    const tensor_view& bias, bool capturing) {
  const auto found = products_.find(key);
  if (found != products_.end()) return *found->second;
  config::ensure(!capturing, "a product of {} rows, {} -> {}, is met first inside a capture",
                 output.rows(), input.width(), output.width());
  auto made = std::make_unique<product>(output, input, weight, bias);
  const auto known = choices().find(key);
  made->algorithm = known ? *known : choices().keep(key, fastest(*made, output, input, weight));
  return *products_.emplace(key, std::move(made)).first->second;
}

cublasLtMatmulAlgo_t library_linear::fastest(const product& made, const tensor_view& output,
                                             const tensor_view& input,
                                             const tensor_view& weight) const {
  const event start, end;
  float best = std::numeric_limits<float>::infinity();
  cublasLtMatmulAlgo_t algorithm{};
  for (const auto& candidate : made.candidates(handle_, output, input, weight)) {
    const auto launch = [&] {
      return made.launch(handle_, candidate.algo, output, input, weight, workspace_view_, stream_);
    };
    if (launch() != CUBLAS_STATUS_SUCCESS) continue;  // the library may refuse what it proposed
    check(cudaEventRecord(start.get(), stream_), "cudaEventRecord");
    for (int run = 0; run < timed_runs; ++run) check(launch(), "cublasLtMatmul");
    check(cudaEventRecord(end.get(), stream_), "cudaEventRecord");
    check(cudaEventSynchronize(end.get()), "cublasLtMatmul");
    float elapsed = 0;
    check(cudaEventElapsedTime(&elapsed, start.get(), end.get()), "cudaEventElapsedTime");
    if (elapsed >= best) continue;
    best = elapsed;
    algorithm = candidate.algo;
  }
  if (best == std::numeric_limits<float>::infinity())
    throw error(fmt::format("cuBLASLt has no algorithm for {} rows, {} -> {}", output.rows(),
                            input.width(), output.width()));
  return algorithm;
}

}  // namespace troupe::gpu::cuda
