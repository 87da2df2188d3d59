#pragma once

#include "gpu/backend.hpp"
#include "gpu/operations.hpp"
#include "transport/symmetric_arena.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace troupe::cli {

/// What collectives are measured on: rows of activations, with an f32 partial value for each.
struct exchanged_rows {
  gpu::dtype type = gpu::dtype::bf16;
  int64_t width = 0;
  int64_t rows_max = 0;
};

/// One rank of a group that does nothing but exchange: its memory, backend and graph. Lives on the
/// rank's thread, whose device must be the backend's.
class exchanging_rank {
 public:
  /// The lanes that a group's memory must have: one for messages, of `slot_bytes` at least, one for
  /// flags.
  static std::vector<transport::lane_request> lanes(const exchanged_rows& shape,
                                                    int64_t slot_bytes);

  exchanging_rank(const exchanged_rows& shape, int32_t rank, const gpu::backend_options& backend,
                  const transport::symmetric_memory& group);

  const gpu::lane_view& messages() const { return messages_; }
  const gpu::lane_view& flags() const { return flags_; }

  /// Captures `rounds` collectives of `rows` rows, one after another. All ranks must do it at once,
  /// since one runs before.
  void capture_all_reduces(int64_t rows, int32_t rounds);
  void capture_gathers(int64_t rows, int32_t rounds);
  /// What an all-reduce does beside the exchange: residual and norm.
  void capture_norms(int64_t rows, int32_t rounds);

  /// Runs what was captured last, to its end.
  void replay();
  /// Throws if a rank was late or lost in a collective since the last call.
  void expect_no_failure();

 private:
  void capture(int64_t rows, int32_t rounds, const std::function<void()>& issue);
  void issue_all_reduce(int64_t rows, const gpu::lane_view& lane);
  void fill_partial();
  gpu::live_count live_rows() const { return {live_.as<const int32_t>()}; }

  transport::symmetric_arena symmetric_;
  gpu::lane_view messages_, flags_;
  std::unique_ptr<gpu::operations> backend_;
  gpu::arena memory_;
  gpu::tensor_view partial_, residual_, normed_, gathered_, weight_, live_;
  gpu::visual_slot slot_;
  std::optional<gpu::captured_graph> graph_;
};

}  // namespace troupe::cli
