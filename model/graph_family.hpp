#pragma once

#include "gpu/graph_states.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace troupe::model {

/// How the graphs of a family come to be.
struct graph_recipe {
  std::function<void(int32_t bucket)> load_warm_up;  // inputs of a bucket's first run
  std::function<void(int32_t bucket)> issue;         // the operations of a bucket
  std::function<void()> check_run;                   // throws if the first run failed; may be empty
  std::function<void(const gpu::manifest&)> check;   // throws if a graph must not be served
  std::function<void(int32_t done, int32_t total)> progress;  // after each bucket; may be empty
};

/// The graphs of one network, one per bucket (tokens, patches): all made at start, none later.
class graph_family {
 public:
  /// Warms every bucket and, unless `eager`, captures it; `arenas` is all memory that may be baked.
  graph_family(std::string name, gpu::operations& backend, std::vector<int32_t> buckets,
               std::vector<gpu::arena_lease> arenas, bool eager, const graph_recipe& recipe);

  /// The smallest bucket that holds `count`. It must not be over the largest.
  int32_t bucket_for(int32_t count) const;

  /// Throws gpu::stale_graph if the memory that the family was made for was retired.
  void require_current() const;
  /// Replays the graph of a bucket, or runs its operations if the family is eager.
  void run(int32_t bucket);
  /// Runs the operations of a bucket without its graph: the same kernels.
  void run_eagerly(int32_t bucket) const;
  /// Whether the graph of a bucket still has the manifest it was captured with.
  bool intact(int32_t bucket) const;

  /// Over all graphs' shapes: equal on ranks that captured the same. Zero if eager.
  gpu::digest128 shape_digest() const;

 private:
  struct bucket_graph {
    gpu::warm_graph warm;
    std::optional<gpu::captured_graph> captured;  // none if the family is eager
  };

  bucket_graph make_graph(gpu::operations& backend, int32_t bucket, bool eager,
                          const graph_recipe& recipe) const;

  std::string name_;
  std::vector<gpu::arena_lease> arenas_;
  std::map<int32_t, bucket_graph> graphs_;
};

}  // namespace troupe::model
