#include "gpu/cpu/cpu_operations.hpp"

#include "config/ensure.hpp"
#include "gpu/cpu/live_rows.hpp"
#include "gpu/cpu/typed.hpp"
#include "gpu/described.hpp"
#include "gpu/error.hpp"
#include "gpu/operands.hpp"

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

void cpu_operations::issue(baked_operation description, std::function<void()> run) {
  if (!recording_) return run();
  recording_->baked.append(std::move(description));
  recording_->program.push_back(std::move(run));
}

// Linear.
linear_weight cpu_operations::prepare_linear(const std::string& name, const host_matrix& weight,
                                             const host_matrix& bias) {
  config::ensure(recording_ == nullptr, "weight {} is prepared inside a capture", name);
  described::expect_linear_weight(name, weight, bias);
  return {context_->products.add_weight(name, weight.load().view, bias.load().view), weight.width(),
          weight.rows()};
}

void cpu_operations::linear(tensor_view output, tensor_view input, const linear_weight& weight,
                            live_count rows) {
  auto description =
      described::linear(output, input, weight, context_->products.packed(weight.index),
                        context_->products.bias(weight.index), rows);
  const auto plan = context_->products.prepare(weight.index, output, input);
  issue(std::move(description), [context = context_.get(), plan, output, input, rows] {
    context->products.run(plan, output.data, input.data, live_rows(rows, output.rows()),
                          output.rows());
  });
}

void cpu_operations::gated_linear(tensor_view output, tensor_view gate_up, tensor_view input,
                                  const linear_weight& weight, live_count rows) {
  auto description = described::gated_linear(output, gate_up, input, weight,
                                             context_->products.packed(weight.index),
                                             context_->products.bias(weight.index), rows);
  const auto plan = context_->products.prepare(weight.index, gate_up, input);
  with_activation(output.type, [&]<class T>(T) {
    const unary_arguments<T> gate{rows_of<T>(output), rows_of<const T>(gate_up), output.width()};
    issue(std::move(description),
          [context = context_.get(), plan, gate_up, input, gate, rows, capacity = output.rows()] {
            const int64_t live = live_rows(rows, capacity);
            context->products.run(plan, gate_up.data, input.data, live, capacity);
            context->threads.for_rows(live, row_grain(4 * gate.width), [&](row_range range) {
              activations_of<T>(context->kernels).silu_and_mul(gate, range);
            });
          });
  });
}

// Rows by index.
void cpu_operations::embed(tensor_view output, tensor_view resolved_ids, tensor_view token_ids,
                           tensor_view sampled, tensor_view table, const visual_slot& slot,
                           live_count tokens) {
  auto description =
      described::embed(output, resolved_ids, token_ids, sampled, table, slot, tokens);
  const tensor_view level = slot.pool.at(0);
  issue(std::move(description), [=, row_map = slot.row_map] {
    for (int64_t i = 0; i < live_rows(tokens, output.rows()); ++i) {
      const int64_t given = token_ids.as<int32_t>()[i];
      const int64_t from_step = -1 - given;
      int64_t id = given;
      if (given < 0) id = from_step < sampled.elements() ? sampled.as<int32_t>()[from_step] : 0;
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
  issue(described::gather_rows(output, input, row_index, rows), [=] {
    for (int64_t i = 0; i < live_rows(rows, output.rows()); ++i) {
      const int64_t row = row_index.as<int32_t>()[i];
      copy_row(output, i, input, has_row(input, row) ? row : 0);
    }
  });
}

void cpu_operations::scatter_rows(tensor_view pool_level, tensor_view input,
                                  tensor_view destination, live_count rows) {
  issue(described::scatter_rows(pool_level, input, destination, rows), [=] {
    for (int64_t i = 0; i < live_rows(rows, input.rows()); ++i) {
      const int64_t row = destination.as<int32_t>()[i];
      if (has_row(pool_level, row)) copy_row(pool_level, row, input, i);
    }
  });
}

// Row by row.
void cpu_operations::rms_norm(tensor_view output, tensor_view input, tensor_view weight,
                              float epsilon, live_count rows) {
  auto description = described::rms_norm(output, input, weight, epsilon, rows);
  with_activation(output.type, [&]<class T>(T) {
    const norm_arguments<T> arguments{rows_of<T>(output), rows_of<const T>(input),
                                      weight.as<T>(),     nullptr,
                                      output.width(),     epsilon};
    issue(std::move(description),
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
  auto description = described::layer_norm(output, input, weight, bias, epsilon, rows);
  with_activation(output.type, [&]<class T>(T) {
    const norm_arguments<T> arguments{rows_of<T>(output), rows_of<const T>(input), weight.as<T>(),
                                      bias.as<T>(),       output.width(),          epsilon};
    issue(std::move(description),
          [context = context_.get(), arguments, rows, capacity = output.rows()] {
            context->threads.for_rows(
                live_rows(rows, capacity), row_grain(arguments.width), [&](row_range range) {
                  activations_of<T>(context->kernels).layer_norm(arguments, range);
                });
          });
  });
}

void cpu_operations::gelu(tensor_view output, tensor_view input, gelu_kind kind, live_count rows) {
  auto description = described::gelu(output, input, kind, rows);
  const bool tanh = kind == gelu_kind::tanh;
  with_activation(output.type, [&]<class T>(T) {
    const unary_arguments<T> arguments{rows_of<T>(output), rows_of<const T>(input), output.width()};
    issue(std::move(description),
          [context = context_.get(), arguments, tanh, rows, capacity = output.rows()] {
            const auto& kernels = activations_of<T>(context->kernels);
            context->threads.for_rows(live_rows(rows, capacity), row_grain(4 * arguments.width),
                                      [&, function = tanh ? kernels.gelu_tanh : kernels.gelu_erf](
                                          row_range range) { function(arguments, range); });
          });
  });
}

void cpu_operations::add(tensor_view x, tensor_view y, live_count rows) {
  auto description = described::add(x, y, rows);
  with_activation(x.type, [&]<class T>(T) {
    const unary_arguments<T> arguments{rows_of<T>(x), rows_of<const T>(y), x.width()};
    issue(std::move(description), [context = context_.get(), arguments, rows, capacity = x.rows()] {
      context->threads.for_rows(
          live_rows(rows, capacity), row_grain(arguments.width),
          [&](row_range range) { activations_of<T>(context->kernels).add(arguments, range); });
    });
  });
}

}  // namespace cpu

int64_t cpu_weight_bytes(dtype type, int64_t in_features, int64_t out_features) {
  return cpu::packed_bytes(type, in_features, out_features);
}

std::unique_ptr<operations> make_cpu_operations(const cpu_options& options) {
  if (options.num_threads < 1)
    throw error(fmt::format("a team of {} threads, expected at least 1", options.num_threads));
  return std::make_unique<cpu::cpu_operations>(options,
                                               cpu::kernels_of(cpu::best_instruction_set()));
}

}  // namespace troupe::gpu
