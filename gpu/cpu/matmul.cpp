#include "gpu/cpu/matmul.hpp"

#include "gpu/bfloat16.hpp"
#include "gpu/cpu/typed.hpp"
#include "gpu/error.hpp"

#include <fmt/format.h>
#include <oneapi/dnnl/dnnl.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <random>
#include <string_view>

namespace troupe::gpu::cpu {
namespace {

constexpr std::array<int64_t, 11> ladder{1, 2, 4, 8, 16, 24, 32, 48, 64, 96, matmul_rows_max};

dnnl::memory::data_type library_type(dtype type) {
  return type == dtype::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

/// Runs `call` and turns oneDNN's exception into one that says what was asked for.
template <class Call>
auto checked(std::string_view what, const Call& call) {
  try {
    return call();
  } catch (const dnnl::error& failure) {
    throw error(fmt::format("oneDNN {}: {} (status {})", what, failure.what(),
                            static_cast<int>(failure.status)));
  }
}

std::string describe(const matmul_shape& shape) {
  return fmt::format("matmul {} -> {}, {}", shape.in_features, shape.out_features,
                     shape.operand == dtype::bf16 ? "bf16" : "f32");
}

dnnl::memory::desc rows_of(int64_t rows, int64_t width, int64_t stride, dtype type) {
  return {{rows, width}, library_type(type), {stride, 1}};
}

bool processor_has_bf16() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::avx512_core_bf16:
    case dnnl::cpu_isa::avx512_core_amx:
      return true;
    default:
      return false;
  }
}

dnnl::matmul::primitive_desc make_descriptor(const dnnl::engine& engine, const matmul_shape& shape,
                                             int64_t rows, const dnnl::memory::desc& weights) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto input = rows_of(rows, shape.in_features, shape.input_stride, shape.operand);
  const auto output = rows_of(rows, shape.out_features, shape.output_stride, shape.output);
  if (!shape.has_bias) return {{input, weights, output}, attributes, engine};
  const auto bias = rows_of(1, shape.out_features, shape.out_features, dtype::f32);
  return {{input, weights, bias, output}, attributes, engine};
}

/// The layout that oneDNN wants of weights; one for all heights.
dnnl::memory::desc packed_layout(const dnnl::engine& engine, int64_t in_features,
                                 int64_t out_features, dtype operand) {
  const matmul_shape shape{in_features, out_features, false,       operand,
                           operand,     in_features,  out_features};
  const dnnl::memory::desc any({in_features, out_features}, library_type(operand),
                               dnnl::memory::format_tag::any);
  return make_descriptor(engine, shape, matmul_rows_max, any).weights_desc();
}

/// What weights of `given` are multiplied as: without bf16 arithmetic they are widened.
dtype operand_of(dtype given) {
  return given == dtype::bf16 && processor_has_bf16() ? dtype::bf16 : dtype::f32;
}

/// One row of normal values, `rows` times.
std::vector<std::byte> equal_rows(const matmul_shape& shape, int64_t rows) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto width = static_cast<size_t>(shape.in_features);
  std::vector<float> row(width);
  for (float& value : row) value = normal(random);
  std::vector<bfloat16> short_row(width);
  std::transform(row.begin(), row.end(), short_row.begin(), to_bfloat16);
  const void* source =
      shape.operand == dtype::bf16 ? static_cast<void*>(short_row.data()) : row.data();

  const int64_t stride_bytes = shape.input_stride * size_of(shape.operand);
  std::vector<std::byte> bytes(static_cast<size_t>(rows * stride_bytes));
  for (int64_t i = 0; i < rows; ++i)
    std::memcpy(bytes.data() + i * stride_bytes, source,
                width * static_cast<size_t>(size_of(shape.operand)));
  return bytes;
}

}  // namespace

namespace {

// The most inputs that oneDNN adds up before it adds them to what it has: seen, not documented, and
// checked for every shape.
constexpr std::array<int64_t, 2> library_parts{1024, 512};
// Fewer outputs could agree by chance.
constexpr int64_t outputs_to_compare = 16;

/// Elements of a block of 64 outputs, if `layout` is the one that few_rows_arguments describes;
/// else 0.
int64_t few_rows_block_elements(const dnnl::memory::desc& layout, dtype operand) {
  const auto& blocking = layout.data.format_desc.blocking;
  const bool pairs = operand == dtype::bf16;
  const int64_t inner = pairs ? 32 : 16;
  const bool known = layout.data.format_kind == dnnl_blocked &&
                     blocking.inner_nblks == (pairs ? 3 : 2) && blocking.inner_idxs[0] == 0 &&
                     blocking.inner_blks[0] == 16 && blocking.inner_idxs[1] == 1 &&
                     blocking.inner_blks[1] == few_rows_block &&
                     (!pairs || (blocking.inner_idxs[2] == 0 && blocking.inner_blks[2] == 2)) &&
                     blocking.strides[0] == inner * few_rows_block &&
                     blocking.strides[1] == layout.data.padded_dims[0] * few_rows_block;
  return known ? blocking.strides[1] : 0;
}

/// Nanoseconds that blocks of packed weights take one thread, roughly: at the rate of a core's
/// share of memory or of its arithmetic.
int64_t few_rows_block_ns(int64_t in_features, dtype operand, int64_t rows) {
  constexpr int64_t bytes_per_ns = 20, products_per_ns = 100;
  const int64_t weights = in_features * few_rows_block;
  return std::max(weights * size_of(operand) / bytes_per_ns, weights * rows / products_per_ns);
}

// Less is not worth waking a thread for.
constexpr int64_t thread_share_ns = 1500;

}  // namespace

int64_t packed_bytes(dtype type, int64_t in_features, int64_t out_features) {
  return checked("weight layout", [&] {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    const auto layout = packed_layout(engine, in_features, out_features, operand_of(type));
    return static_cast<int64_t>(layout.get_size());
  });
}

struct matmul::library {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
};

struct matmul::packed_weight {
  int64_t in_features = 0;
  int64_t out_features = 0;
  dtype given = dtype::f32;    // what the model has
  dtype operand = dtype::f32;  // what is multiplied
  dnnl::memory memory;
  tensor_view bytes;
  tensor_view bias;
  int64_t few_rows_block_elements = 0;  // 0: not in the layout that our kernel reads
};

class matmul_family {
 public:
  matmul_family(const dnnl::engine& engine, const matmul_shape& shape,
                const dnnl::memory::desc& weights, const std::vector<int64_t>& heights)
      : shape_(shape) {
    for (const int64_t rows : heights) {
      const auto descriptor = make_descriptor(engine, shape, rows, weights);
      members_.push_back({rows, dnnl::matmul(descriptor),
                          dnnl::memory(descriptor.src_desc(), engine, nullptr),
                          dnnl::memory(descriptor.dst_desc(), engine, nullptr),
                          dnnl::memory(descriptor.scratchpad_desc(), engine, nullptr)});
      scratch_bytes_ =
          std::max(scratch_bytes_, static_cast<int64_t>(descriptor.scratchpad_desc().get_size()));
    }
    if (shape.has_bias)
      bias_ = dnnl::memory(rows_of(1, shape.out_features, shape.out_features, dtype::f32), engine,
                           nullptr);
  }

  const matmul_shape& shape() const { return shape_; }
  int64_t scratch_bytes() const { return scratch_bytes_; }

  std::vector<int64_t> heights() const {
    std::vector<int64_t> heights;
    for (const auto& member : members_) heights.push_back(member.rows);
    return heights;
  }

  /// The smallest height that covers `rows`, or the largest that `room` rows hold.
  int64_t height_for(int64_t rows, int64_t room) const {
    int64_t best = members_.front().rows;
    for (const auto& member : members_) {
      if (member.rows > room) break;
      best = member.rows;
      if (best >= rows) break;
    }
    return best;
  }

  void execute(const dnnl::stream& stream, int64_t height, const dnnl::memory& weights,
               const tensor_view& bias, std::byte* output, const std::byte* input,
               std::byte* scratchpad) {
    auto& member = *std::find_if(members_.begin(), members_.end(),
                                 [&](const auto& candidate) { return candidate.rows == height; });
    member.input.set_data_handle(const_cast<std::byte*>(input));
    member.output.set_data_handle(output);
    member.scratchpad.set_data_handle(scratchpad);
    std::array<dnnl_exec_arg_t, 5> arguments{{{DNNL_ARG_SRC, member.input.get()},
                                              {DNNL_ARG_WEIGHTS, weights.get()},
                                              {DNNL_ARG_DST, member.output.get()},
                                              {DNNL_ARG_SCRATCHPAD, member.scratchpad.get()},
                                              {}}};
    int count = 4;
    if (shape_.has_bias) {
      bias_.set_data_handle(bias.data);
      arguments[4] = {DNNL_ARG_BIAS, bias_.get()};
      count = 5;
    }
    // The C call: the C++ one allocates a map for every execution.
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(member.primitive.get(), stream.get(), count, arguments.data()),
        "could not execute");
  }

 private:
  struct sized_primitive {
    int64_t rows;
    dnnl::matmul primitive;
    dnnl::memory input, output, scratchpad;
  };

  matmul_shape shape_;
  std::vector<sized_primitive> members_;  // by ascending rows
  dnnl::memory bias_;
  int64_t scratch_bytes_ = 0;
};

namespace {

/// Runs `height` rows of `input`.
using run_height = std::function<void(int64_t height, std::byte* output, const std::byte* input)>;

/// The result of one row at `height`, if it is the same at every place among equal rows; else
/// empty.
std::vector<float> result_of_equal_rows(const matmul_shape& shape, int64_t height,
                                        const std::byte* input, const run_height& run) {
  const auto width = static_cast<size_t>(shape.out_features);
  std::vector<float> output(static_cast<size_t>(height) * width);
  run(height, reinterpret_cast<std::byte*>(output.data()), input);
  for (int64_t row = 1; row < height; ++row)
    if (std::memcmp(output.data(), output.data() + static_cast<size_t>(row) * width,
                    width * sizeof(float)) != 0)
      return {};
  output.resize(width);
  return output;
}

/// The heights of the largest class that agrees bit for bit on one row, the lower ones on a tie.
/// `shape` has dense f32 results: bf16 ones are these, rounded.
std::vector<int64_t> agreeing_heights(const matmul_shape& shape, const run_height& run) {
  const auto input = equal_rows(shape, matmul_rows_max);
  std::vector<std::vector<float>> results;
  std::vector<std::vector<int64_t>> classes{{1}};  // a single row always agrees with itself
  const auto same_bits = [](const std::vector<float>& a, const std::vector<float>& b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;  // NaN equals itself
  };
  for (const int64_t height : ladder) {
    auto result = result_of_equal_rows(shape, height, input.data(), run);
    if (result.empty()) continue;
    const auto known = std::find_if(results.begin(), results.end(),
                                    [&](const auto& other) { return same_bits(result, other); });
    const auto index = static_cast<size_t>(known - results.begin());
    if (known == results.end()) {
      results.push_back(std::move(result));
      classes.resize(results.size());
      classes.back().clear();
    }
    classes[index].push_back(height);
  }
  return *std::max_element(classes.begin(), classes.end(),
                           [](const auto& a, const auto& b) { return a.size() < b.size(); });
}

}  // namespace

matmul::matmul(const kernel_table& kernels, const team& threads)
    : kernels_(kernels),
      threads_(threads),
      library_(checked("engine", [] { return std::make_unique<library>(); })) {}
matmul::~matmul() = default;

int32_t matmul::add_weight(const std::string& name, const tensor_view& weight,
                           const tensor_view& bias) {
  packed_weight packed;
  packed.out_features = weight.shape[0];
  packed.in_features = weight.shape[1];
  packed.given = weight.type;
  packed.operand = operand_of(weight.type);
  checked(fmt::format("packing of {}", name), [&] { pack(packed, name, weight); });
  if (bias.rank != 0) {
    packed.bias = make_view(memory_.take(name + " bias", packed.out_features * size_of(dtype::f32)),
                            dtype::f32, packed.out_features);
    widen_rows(packed.bias.as<float>(), bias, 1, packed.out_features);
  }
  weights_.push_back(std::move(packed));
  return static_cast<int32_t>(weights_.size()) - 1;
}

void matmul::pack(packed_weight& packed, const std::string& name, const tensor_view& weight) {
  tensor_view source = weight;
  std::vector<float> widened;
  if (packed.operand != weight.type) {
    widened.resize(static_cast<size_t>(weight.elements()));
    widen_rows(widened.data(), weight, packed.out_features, packed.in_features);
    source = make_view(widened.data(), dtype::f32, packed.out_features, packed.in_features);
  }
  const auto layout =
      packed_layout(library_->engine, packed.in_features, packed.out_features, packed.operand);
  const auto bytes = static_cast<int64_t>(layout.get_size());
  packed.bytes = make_view(memory_.take(name, bytes), dtype::u8, bytes);
  packed.memory = dnnl::memory(layout, library_->engine, packed.bytes.data);
  packed.few_rows_block_elements = few_rows_block_elements(layout, packed.operand);
  const dnnl::memory::desc plain({packed.in_features, packed.out_features},
                                 library_type(packed.operand), {1, source.row_stride});
  dnnl::memory unpacked(plain, library_->engine, source.data);
  dnnl::reorder(unpacked, packed.memory).execute(library_->stream, unpacked, packed.memory);
  library_->stream.wait();
}

void matmul::widen_rows(float* output, const tensor_view& input, int64_t rows, int64_t width) {
  const row_range all{0, rows};
  if (input.type == dtype::bf16)
    kernels_.bf16.to_float({output, width}, {input.as<bfloat16>(), input.row_stride}, width, all);
  else
    kernels_.f32.to_float({output, width}, {input.as<float>(), input.row_stride}, width, all);
}

/// One row of `input` at `height`, which must agree with the other heights in use.
std::vector<float> matmul::library_result(const matmul_shape& shape, const packed_weight& weight,
                                          int64_t height, const std::byte* input) {
  matmul_family family(library_->engine, shape, weight.memory.get_desc(), {height});
  library_scratch_.reserve(family.scratch_bytes());
  std::vector<float> rows(static_cast<size_t>(height * shape.out_features));
  family.execute(library_->stream, height, weight.memory, weight.bias,
                 reinterpret_cast<std::byte*>(rows.data()), input,
                 library_scratch_.as<std::byte>());
  library_->stream.wait();
  rows.resize(static_cast<size_t>(shape.out_features));
  return rows;
}

/// The part with which our kernel gives the bits of the agreed heights, if exactly one does, else
/// 0: where several do, the weight says too little (all zeros), and others of its shape may differ.
int64_t matmul::agreeing_part(const matmul_shape& shape, const packed_weight& weight) {
  if (shape.out_features < outputs_to_compare) return 0;
  const int64_t height = heights_of(shape, weight).front();
  const auto input = equal_rows(shape, height);
  const auto expected = library_result(shape, weight, height, input.data());
  std::vector<int64_t> parts{(shape.in_features + 1) / 2 * 2};  // all at once
  for (const int64_t part : library_parts)
    if (part < shape.in_features) parts.push_back(part);
  std::vector<int64_t> agreeing;
  std::vector<float> found(expected.size());
  for (const int64_t part : parts) {
    multiply_few_rows(shape, weight, part, reinterpret_cast<std::byte*>(found.data()), input.data(),
                      1);
    if (std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0)
      agreeing.push_back(part);
  }
  return agreeing.size() == 1 ? agreeing.front() : 0;
}

int64_t matmul::few_rows_part_of(matmul_shape shape, const packed_weight& weight) {
  shape.output = dtype::f32;
  shape.input_stride = shape.in_features;
  shape.output_stride = shape.out_features;
  const auto [known, added] = few_rows_parts_.try_emplace(shape, 0);
  if (added) known->second = agreeing_part(shape, weight);
  return known->second;
}

void matmul::multiply_few_rows(const matmul_shape& shape, const packed_weight& weight, int64_t part,
                               std::byte* output, const std::byte* input, int64_t rows) {
  const int64_t blocks = (shape.out_features + few_rows_block - 1) / few_rows_block;
  const int64_t grain =
      thread_share_ns /
      std::max<int64_t>(1, few_rows_block_ns(shape.in_features, shape.operand, rows));
  with_activation(shape.operand, [&]<class T>(T) {
    const few_rows_arguments<T> arguments{weight.bytes.as<T>(),
                                          weight.few_rows_block_elements,
                                          {reinterpret_cast<const T*>(input), shape.input_stride},
                                          output,
                                          shape.output,
                                          shape.output_stride,
                                          weight.bias.as<float>(),
                                          shape.in_features,
                                          shape.out_features,
                                          rows,
                                          part};
    threads_.for_rows(blocks, grain, [&](row_range range) {
      activations_of<T>(kernels_).multiply_few_rows(arguments, range);
    });
  });
}

std::vector<int64_t> matmul::heights_of(matmul_shape shape, const packed_weight& weight) {
  shape.output = dtype::f32;
  shape.input_stride = shape.in_features;
  shape.output_stride = shape.out_features;
  auto& heights = heights_[shape];
  if (heights.empty()) {
    matmul_family all(library_->engine, shape, weight.memory.get_desc(),
                      {ladder.begin(), ladder.end()});
    library_scratch_.reserve(all.scratch_bytes());
    heights =
        agreeing_heights(shape, [&](int64_t height, std::byte* output, const std::byte* input) {
          all.execute(library_->stream, height, weight.memory, weight.bias, output, input,
                      library_scratch_.as<std::byte>());
          library_->stream.wait();
        });
  }
  return heights;
}

std::shared_ptr<matmul_family> matmul::family_of(const matmul_shape& shape,
                                                 const packed_weight& weight) {
  auto& family = families_[shape];
  if (!family)
    family = checked(describe(shape), [&] {
      return std::make_shared<matmul_family>(library_->engine, shape, weight.memory.get_desc(),
                                             heights_of(shape, weight));
    });
  library_scratch_.reserve(family->scratch_bytes());
  return family;
}

matmul_plan matmul::prepare(int32_t index, const tensor_view& output, const tensor_view& input) {
  const packed_weight& weight = weights_.at(static_cast<size_t>(index));
  const bool widened = weight.operand != weight.given;
  matmul_shape shape{weight.in_features, weight.out_features, weight.bias.rank != 0, weight.operand,
                     output.type,        input.row_stride,    output.row_stride};
  matmul_plan plan;
  plan.weight = index;
  plan.input = input.type;
  plan.output = output.type;
  plan.input_stride_bytes = input.row_stride * size_of(input.type);
  plan.output_stride_bytes = output.row_stride * size_of(output.type);
  // Without a height of one row, a tile may be higher than the view has rows: only a buffer holds
  // it.
  plan.staged = widened || heights_of(shape, weight).front() != 1;
  if (plan.staged) {
    shape.input_stride = weight.in_features;
    shape.output_stride = weight.out_features;
    if (widened) shape.output = dtype::f32;
    input_tile_.reserve(matmul_rows_max * shape.input_stride * size_of(shape.operand));
    output_tile_.reserve(matmul_rows_max * shape.output_stride * size_of(shape.output));
  }
  plan.family = family_of(shape, weight);
  const bool has_kernel = with_activation(weight.operand, [&]<class T>(T) {
    return activations_of<T>(kernels_).multiply_few_rows != nullptr;
  });
  if (!widened && has_kernel && weight.few_rows_block_elements > 0)
    plan.few_rows_part = few_rows_part_of(shape, weight);
  return plan;
}

void matmul::run(const matmul_plan& plan, std::byte* output, const std::byte* input, int64_t rows,
                 int64_t capacity) {
  for (int64_t done = 0; done < rows;)
    done += run_tile(plan, output + done * plan.output_stride_bytes,
                     input + done * plan.input_stride_bytes, rows - done, capacity - done);
}

int64_t matmul::run_tile(const matmul_plan& plan, std::byte* output, const std::byte* input,
                         int64_t rows, int64_t room) {
  const packed_weight& weight = weights_[static_cast<size_t>(plan.weight)];
  if (plan.few_rows_part > 0 && !plan.staged && rows <= few_rows_max) {
    multiply_few_rows(plan.family->shape(), weight, plan.few_rows_part, output, input, rows);
    return rows;
  }
  const int64_t height = plan.family->height_for(rows, plan.staged ? matmul_rows_max : room);
  const int64_t done = std::min(rows, height);
  std::byte* tile_output = plan.staged ? output_tile_.as<std::byte>() : output;
  const std::byte* tile_input = plan.staged ? input_tile_.as<std::byte>() : input;
  if (plan.staged) stage_input(plan, input, done);
  checked("matmul", [&] {
    plan.family->execute(library_->stream, height, weight.memory, weight.bias, tile_output,
                         tile_input, library_scratch_.as<std::byte>());
    library_->stream.wait();
  });
  if (plan.staged) unstage_output(plan, output, done);
  return done;
}

void matmul::stage_input(const matmul_plan& plan, const std::byte* input, int64_t rows) {
  const matmul_shape& shape = plan.family->shape();
  const int64_t row_bytes = shape.in_features * size_of(shape.operand);
  for (int64_t row = 0; row < rows; ++row) {
    const std::byte* from = input + row * plan.input_stride_bytes;
    std::byte* to = input_tile_.as<std::byte>() + row * row_bytes;
    if (plan.input == shape.operand)
      std::memcpy(to, from, static_cast<size_t>(row_bytes));
    else
      kernels_.bf16.to_float({reinterpret_cast<float*>(to), 0},
                             {reinterpret_cast<const bfloat16*>(from), 0}, shape.in_features,
                             {0, 1});
  }
}

void matmul::unstage_output(const matmul_plan& plan, std::byte* output, int64_t rows) {
  const matmul_shape& shape = plan.family->shape();
  const int64_t row_bytes = shape.out_features * size_of(shape.output);
  for (int64_t row = 0; row < rows; ++row) {
    const std::byte* from = output_tile_.as<std::byte>() + row * row_bytes;
    std::byte* to = output + row * plan.output_stride_bytes;
    if (plan.output == shape.output)
      std::memcpy(to, from, static_cast<size_t>(row_bytes));
    else
      kernels_.bf16.from_float({reinterpret_cast<bfloat16*>(to), 0},
                               {reinterpret_cast<const float*>(from), 0}, shape.out_features,
                               {0, 1});
  }
}

tensor_view matmul::packed(int32_t weight) const {
  return weights_.at(static_cast<size_t>(weight)).bytes;
}
tensor_view matmul::bias(int32_t weight) const {
  return weights_.at(static_cast<size_t>(weight)).bias;
}

}  // namespace troupe::gpu::cpu
