#include "actors/cli/exchanging_rank.hpp"

#include <algorithm>
#include <chrono>
#include <random>
#include <stdexcept>
#include <utility>

namespace troupe::cli {
namespace {

constexpr int32_t pool_rows = 8;  // the slot is there; no row of it is added
constexpr float epsilon = 1e-6F;
constexpr std::chrono::seconds timeout{20};

}  // namespace

std::vector<transport::lane_request> exchanging_rank::lanes(const exchanged_rows& shape,
                                                            int64_t slot_bytes) {
  constexpr int64_t alignment_bytes = 64;
  const int64_t whole_rows =
      (shape.rows_max + gpu::max_ranks - 1) / gpu::max_ranks * gpu::max_ranks;
  const int64_t bytes =
      std::max(slot_bytes, whole_rows * shape.width * gpu::size_of(gpu::dtype::f32));
  return {{"messages", (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes},
          {"flags", alignment_bytes}};
}

exchanging_rank::exchanging_rank(const exchanged_rows& shape, int32_t rank,
                                 const gpu::backend_options& backend,
                                 const transport::symmetric_memory& group)
    : symmetric_(rank, group.file_descriptors(), group.lanes(), timeout,
                 gpu::shared_memory_on(backend.device)),
      messages_(symmetric_.take_lane("messages")),
      flags_(symmetric_.take_lane("flags")),
      backend_(gpu::make_operations(backend)),
      memory_("exchanged_rows", backend_->memory()) {
  using gpu::dtype;
  const auto [type, width, rows] = shape;
  const int32_t partial = memory_.reserve("partial", dtype::f32, {rows, width});
  const int32_t residual = memory_.reserve("residual", type, {rows, width});
  const int32_t normed = memory_.reserve("normed", type, {rows, width});
  const int32_t gathered = memory_.reserve("gathered", dtype::f32, {rows, width * messages_.size});
  const int32_t weight = memory_.reserve("norm_weight", type, {width});
  const int32_t pool = memory_.reserve("visual_pool", type, {1, pool_rows, width});
  const int32_t row_map = memory_.reserve("row_map", dtype::i32, {rows});
  const int32_t live = memory_.reserve("live", dtype::i32, {1});
  memory_.seal();
  partial_ = memory_.view(partial);
  residual_ = memory_.view(residual);
  normed_ = memory_.view(normed);
  gathered_ = memory_.view(gathered);
  weight_ = memory_.view(weight);
  slot_ = {memory_.view(pool), memory_.view(row_map)};
  live_ = memory_.view(live);
  fill_partial();
}

void exchanging_rank::capture_all_reduces(int64_t rows, int32_t rounds) {
  capture(rows, rounds, [&] { issue_all_reduce(rows, messages_); });
}

void exchanging_rank::capture_norms(int64_t rows, int32_t rounds) {
  capture(rows, rounds, [&] { issue_all_reduce(rows, gpu::lane_view{}); });
}

void exchanging_rank::capture_gathers(int64_t rows, int32_t rounds) {
  capture(rows, rounds, [&] {
    backend_->all_gather_columns(gathered_.slice_rows(0, rows), partial_.slice_rows(0, rows),
                                 messages_, live_rows());
  });
}

void exchanging_rank::replay() {
  graph_->replay();
  backend_->synchronize();
}

void exchanging_rank::expect_no_failure() {
  if (symmetric_.take_status(messages_) != gpu::lane_status::ok)
    throw std::runtime_error("a collective lost a rank");
}

void exchanging_rank::capture(int64_t rows, int32_t rounds, const std::function<void()>& issue) {
  const auto live = static_cast<int32_t>(rows);
  backend_->upload(live_, &live, sizeof live);
  issue();  // nothing may happen first inside a capture
  backend_->synchronize();
  auto leases = symmetric_.leases();
  leases.push_back(memory_.lease());
  graph_.reset();
  backend_->begin_capture(std::move(leases));
  for (int32_t round = 0; round < rounds; ++round) issue();
  graph_.emplace(backend_->end_capture("collectives"));
}

void exchanging_rank::issue_all_reduce(int64_t rows, const gpu::lane_view& lane) {
  constexpr int32_t no_level = -1;
  backend_->all_reduce_add_norm(normed_.slice_rows(0, rows), residual_.slice_rows(0, rows),
                                partial_.slice_rows(0, rows), weight_, epsilon, slot_, no_level,
                                lane, live_rows());
}

void exchanging_rank::fill_partial() {
  std::mt19937 random(static_cast<uint32_t>(messages_.rank));
  std::uniform_real_distribution<float> value(-1, 1);
  std::vector<float> values(static_cast<size_t>(partial_.elements()));
  for (float& each : values) each = value(random);
  backend_->upload(partial_, values.data(), partial_.span_bytes());
  backend_->synchronize();
}

}  // namespace troupe::cli
