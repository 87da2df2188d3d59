#include "model/vision/vision_runner.hpp"

#include "config/ensure.hpp"
#include "gpu/error.hpp"
#include "model/arena_builder.hpp"
#include "model/graph_family.hpp"
#include "model/vision/vision_inputs.hpp"
#include "model/vision/vision_slices.hpp"
#include "model/vision/vision_tower.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <utility>

namespace troupe::model {
namespace {

// Of the smallest budget: fewer do not fill a matmul tile, so smaller budgets would save nothing.
constexpr int32_t smallest_budget_merged_rows = 16;

/// Doubling budgets below `max_patches`, then `max_patches` itself: a run pads to at most twice its
/// size. All are multiples of `merge_unit`.
std::vector<int32_t> make_patch_budgets(int32_t max_patches, int32_t merge_unit) {
  std::vector<int32_t> budgets;
  for (int64_t budget = smallest_budget_merged_rows * merge_unit; budget < max_patches; budget *= 2)
    budgets.push_back(static_cast<int32_t>(budget));
  budgets.push_back(max_patches);
  return budgets;
}

void check_item(const encode_item& item, const config::vision_config& config, gpu::dtype type,
                int32_t pool_rows) {
  const patch_grid& grid = item.grid;
  const int32_t merge = config.spatial_merge_size;
  if (grid.t < 1 || grid.height < 1 || grid.width < 1 || grid.height % merge != 0 ||
      grid.width % merge != 0)
    throw std::invalid_argument(
        fmt::format("encode: grid {}x{}x{}, expected sides over 0 and multiples of {}", grid.t,
                    grid.height, grid.width, merge));
  const int64_t bytes = int64_t{grid.patches()} * config.patch_width() * gpu::size_of(type);
  if (std::ssize(item.pixels) != bytes)
    throw std::invalid_argument(fmt::format("encode: {} bytes of pixels, expected {} for {} patches",
                                            item.pixels.size(), bytes, grid.patches()));
  const auto rows = static_cast<size_t>(grid.visual_tokens(merge));
  if (item.destination_rows.size() != rows)
    throw std::invalid_argument(fmt::format("encode: {} destination rows, expected {}",
                                            item.destination_rows.size(), rows));
  for (const int32_t row : item.destination_rows)
    if (row < 0 || row >= pool_rows)
      throw std::invalid_argument(
          fmt::format("encode: destination row {} in a pool of {} rows", row, pool_rows));
}

struct run_size {
  int32_t patches = 0;
  int32_t segments = 0;
};

run_size check_items(const std::vector<encode_item>& items, const config::vision_config& config,
                     const vision_options& options, int32_t pool_rows) {
  int64_t patches = 0;
  int64_t segments = 0;
  for (const auto& item : items) {
    check_item(item, config, options.activation, pool_rows);
    patches += item.grid.patches();
    segments += item.grid.t;
  }
  if (patches > options.max_patches || segments > options.max_segments)
    throw std::invalid_argument(fmt::format("encode: {} patches in {} frames, a run holds {} in {}",
                                            patches, segments, options.max_patches,
                                            options.max_segments));
  return {static_cast<int32_t>(patches), static_cast<int32_t>(segments)};
}

/// The smallest picture, a single merge block. It warms a graph of any budget, since every kernel
/// is launched for the budget whatever the live count says.
patch_grid warm_up_grid(const config::vision_config& config) {
  return {1, config.spatial_merge_size, config.spatial_merge_size};
}

/// Vision graphs that leave a level of the pool as it was would serve another picture's detail.
void require_pool_written(const bucket_manifests& baked, const gpu::tensor_view& pool) {
  for (int64_t level = 0; level < pool.shape[0]; ++level)
    if (std::none_of(baked.begin(), baked.end(), [&](const gpu::manifest* slice) {
          return slice->writes(pool.at(level));
        }))
      throw gpu::error(
          fmt::format("vision graphs do not write level {} of the visual pool", level));
}

}  // namespace

struct vision_runner::state {
  std::unique_ptr<gpu::operations> backend;
  config::vision_config config;
  vision_options options;
  visual_pool pool;
  vision_inputs inputs;
  vision_tower tower;
  std::optional<graph_family> graphs;  // made by `capture`

  int32_t budget = 0;      // of the run that began last
  int32_t next_slice = 0;  // of it
  int32_t num_slices = 0;  // of it; all issued: no run is under way
  bool bounded = false;    // its slices

  std::vector<part_range> slices_of(int32_t budget_patches) const {
    return cut_slices(tower.part_flops(budget_patches), options.max_slice_flops);
  }
  std::vector<const gpu::arena*> arenas() const;
  std::vector<gpu::arena_lease> leases() const;
  void load_warm_up();
};

vision_runner::vision_runner(std::unique_ptr<gpu::operations> operations,
                             const config::model_config& model, vision_weights weights,
                             visual_pool pool, vision_options options) {
  const config::vision_config& config = model.vision;
  config::ensure(options.max_patches > 0 && options.max_segments > 0,
                 "{} patches in {} frames per run", options.max_patches, options.max_segments);
  config::ensure(pool.view().type == options.activation,
                 "the visual pool has dtype {}, the activations have {}",
                 static_cast<int>(pool.view().type), static_cast<int>(options.activation));
  const int32_t unit = config.merge_unit();
  options.max_patches = (options.max_patches + unit - 1) / unit * unit;
  auto& backend = *operations;
  const gpu::tensor_view pool_view = pool.view();
  vision_inputs inputs(config, options, backend);
  vision_tower tower(backend, config, weights, inputs.views(), pool_view, options);
  state_ = std::make_unique<state>(state{std::move(operations), config, options, std::move(pool),
                                         std::move(inputs), std::move(tower), std::nullopt});
}
vision_runner::~vision_runner() = default;

void vision_runner::capture(const std::function<void(int32_t, int32_t)>& progress) {
  auto& self = *state_;
  config::ensure(!self.graphs, "graphs are captured twice");
  graph_recipe recipe;
  recipe.load_warm_up = [&](int32_t) { self.load_warm_up(); };
  recipe.num_slices = [&](int32_t budget) {
    return static_cast<int32_t>(self.slices_of(budget).size());
  };
  recipe.issue = [&self](int32_t budget, int32_t slice) {
    self.tower.issue(budget, self.slices_of(budget)[static_cast<size_t>(slice)]);
  };
  recipe.check = [&](const bucket_manifests& baked) {
    require_pool_written(baked, self.pool.view());
  };
  recipe.progress = progress;
  self.graphs.emplace("vision", *self.backend,
                      make_patch_budgets(self.options.max_patches, self.config.merge_unit()),
                      self.leases(), self.options.eager, recipe);
}

void vision_runner::require_fitting(const std::vector<encode_item>& items) const {
  check_items(items, state_->config, state_->options, state_->pool.rows());
}

void vision_runner::begin(const std::vector<encode_item>& items) {
  auto& self = *state_;
  config::ensure(self.graphs.has_value(), "pictures are encoded before graphs are captured");
  config::ensure(slices_left() == 0, "a run begins while {} slices of another are left",
                 slices_left());
  const run_size size = check_items(items, self.config, self.options, self.pool.rows());
  self.graphs->require_current();
  self.inputs.load(*self.backend, items);
  self.budget = self.graphs->bucket_for(size.patches);
  self.bounded = model::slices_are_bounded(self.tower.part_flops(self.budget),
                                           self.options.max_slice_flops);
  self.next_slice = 0;
  self.num_slices = self.graphs->num_slices(self.budget);
}

int32_t vision_runner::slices_left() const {
  return state_->num_slices - state_->next_slice;
}

bool vision_runner::slices_are_bounded() const {
  return state_->bounded;
}

std::unique_ptr<gpu::milestone> vision_runner::issue_slice() {
  auto& self = *state_;
  config::ensure(slices_left() > 0, "no slice is left to issue");
  const int32_t slice = self.next_slice;
  abandon();  // unless this succeeds
  self.graphs->run_slice(self.budget, slice);
  auto issued = self.backend->mark();
  self.next_slice = slice + 1;
  return issued;
}

void vision_runner::abandon() {
  state_->next_slice = state_->num_slices;
}

void vision_runner::wait_for(const gpu::milestone& earlier) {
  state_->backend->wait_for(earlier);
}

void vision_runner::encode(const std::vector<encode_item>& items) {
  begin(items);
  while (slices_left() > 0) issue_slice();
  state_->backend->synchronize();
}

std::vector<gpu::ledger_entry> vision_runner::ledger() const {
  return ledger_of(*state_->backend, state_->arenas());
}

std::vector<const gpu::arena*> vision_runner::state::arenas() const {
  std::vector<const gpu::arena*> all = inputs.arenas();
  for (const auto& arena : tower.arenas()) all.push_back(&arena);
  return all;
}

std::vector<gpu::arena_lease> vision_runner::state::leases() const {
  std::vector<gpu::arena_lease> all{pool.lease()};
  for (const gpu::arena* arena : arenas()) all.push_back(arena->lease());
  return all;
}

void vision_runner::state::load_warm_up() {
  const patch_grid grid = warm_up_grid(config);
  const int64_t bytes = int64_t{grid.patches()} * config.patch_width() * gpu::size_of(options.activation);
  const std::vector<std::byte> black(static_cast<size_t>(bytes));
  inputs.load(*backend, {{grid, black, {-1}}});  // destination -1: nothing is written
  backend->synchronize();                        // the pixels have been read
}

}  // namespace troupe::model
