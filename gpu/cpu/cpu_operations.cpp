#include "gpu/cpu/cpu_operations.hpp"

#include "config/ensure.hpp"
#include "gpu/cpu/operands.hpp"
#include "gpu/cpu/typed.hpp"
#include "gpu/error.hpp"

#include <cstring>
#include <utility>

namespace troupe::gpu {
namespace cpu {
namespace {

/// A recorded list of closures. Shares what they use.
class closure_list final : public executable {
 public:
  closure_list(std::shared_ptr<context> used, std::vector<std::function<void()>> closures)
      : used_(std::move(used)), closures_(std::move(closures)) {}

  void launch() override {
    for (const auto& closure : closures_) closure();
  }

 private:
  std::shared_ptr<context> used_;
  std::vector<std::function<void()>> closures_;
};

/// Rows that make it worth waking a thread, for kernels that touch each element a few times.
int64_t row_grain(int64_t width) {
  constexpr int64_t elements = 16 * 1024;
  return std::max<int64_t>(1, elements / std::max<int64_t>(1, width));
}

void copy_row(const tensor_view& to, int64_t to_row, const tensor_view& from, int64_t from_row) {
  std::memcpy(to.data + to_row * to.row_stride * size_of(to.type),
              from.data + from_row * from.row_stride * size_of(from.type),
              static_cast<size_t>(to.width() * size_of(to.type)));
}

/// Whether `row` is one of `view`'s.
bool has_row(const tensor_view& view, int64_t row) {
  return row >= 0 && row < view.rows();
}

}  // namespace

cpu_operations::cpu_operations(const cpu_options& options, const kernel_table& kernels)
    : context_(std::make_shared<context>(options, kernels)) {}

// Recording.
void cpu_operations::begin_capture(std::vector<arena_lease> arenas) {
  config::ensure(recording_ == nullptr, "a capture begins inside a capture");
  for (auto& lease : context_->products.leases()) arenas.push_back(std::move(lease));
  recording_ = std::make_unique<recording>(recording{manifest(std::move(arenas)), {}});
}

captured_graph cpu_operations::end_capture(std::string name) {
  config::ensure(recording_ != nullptr, "capture {} ends, but none began", name);
  const auto ended = std::move(recording_);
  return {std::move(name), std::move(ended->baked),
          std::make_unique<closure_list>(context_, std::move(ended->program))};
}

void cpu_operations::issue(const char* name, std::string parameters,
                           std::initializer_list<baked_operand> operands,
                           std::function<void()> run) {
  if (!recording_) return run();
  issue({name, std::move(parameters), operands}, std::move(run));
}

void cpu_operations::issue(baked_operation description, std::function<void()> run) {
  if (!recording_) return run();
  recording_->baked.append(std::move(description));
  recording_->program.push_back(std::move(run));
}

// Linear.
linear_weight cpu_operations::prepare_linear(const std::string& name, tensor_view weight,
                                             tensor_view bias) {
  config::ensure(recording_ == nullptr, "weight {} is prepared inside a capture", name);
  expect_activation(name, weight);
  expect(weight.rank == 2 && weight.elements() > 0, "{} is {}, expected a matrix", name,
         shape_text(weight));
  if (bias.rank != 0) {
    expect_activation(name + " bias", bias);
    expect(bias.elements() == weight.shape[0], "{} has a bias of {} elements, expected {}", name,
           bias.elements(), weight.shape[0]);
  }
  return {context_->products.add_weight(name, weight, bias), weight.shape[1], weight.shape[0]};
}

void cpu_operations::linear(tensor_view output, tensor_view input, const linear_weight& weight,
                            live_count rows) {
  expect_activation("linear output", output);
  expect_width("linear input", input, weight.in_features);
  expect_width("linear output", output, weight.out_features);
  expect_rows("linear input", input, output.rows());
  const auto plan = context_->products.prepare(weight.index, output, input);
  baked_operation description{
      "linear",
      fmt::format("{} -> {}", shape_text(input), shape_text(output)),
      {writes(output), reads(input), reads(context_->products.packed(weight.index)), reads(rows)}};
  const tensor_view bias = context_->products.bias(weight.index);
  if (bias.rank != 0) description.operands.push_back(reads(bias));
  issue(std::move(description), [context = context_.get(), plan, output, input, rows] {
    context->products.run(plan, output.data, input.data, live_rows(rows, output.rows()),
                          output.rows());
  });
}

// Rows by index.
void cpu_operations::embed(tensor_view output, tensor_view resolved_ids, tensor_view token_ids,
                           tensor_view sampled, tensor_view table, const visual_slot& slot,
                           live_count tokens) {
  const int64_t capacity = output.rows();
  expect_activation("embed output", output);
  expect_type("embedding table", table, output.type);
  expect_type("visual pool", slot.pool, output.type);
  expect_width("embedding table", table, output.width());
  expect_width("visual pool", slot.pool, output.width());
  expect_rows("embedding table", table, 1);
  for (const auto& ids : {resolved_ids, token_ids, slot.row_map}) {
    expect_type("embed ids", ids, dtype::i32);
    expect_elements("embed ids", ids, capacity);
  }
  expect_type("sampled ids", sampled, dtype::i32);
  const tensor_view level = slot.pool.at(0);
  issue("embed", fmt::format("{} from {}", shape_text(output), shape_text(table)),
        {writes(output), writes(resolved_ids), reads(token_ids), reads(sampled), reads(table),
         reads(level), reads(slot.row_map), reads(tokens)},
        [=, row_map = slot.row_map] {
          for (int64_t i = 0; i < live_rows(tokens, capacity); ++i) {
            const int64_t given = token_ids.as<int32_t>()[i];
            const int64_t from_step = -1 - given;
            int64_t id = given;
            if (given < 0)
              id = from_step < sampled.elements() ? sampled.as<int32_t>()[from_step] : 0;
            resolved_ids.as<int32_t>()[i] = static_cast<int32_t>(id);
            const int64_t visual = row_map.as<int32_t>()[i];
            if (has_row(level, visual))
              copy_row(output, i, level, visual);
            else
              copy_row(output, i, table, has_row(table, id) ? id : 0);
          }
        });
}

void cpu_operations::gather_rows(tensor_view output, tensor_view input, tensor_view row_index,
                                 live_count rows) {
  expect_type("gather input", input, output.type);
  expect_width("gather input", input, output.width());
  expect_rows("gather input", input, 1);
  expect_type("gather index", row_index, dtype::i32);
  expect_elements("gather index", row_index, output.rows());
  issue("gather_rows", fmt::format("{} from {}", shape_text(output), shape_text(input)),
        {writes(output), reads(input), reads(row_index), reads(rows)}, [=] {
          for (int64_t i = 0; i < live_rows(rows, output.rows()); ++i) {
            const int64_t row = row_index.as<int32_t>()[i];
            copy_row(output, i, input, has_row(input, row) ? row : 0);
          }
        });
}

void cpu_operations::scatter_rows(tensor_view pool_level, tensor_view input,
                                  tensor_view destination, live_count rows) {
  expect_type("scatter input", input, pool_level.type);
  expect_width("scatter input", input, pool_level.width());
  expect_type("scatter destination", destination, dtype::i32);
  expect_elements("scatter destination", destination, input.rows());
  issue("scatter_rows", fmt::format("{} to {}", shape_text(input), shape_text(pool_level)),
        {updates(pool_level), reads(input), reads(destination), reads(rows)}, [=] {
          for (int64_t i = 0; i < live_rows(rows, input.rows()); ++i) {
            const int64_t row = destination.as<int32_t>()[i];
            if (has_row(pool_level, row)) copy_row(pool_level, row, input, i);
          }
        });
}

// Row by row.
void cpu_operations::rms_norm(tensor_view output, tensor_view input, tensor_view weight,
                              float epsilon, live_count rows) {
  expect_activation("rms_norm output", output);
  expect_type("rms_norm input", input, output.type);
  expect_type("rms_norm weight", weight, output.type);
  expect_width("rms_norm input", input, output.width());
  expect_width("rms_norm weight", weight, output.width());
  expect_rows("rms_norm input", input, output.rows());
  with_activation(output.type, [&]<class T>(T) {
    const norm_arguments<T> arguments{rows_of<T>(output), rows_of<const T>(input),
                                      weight.as<T>(),     nullptr,
                                      output.width(),     epsilon};
    issue("rms_norm", fmt::format("{} epsilon={}", shape_text(output), epsilon),
          {writes(output), reads(input), reads(weight), reads(rows)},
          [context = context_.get(), arguments, rows, capacity = output.rows()] {
            context->threads.for_rows(
                live_rows(rows, capacity), row_grain(arguments.width), [&](row_range range) {
                  activations_of<T>(context->kernels).rms_norm(arguments, range);
                });
          });
  });
}

void cpu_operations::layer_norm(tensor_view output, tensor_view input, tensor_view weight,
                                tensor_view bias, float epsilon, live_count rows) {
  expect_activation("layer_norm output", output);
  for (const auto& operand : {input, weight, bias}) {
    expect_type("layer_norm operand", operand, output.type);
    expect_width("layer_norm operand", operand, output.width());
  }
  expect_rows("layer_norm input", input, output.rows());
  with_activation(output.type, [&]<class T>(T) {
    const norm_arguments<T> arguments{rows_of<T>(output), rows_of<const T>(input), weight.as<T>(),
                                      bias.as<T>(),       output.width(),          epsilon};
    issue("layer_norm", fmt::format("{} epsilon={}", shape_text(output), epsilon),
          {writes(output), reads(input), reads(weight), reads(bias), reads(rows)},
          [context = context_.get(), arguments, rows, capacity = output.rows()] {
            context->threads.for_rows(
                live_rows(rows, capacity), row_grain(arguments.width), [&](row_range range) {
                  activations_of<T>(context->kernels).layer_norm(arguments, range);
                });
          });
  });
}

void cpu_operations::silu_and_mul(tensor_view output, tensor_view gate_up, live_count rows) {
  expect_activation("silu_and_mul output", output);
  expect_type("gate_up", gate_up, output.type);
  expect_width("gate_up", gate_up, 2 * output.width());
  expect_rows("gate_up", gate_up, output.rows());
  with_activation(output.type, [&]<class T>(T) {
    const unary_arguments<T> arguments{rows_of<T>(output), rows_of<const T>(gate_up),
                                       output.width()};
    issue("silu_and_mul", shape_text(output), {writes(output), reads(gate_up), reads(rows)},
          [context = context_.get(), arguments, rows, capacity = output.rows()] {
            context->threads.for_rows(
                live_rows(rows, capacity), row_grain(4 * arguments.width), [&](row_range range) {
                  activations_of<T>(context->kernels).silu_and_mul(arguments, range);
                });
          });
  });
}

void cpu_operations::gelu(tensor_view output, tensor_view input, gelu_kind kind, live_count rows) {
  expect_activation("gelu output", output);
  expect_type("gelu input", input, output.type);
  expect_width("gelu input", input, output.width());
  expect_rows("gelu input", input, output.rows());
  const bool tanh = kind == gelu_kind::tanh;
  with_activation(output.type, [&]<class T>(T) {
    const unary_arguments<T> arguments{rows_of<T>(output), rows_of<const T>(input), output.width()};
    issue(tanh ? "gelu_tanh" : "gelu_erf", shape_text(output),
          {writes(output), reads(input), reads(rows)},
          [context = context_.get(), arguments, tanh, rows, capacity = output.rows()] {
            const auto& kernels = activations_of<T>(context->kernels);
            context->threads.for_rows(live_rows(rows, capacity), row_grain(4 * arguments.width),
                                      [&, function = tanh ? kernels.gelu_tanh : kernels.gelu_erf](
                                          row_range range) { function(arguments, range); });
          });
  });
}

void cpu_operations::add(tensor_view x, tensor_view y, live_count rows) {
  expect_activation("add target", x);
  expect_type("add operand", y, x.type);
  expect_width("add operand", y, x.width());
  expect_rows("add operand", y, x.rows());
  with_activation(x.type, [&]<class T>(T) {
    const unary_arguments<T> arguments{rows_of<T>(x), rows_of<const T>(y), x.width()};
    issue("add", shape_text(x), {updates(x), reads(y), reads(rows)},
          [context = context_.get(), arguments, rows, capacity = x.rows()] {
            context->threads.for_rows(live_rows(rows, capacity), row_grain(arguments.width),
                                      [&](row_range range) {
                                        activations_of<T>(context->kernels).add(arguments, range);
                                      });
          });
  });
}

}  // namespace cpu

std::unique_ptr<operations> make_cpu_operations(const cpu_options& options) {
  if (options.num_threads < 1)
    throw error(fmt::format("a team of {} threads, expected at least 1", options.num_threads));
  return std::make_unique<cpu::cpu_operations>(options,
                                               cpu::kernels_of(cpu::best_instruction_set()));
}

}  // namespace troupe::gpu
