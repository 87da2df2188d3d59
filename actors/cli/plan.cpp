#include "actors/cli/commands.hpp"
#include "actors/cli/offline_model.hpp"
#include "actors/cli/progress.hpp"
#include "actors/cli/settings.hpp"
#include "actors/placement.hpp"
#include "model/engine_limits.hpp"
#include "model/memory_plan.hpp"
#include "model/weights/model_weights.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

namespace troupe::cli {
namespace {

struct plan_options {
  setting_options settings;
  std::string shape;
  std::string memory;
};

/// "24G" or a plain number; decimal units.
int64_t parse_bytes(const std::string& text) {
  size_t used = 0;
  const double number = std::stod(text, &used);
  const auto unit = std::string("kMGT").find(text.substr(used, 1));
  double bytes = number;
  if (used < text.size())
    for (size_t i = 0; i <= unit; ++i) bytes *= 1000;
  return static_cast<int64_t>(bytes);
}

void print_table(const std::vector<model::planned_memory>& rows) {
  int64_t total = 0;
  fmt::print("{:<20}{:>12}{:>8}{:>12}  {}\n", "owner", "each", "times", "together", "");
  for (const auto& row : rows) {
    fmt::print("{:<20}{:>12}{:>8}{:>12}  {}\n", row.owner, format_bytes(row.bytes), row.instances,
               format_bytes(row.total_bytes()), row.note);
    total += row.total_bytes();
  }
  fmt::print("{:<20}{:>12}{:>8}{:>12}\n", "total", "", "", format_bytes(total));
}

void print_room(const config::text_config& text, const model::engine_limits& limits,
                const std::vector<model::planned_memory>& rows, int64_t available) {
  const auto& plan = limits.plan;
  const int64_t spare = available - model::fixed_bytes(rows);
  const int64_t blocks = std::max<int64_t>(0, spare / (limits.kv_block_bytes * limits.tp_size) - 1);
  const int64_t tokens = blocks * plan.block_size;
  fmt::print("\n{} are there for all of it; beside everything but the KV cache {} remain:\n",
             format_bytes(available), format_bytes(std::max<int64_t>(0, spare)));
  fmt::print("  room for {} tokens of context in all\n", tokens);
  fmt::print("  largest context of one sequence: {} (the model's limit is {})\n",
             std::min(tokens, text.max_position_embeddings), text.max_position_embeddings);
  fmt::print("  sequences of {} tokens at once: {}\n", plan.max_model_len,
             tokens / plan.max_model_len);
}

config::checkpoint_config checkpoint_of(const plan_options& options,
                                        const config::engine_config& engine) {
  if (!options.shape.empty()) return shape_checkpoint(config::named_model_config(options.shape));
  auto checkpoint = config::read_checkpoint_config(engine);
  model::check_tensors(model::safetensors_folder(checkpoint.folder), checkpoint.model);
  return checkpoint;
}

int plan(const plan_options& options) {
  const auto settings = options.settings.load().value;
  const auto where = actors::place(settings);
  const auto engine = actors::with_device_defaults(settings, where.device);
  const auto checkpoint = checkpoint_of(options, engine);
  const int64_t available =
      options.memory.empty() ? actors::free_memory_bytes(where) : parse_bytes(options.memory);
  const auto limits = actors::limits_within(available, where, engine, checkpoint);
  const auto rows = model::plan_memory(checkpoint.model, limits, where.tensor_memory());
  print_table(rows);
  print_room(checkpoint.model.text, limits, rows, available);
  return 0;
}

}  // namespace

void add_plan(CLI::App& program, action& chosen) {
  auto* command = program.add_subcommand("plan", "Where every byte would go, and what would fit");
  auto options = std::make_shared<plan_options>();
  options->settings.add_to(*command);
  command->add_option("--shape", options->shape,
                      "a released shape instead of a folder: 2b, 4b, 8b, ...");
  command
      ->add_option("--memory", options->memory,
                   "plan for this much instead of what is free, e.g. 80G")
      ->check(CLI::Validator(
          [](std::string& text) {
            const bool valid = !text.empty() &&
                               text.find_first_not_of("0123456789.") >= text.size() - 1 &&
                               std::string("0123456789kMGT").find(text.back()) != std::string::npos;
            return valid ? std::string() : "expected a number with k, M, G or T";
          },
          "BYTES"));
  command->callback([&chosen, options] { chosen = [options] { return plan(*options); }; });
}

}  // namespace troupe::cli
