#include "model/graph_family.hpp"

#include "config/ensure.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace troupe::model {

graph_family::graph_family(std::string name, gpu::operations& backend, std::vector<int32_t> buckets,
                           std::vector<gpu::arena_lease> arenas, bool eager,
                           const graph_recipe& recipe)
    : name_(std::move(name)), arenas_(std::move(arenas)) {
  const auto total = static_cast<int32_t>(buckets.size());
  // The largest first: it finds the working memory that serves all.
  std::sort(buckets.rbegin(), buckets.rend());
  for (int32_t done = 0; done < total; ++done) {
    const int32_t bucket = buckets[static_cast<size_t>(done)];
    graphs_.emplace(bucket, make_graphs(backend, bucket, eager, recipe));
    if (recipe.progress) recipe.progress(done + 1, total);
  }
}

graph_family::bucket_graphs graph_family::make_graphs(gpu::operations& backend, int32_t bucket,
                                                      bool eager,
                                                      const graph_recipe& recipe) const {
  const int32_t count = recipe.num_slices ? recipe.num_slices(bucket) : 1;
  config::ensure(count > 0, "{} has {} slices of bucket {}", name_, count, bucket);
  recipe.load_warm_up(bucket);
  bucket_graphs made;
  for (int32_t slice = 0; slice < count; ++slice) {
    auto name = count == 1 ? fmt::format("{}[{}]", name_, bucket)
                           : fmt::format("{}[{}] slice {} of {}", name_, bucket, slice + 1, count);
    made.push_back(make_graph(
        backend, std::move(name), [issue = recipe.issue, bucket, slice] { issue(bucket, slice); },
        eager, recipe));
  }
  if (eager) return made;
  bucket_manifests baked;
  for (const auto& slice : made) baked.push_back(&slice.captured->baked());
  recipe.check(baked);
  return made;
}

graph_family::slice_graph graph_family::make_graph(gpu::operations& backend, std::string name,
                                                   std::function<void()> issue, bool eager,
                                                   const graph_recipe& recipe) const {
  gpu::warm_graph warm = gpu::cold_graph(std::move(name), std::move(issue)).warm(backend);
  if (recipe.check_run) recipe.check_run();
  if (eager) return {std::move(warm), std::nullopt};
  gpu::captured_graph captured = warm.capture(backend, arenas_);
  return {std::move(warm), std::move(captured)};
}

int32_t graph_family::bucket_for(int32_t count) const {
  const auto found = graphs_.lower_bound(count);
  config::ensure(found != graphs_.end(), "{} has no bucket for {}, its largest is {}", name_, count,
                 graphs_.rbegin()->first);
  return found->first;
}

void graph_family::require_current() const {
  for (const auto& lease : arenas_)
    if (!lease.current())
      throw gpu::stale_graph(
          fmt::format("{} was made for generation {} of arena {}, which was retired", name_,
                      lease.generation(), lease.name()));
}

void graph_family::run(int32_t bucket) {
  for (int32_t slice = 0; slice < num_slices(bucket); ++slice) run_slice(bucket, slice);
}

void graph_family::run_eagerly(int32_t bucket) const {
  for (const auto& slice : graphs_.at(bucket)) slice.warm.run();
}

int32_t graph_family::num_slices(int32_t bucket) const {
  return static_cast<int32_t>(graphs_.at(bucket).size());
}

void graph_family::run_slice(int32_t bucket, int32_t slice) {
  slice_graph& found = graphs_.at(bucket).at(static_cast<size_t>(slice));
  if (found.captured)
    found.captured->replay();
  else
    found.warm.run();
}

bool graph_family::intact(int32_t bucket) const {
  const auto& slices = graphs_.at(bucket);
  return std::all_of(slices.begin(), slices.end(), [](const slice_graph& slice) {
    return !slice.captured || slice.captured->intact();
  });
}

gpu::digest128 graph_family::shape_digest() const {
  std::vector<gpu::digest128> digests;
  for (const auto& [bucket, slices] : graphs_)
    for (const auto& slice : slices)
      if (slice.captured) digests.push_back(slice.captured->baked().shape_digest());
  if (digests.empty()) return {};
  const XXH128_hash_t hash = XXH3_128bits(digests.data(), digests.size() * sizeof digests[0]);
  return {hash.low64, hash.high64};
}

}  // namespace troupe::model
