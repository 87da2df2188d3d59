#include "model/model_runner.hpp"

#include "config/ensure.hpp"
#include "gpu/error.hpp"
#include "model/arena_builder.hpp"
#include "model/graph_family.hpp"
#include "model/step_inputs.hpp"
#include "model/step_outputs.hpp"
#include "model/text/text_model.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

namespace troupe::model {
namespace {

constexpr auto* lane_name = "text";

gpu::lane_view take_lane(transport::symmetric_arena* symmetric) {
  return symmetric == nullptr ? gpu::lane_view{} : symmetric->take_lane(lane_name);
}

/// Plans are checked against `limits` alone, so the pool must be what they say.
void require_fitting_pool(const visual_pool& pool, const config::model_config& model,
                          const plan::plan_limits& limits, gpu::dtype activation) {
  const gpu::tensor_view view = pool.view();
  config::ensure(view.type == activation, "the visual pool has dtype {}, the activations have {}",
                 static_cast<int>(view.type), static_cast<int>(activation));
  config::ensure(pool.rows() == limits.visual_pool_rows && view.width() == model.text.hidden_size,
                 "a visual pool of {} rows of {}, expected {} of {}", pool.rows(), view.width(),
                 limits.visual_pool_rows, model.text.hidden_size);
}

/// A text graph that does not read the deepstack slot would serve pictures without detail,
/// silently.
void require_visual_slot(const gpu::manifest& manifest, const gpu::visual_slot& slot) {
  if (!manifest.reads(slot.row_map)) throw gpu::error("a text graph does not read the row map");
  for (int64_t level = 0; level < slot.pool.shape[0]; ++level)
    if (!manifest.reads(slot.pool.at(level)))
      throw gpu::error(
          fmt::format("a text graph does not read level {} of the visual pool", level));
}

/// Tells the neighbour of one step, and of its end whatever happens.
class announced_step {
 public:
  announced_step(step_neighbour* neighbour, gpu::operations& backend)
      : neighbour_(neighbour), backend_(backend) {}
  ~announced_step() {
    if (neighbour_ != nullptr) neighbour_->step_ends();
  }
  announced_step(const announced_step&) = delete;
  announced_step& operator=(const announced_step&) = delete;

  void begins(const plan::step_plan& plan) const {
    if (neighbour_ != nullptr) neighbour_->step_begins(backend_, plan);
  }
  void issued() const {
    if (neighbour_ != nullptr) neighbour_->step_issued(backend_);
  }

 private:
  step_neighbour* neighbour_;
  gpu::operations& backend_;
};

}  // namespace

struct model_runner::state {
  std::unique_ptr<gpu::operations> backend;
  plan::plan_limits limits;
  uint64_t epoch;
  bool eager;
  bool alone;
  std::unique_ptr<transport::symmetric_arena> symmetric;
  gpu::lane_view lane;
  visual_pool pool;
  step_inputs inputs;
  text_model model;
  step_outputs outputs;
  fingerprint_reader fingerprints;
  std::shared_ptr<step_neighbour> neighbour;
  std::optional<graph_family> graphs;  // made by `capture`

  uint64_t last_step = 0;
  plan::digest last_content = {};
  std::vector<int32_t> sampled = {};  // by the last step: what tokens of the next may refer to
  std::vector<int32_t> sampled_before =
      {};                 // by the step before: what those of the last referred to
  std::string lost = {};  // why this rank can run nothing any more; empty while it can

  std::vector<gpu::arena*> arenas();
  std::vector<gpu::arena_lease> leases();
  std::vector<std::string> reasons_to_refuse(const plan::step_plan& plan) const;
  std::vector<std::string> reasons_not_to_verify(const plan::step_plan& plan) const;
  void refuse(const plan::step_plan& plan, const std::vector<std::string>& reasons) const;
  void refuse_if_stale(const plan::step_plan& plan) const;
  step_fingerprint fingerprint(const plan::step_plan& plan);
  void check_lane();
  void begin(uint64_t new_epoch);
};

model_runner::model_runner(std::unique_ptr<gpu::operations> operations,
                           const config::model_config& model, const plan::plan_limits& limits,
                           text_weights weights,
                           std::unique_ptr<transport::symmetric_arena> symmetric, visual_pool pool,
                           runner_options options) {
  require_fitting_pool(pool, model, limits, options.activation);
  auto& backend = *operations;
  const gpu::lane_view lane = take_lane(symmetric.get());
  const gpu::tensor_view pool_view = pool.view();
  step_inputs inputs(limits, backend);
  text_model text(backend, model.text, limits, std::move(weights), lane, inputs.views(), pool_view,
                  {options.activation, std::move(options.token_mask)});
  step_outputs outputs(backend, text.sampled());
  fingerprint_reader fingerprints(backend);
  state_ = std::make_unique<state>(
      state{std::move(operations), limits, options.epoch, options.eager, options.alone,
            std::move(symmetric), lane, std::move(pool), std::move(inputs), std::move(text),
            std::move(outputs), std::move(fingerprints), std::move(options.neighbour),
            std::nullopt});
  for (auto* tokens : {&state_->sampled, &state_->sampled_before})
    tokens->reserve(static_cast<size_t>(limits.max_num_seqs));
}
model_runner::~model_runner() = default;

gpu::digest128 model_runner::capture(const std::function<void(int32_t, int32_t)>& progress) {
  auto& self = *state_;
  config::ensure(!self.graphs, "graphs are captured twice");
  graph_recipe recipe;
  recipe.load_warm_up = [&](int32_t bucket) {
    self.inputs.load(*self.backend, warm_up_plan(self.limits, bucket));
  };
  recipe.issue = [&self](int32_t bucket, int32_t /*slice*/) { self.model.issue(bucket); };
  if (!self.alone) recipe.check_run = [&] { self.check_lane(); };
  recipe.check = [&](const bucket_manifests& baked) {
    require_visual_slot(*baked.front(), {self.pool.view(), self.inputs.views().row_map});
  };
  recipe.progress = progress;
  self.graphs.emplace("text", *self.backend, self.limits.token_buckets, self.leases(), self.eager,
                      recipe);
  if (self.alone) self.lost = "this rank captured alone and has not joined a group yet";
  return self.graphs->shape_digest();
}

gpu::digest128 model_runner::join(const std::vector<int>& symmetric_descriptors, uint64_t epoch) {
  auto& self = *state_;
  config::ensure(self.graphs.has_value(), "a group is joined before graphs are captured");
  config::ensure(self.symmetric != nullptr, "a rank without symmetric memory cannot join a group");
  self.lost = fmt::format("this rank could not join the group of epoch {}", epoch);
  self.backend->synchronize();
  self.symmetric->replace_memory(symmetric_descriptors);
  self.model.clear_blocks();  // the planner of a new group takes every block for clean
  self.begin(epoch);
  return self.graphs->shape_digest();
}

plan::step_result model_runner::run(const plan::step_plan& plan, step_mode mode) {
  auto& self = *state_;
  config::ensure(self.graphs.has_value(), "a step is run before graphs are captured");
  self.refuse_if_stale(plan);
  self.refuse(plan, self.reasons_to_refuse(plan));
  const announced_step step(self.neighbour.get(), *self.backend);
  step.begins(plan);
  for (const int32_t block : plan.cleared_blocks) self.model.clear_block(block);
  self.inputs.load(*self.backend, plan);
  const auto start = std::chrono::steady_clock::now();
  if (mode == step_mode::graph)
    self.graphs->run(plan.bucket_tokens);
  else
    self.graphs->run_eagerly(plan.bucket_tokens);
  self.outputs.fetch(*self.backend, plan);
  step.issued();
  self.backend->synchronize();
  const auto elapsed = std::chrono::steady_clock::now() - start;
  self.check_lane();
  self.last_step = plan.step;
  self.last_content = plan.content;
  self.sampled_before.swap(self.sampled);
  plan::step_result result = self.outputs.result_of(plan);
  self.sampled.assign(result.tokens.begin(), result.tokens.end());
  result.elapsed_ns = std::chrono::nanoseconds(elapsed).count();
  return result;
}

step_verification model_runner::verify(const plan::step_plan& plan) {
  auto& self = *state_;
  config::ensure(self.graphs.has_value(), "a step is verified before graphs are captured");
  self.refuse_if_stale(plan);
  self.refuse(plan, self.reasons_not_to_verify(plan));
  const step_fingerprint found = self.fingerprint(plan);
  const gpu::tensor_view& sampled = self.model.sampled().tokens;
  const announced_step step(self.neighbour.get(), *self.backend);
  step.begins(plan);
  self.backend->upload(sampled, self.sampled_before.data(),
                       std::ssize(self.sampled_before) * gpu::size_of(sampled.type));
  self.graphs->run_eagerly(plan.bucket_tokens);
  self.outputs.fetch(*self.backend, plan);
  step.issued();
  self.backend->synchronize();
  self.check_lane();
  step_verification verified{self.outputs.result_of(plan), {}};
  self.sampled.assign(verified.result.tokens.begin(), verified.result.tokens.end());
  verified.difference = self.graphs->intact(plan.bucket_tokens)
                            ? difference(found, self.fingerprint(plan))
                            : "the graph's manifest is not the one it was captured with";
  return verified;
}

void model_runner::retire(bool guard) {
  for (gpu::arena* arena : state_->arenas()) arena->retire(guard);
}

step_fingerprint model_runner::fingerprint(const plan::step_plan& plan) {
  state_->refuse(plan, state_->reasons_not_to_verify(plan));
  return state_->fingerprint(plan);
}

std::vector<float> model_runner::logits(int32_t row) const {
  config::ensure(row >= 0 && row < std::ssize(state_->sampled), "logits of row {} of {}", row,
                 state_->sampled.size());
  const gpu::tensor_view view = state_->model.logits().at(row);
  std::vector<float> values(static_cast<size_t>(view.width()));
  state_->backend->download(values.data(), view, view.span_bytes());
  state_->backend->synchronize();
  return values;
}

std::vector<gpu::ledger_entry> model_runner::ledger() const {
  return ledger_of(*state_->backend, state_->arenas());
}

transport::lane_request model_runner::lane(const config::model_config& model,
                                           const plan::plan_limits& limits, int32_t tp_size) {
  constexpr int64_t alignment_bytes = 64;
  if (tp_size == 1) return {lane_name, alignment_bytes};  // nothing is ever sent
  const text_shape shape = share_of(model.text, tp_size);
  // Ranks of a device group share out whole rows.
  const auto whole = [](int64_t rows) {
    return (rows + gpu::max_ranks - 1) / gpu::max_ranks * gpu::max_ranks;
  };
  const int64_t reduced = whole(limits.max_num_batched_tokens) * shape.hidden_size;
  const int64_t gathered = whole(limits.max_num_seqs) * shape.vocab_part;
  const int64_t bytes = std::max(reduced, gathered) * gpu::size_of(gpu::dtype::f32);
  return {lane_name, (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes};
}

std::vector<gpu::arena*> model_runner::state::arenas() {
  std::vector<gpu::arena*> all = model.arenas();
  all.push_back(&inputs.arena());
  return all;
}

std::vector<gpu::arena_lease> model_runner::state::leases() {
  std::vector<gpu::arena_lease> all{pool.lease()};
  for (const gpu::arena* arena : arenas()) all.push_back(arena->lease());
  if (symmetric)
    for (auto& lease : symmetric->leases()) all.push_back(std::move(lease));
  return all;
}

std::vector<std::string> model_runner::state::reasons_to_refuse(const plan::step_plan& plan) const {
  if (!lost.empty()) return {lost};
  if (plan.epoch != epoch) return {fmt::format("plan of epoch {}, expected {}", plan.epoch, epoch)};
  if (plan.step != last_step + 1)
    return {fmt::format("plan of step {}, expected {}", plan.step, last_step + 1)};
  std::vector<std::string> reasons = plan::faults(plan, limits);
  for (size_t i = 0; i < plan.token_ids.size(); ++i) {
    const int64_t row = -1 - int64_t{plan.token_ids[i]};
    if (row >= std::ssize(sampled))
      reasons.push_back(fmt::format("token {} refers to row {} of step {}, which sampled {} rows",
                                    i, row, last_step, sampled.size()));
  }
  return reasons;
}

std::vector<std::string> model_runner::state::reasons_not_to_verify(
    const plan::step_plan& plan) const {
  if (!lost.empty()) return {lost};
  if (plan.epoch == epoch && plan.step == last_step && plan.content == last_content) return {};
  return {fmt::format(
      "to verify is step {} of epoch {}, but what ran last is step {} of epoch {}{}", plan.step,
      plan.epoch, last_step, epoch, plan.step == last_step ? " with another digest" : "")};
}

void model_runner::state::refuse(const plan::step_plan& plan,
                                 const std::vector<std::string>& reasons) const {
  if (!reasons.empty())
    throw plan_refused(fmt::format("step {} refused: {}", plan.step, fmt::join(reasons, "; ")));
}

void model_runner::state::refuse_if_stale(const plan::step_plan& plan) const {
  try {
    graphs->require_current();
  } catch (const gpu::stale_graph& stale) {
    refuse(plan, {stale.what()});
  }
}

step_fingerprint model_runner::state::fingerprint(const plan::step_plan& plan) {
  step_fingerprint found;
  found.residual = fingerprints.digest(*backend, model.residual(), plan.num_tokens());
  for (int32_t row = 0; row < plan.num_rows(); ++row)
    found.logits.push_back(fingerprints.digest(*backend, model.logits().slice_rows(row, 1), 1));
  found.tokens = sampled;
  return found;
}

void model_runner::state::begin(uint64_t new_epoch) {
  epoch = new_epoch;
  last_step = 0;
  last_content = {};
  sampled.clear();
  sampled_before.clear();
  lost.clear();
}

void model_runner::state::check_lane() {
  if (!symmetric) return;
  const gpu::lane_status status = symmetric->take_status(lane);
  if (status == gpu::lane_status::ok) return;
  lost =
      fmt::format("rank {} of {} lost its group after step {}: {}", lane.rank, lane.size, last_step,
                  status == gpu::lane_status::aborted
                      ? "the group was aborted"
                      : fmt::format("a peer was later than {} ms", lane.timeout_ns / 1'000'000));
  throw peer_lost(lost);
}

}  // namespace troupe::model
