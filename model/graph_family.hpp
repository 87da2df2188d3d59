#pragma once

#include "gpu/graph_states.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace troupe::model {

/// What the graphs of a bucket's slices baked, in order.
using bucket_manifests = std::vector<const gpu::manifest*>;

/// How the graphs of a family come to be. The operations of a bucket are issued in one or more
/// slices, a graph each.
struct graph_recipe {
  std::function<void(int32_t bucket)> load_warm_up;           // inputs of a bucket's first run
  std::function<int32_t(int32_t bucket)> num_slices;          // empty: one of every bucket
  std::function<void(int32_t bucket, int32_t slice)> issue;   // the operations of a slice
  std::function<void()> check_run;                            // throws if the first run of a slice
                                                              // failed; may be empty
  std::function<void(const bucket_manifests&)> check;         // throws if they must not be served
  std::function<void(int32_t done, int32_t total)> progress;  // after each bucket; may be empty
};

/// The graphs of one network by bucket (tokens, patches): all made at start, none later.
class graph_family {
 public:
  /// Warms every bucket and, unless `eager`, captures it; `arenas` is all memory that may be baked.
  graph_family(std::string name, gpu::operations& backend, std::vector<int32_t> buckets,
               std::vector<gpu::arena_lease> arenas, bool eager, const graph_recipe& recipe);

  /// The smallest bucket that holds `count`. It must not be over the largest.
  int32_t bucket_for(int32_t count) const;

  /// Throws gpu::stale_graph if the memory that the family was made for was retired.
  void require_current() const;
  /// Replays the graphs of a bucket, or runs its operations if the family is eager.
  void run(int32_t bucket);
  /// Runs the operations of a bucket without its graphs: the same kernels.
  void run_eagerly(int32_t bucket) const;
  /// The same as `run`, one slice at a time: in order, all of them.
  int32_t num_slices(int32_t bucket) const;
  void run_slice(int32_t bucket, int32_t slice);
  /// Whether the graphs of a bucket still have the manifests they were captured with.
  bool intact(int32_t bucket) const;

  /// Over all graphs' shapes: equal on ranks that captured the same. Zero if eager.
  gpu::digest128 shape_digest() const;

 private:
  struct slice_graph {
    gpu::warm_graph warm;
    std::optional<gpu::captured_graph> captured;  // none if the family is eager
  };
  using bucket_graphs = std::vector<slice_graph>;

  bucket_graphs make_graphs(gpu::operations& backend, int32_t bucket, bool eager,
                            const graph_recipe& recipe) const;
  slice_graph make_graph(gpu::operations& backend, std::string name, std::function<void()> issue,
                         bool eager, const graph_recipe& recipe) const;

  std::string name_;
  std::vector<gpu::arena_lease> arenas_;
  std::map<int32_t, bucket_graphs> graphs_;
};

}  // namespace troupe::model
