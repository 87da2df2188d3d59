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
    graphs_.emplace(bucket, make_graph(backend, bucket, eager, recipe));
    if (recipe.progress) recipe.progress(done + 1, total);
  }
}

graph_family::bucket_graph graph_family::make_graph(gpu::operations& backend, int32_t bucket,
                                                    bool eager, const graph_recipe& recipe) const {
  recipe.load_warm_up(bucket);
  gpu::cold_graph cold(fmt::format("{}[{}]", name_, bucket),
                       [issue = recipe.issue, bucket] { issue(bucket); });
  gpu::warm_graph warm = std::move(cold).warm(backend);
  if (recipe.check_run) recipe.check_run();
  if (eager) return {std::move(warm), std::nullopt};
  gpu::captured_graph captured = warm.capture(backend, arenas_);
  recipe.check(captured.baked());
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
  bucket_graph& found = graphs_.at(bucket);
  if (found.captured)
    found.captured->replay();
  else
    found.warm.run();
}

void graph_family::run_eagerly(int32_t bucket) const {
  graphs_.at(bucket).warm.run();
}

bool graph_family::intact(int32_t bucket) const {
  const auto& captured = graphs_.at(bucket).captured;
  return !captured || captured->intact();
}

gpu::digest128 graph_family::shape_digest() const {
  std::vector<gpu::digest128> digests;
  for (const auto& [bucket, made] : graphs_)
    if (made.captured) digests.push_back(made.captured->baked().shape_digest());
  if (digests.empty()) return {};
  const XXH128_hash_t hash = XXH3_128bits(digests.data(), digests.size() * sizeof digests[0]);
  return {hash.low64, hash.high64};
}

}  // namespace troupe::model
