// Graphs of the vision tower, of prefill and of decode, captured in every order and replayed in
// every order, with the ranks' sums in them: results are those of eager runs always.
#include "gpu/graph_states.hpp"
#include "model/step_fingerprint.hpp"
#include "model/text/text_model.hpp"
#include "support/reference_prompt.hpp"
#include "support/runner_fixture.hpp"
#include "support/tested_settings.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <array>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

using namespace troupe;
using namespace troupe::testing;

namespace {

enum class family : uint8_t { vision, prefill, decode };
using order = std::array<family, 3>;

std::vector<order> all_orders() {
  order next{family::vision, family::prefill, family::decode};
  std::vector<order> all;
  do all.push_back(next);
  while (std::next_permutation(next.begin(), next.end()));
  return all;
}

std::string name_of(const order& value) {
  std::string name;
  for (const family part : value)
    name += part == family::vision ? "vision " : part == family::prefill ? "prefill " : "decode ";
  return name;
}

constexpr int32_t prefill_bucket = 64;
constexpr int32_t decode_bucket = 4;
constexpr int32_t first_pool_row = 3;
constexpr const char* picture_case = "image6-256x256-png";

/// Steps that can be run again and again: they write the same keys and values each time.
struct repeatable_steps {
  repeatable_steps(const reference_set& set, const config::model_config& model,
                   const plan::plan_limits& limits, const std::vector<int32_t>& picture_rows) {
    step_builder builder(limits);
    builder.advance(builder.add(prompt_of(case_named(set, picture_case), model), picture_rows),
                    prefill_bucket);
    prefill = builder.build();
    std::vector<int32_t> texts;
    for (int32_t i = 0; i < decode_bucket; ++i) {
      const auto name = "text" + std::to_string(i);
      texts.push_back(builder.add(prompt_of(case_named(set, name), model)));
      builder.advance(texts.back(), limits.max_num_batched_tokens);
    }
    context = builder.build();
    for (const int32_t text : texts) builder.advance(text, 1);
    decode = builder.build();
    // Not what some step before sampled, but always the same.
    for (size_t i = 0; i < decode.token_ids.size(); ++i)
      decode.token_ids[i] = static_cast<int32_t>(20 + i);
  }

  plan::step_plan context;  // what `decode` goes on from
  plan::step_plan prefill;  // of a picture
  plan::step_plan decode;
};

/// One rank without a runner: whoever tests it captures and replays its graphs.
struct bare_rank {
  bare_rank(const tested_setting& setting, const config::model_config& model,
            const plan::plan_limits& plan_limits, int32_t rank,
            const transport::symmetric_memory& memory, model::visual_pool mapped)
      : limits(plan_limits),
        backend(gpu::make_operations(setting.options().backend_options())),
        symmetric(rank, memory.file_descriptors(), memory.lanes(), setting.options().timeout,
                  gpu::shared_memory_on(tested_device())),
        pool(std::move(mapped)),
        inputs(limits, *backend),
        text(*backend, model.text, limits,
             model::load_text_weights(
                 std::make_shared<const model::safetensors_folder>(fixtures() / setting.checkpoint),
                 model, rank, setting.tp_size, [](int64_t, int64_t) {}),
             symmetric.take_lane("text"), inputs.views(), pool.view(), {setting.activation, {}}),
        reader(*backend) {}

  void capture(int32_t bucket) {
    std::vector<gpu::arena_lease> leases{pool.lease(), inputs.arena().lease()};
    for (const gpu::arena* arena : text.arenas()) leases.push_back(arena->lease());
    for (auto& lease : symmetric.leases()) leases.push_back(std::move(lease));
    inputs.load(*backend, model::warm_up_plan(limits, bucket));
    gpu::cold_graph cold("text[" + std::to_string(bucket) + "]",
                         [this, bucket] { text.issue(bucket); });
    graphs.emplace(bucket, std::move(cold).warm(*backend).capture(*backend, std::move(leases)));
  }
  model::step_fingerprint run(const plan::step_plan& plan, bool eagerly) {
    inputs.load(*backend, plan);
    if (eagerly)
      text.issue(plan.bucket_tokens);
    else
      graphs.at(plan.bucket_tokens).replay();
    model::step_fingerprint found;
    found.residual = reader.digest(*backend, text.residual(), plan.num_tokens());
    for (int32_t row = 0; row < plan.num_rows(); ++row)
      found.logits.push_back(reader.digest(*backend, text.logits().slice_rows(row, 1), 1));
    return found;
  }

  plan::plan_limits limits;
  std::unique_ptr<gpu::operations> backend;
  transport::symmetric_arena symmetric;
  model::visual_pool pool;
  model::step_inputs inputs;
  model::text_model text;
  model::fingerprint_reader reader;
  std::map<int32_t, gpu::captured_graph> graphs;
};

/// What a replay of each family gives.
struct results {
  std::vector<std::byte> rows;
  std::vector<model::step_fingerprint> prefill, decode;  // [rank]
  bool operator==(const results&) const = default;
};

class bare_group {
 public:
  explicit bare_group(const tested_setting& setting)
      : setting_(setting),
        set_("ref-" + setting.checkpoint),
        checkpoint_(config::read_checkpoint_config(fixtures() / setting.checkpoint)),
        limits_(reference_limits(checkpoint_.model)),
        memory_(setting.tp_size,
                {model::model_runner::lane(checkpoint_.model, limits_, setting.tp_size)},
                {gpu::shared_memory_on(tested_device()),
                 std::vector<int32_t>(static_cast<size_t>(setting.tp_size), 0)}),
        pool_(make_pool()),
        pictures_(patches_of(case_named(set_, picture_case), checkpoint_.preprocessor,
                             setting.activation)),
        placed_(place(pictures_, checkpoint_.preprocessor.merge_size, first_pool_row)),
        steps_(set_, checkpoint_.model, limits_, placed_.rows) {
    for (int32_t rank = 0; rank < setting.tp_size; ++rank) {
      threads_.push_back(std::make_unique<worker_thread>());
      ranks_.emplace_back();
    }
    on_ranks([this](size_t rank) {
      gpu::use_device(setting_.options().backend_options());
      ranks_[rank] = std::make_unique<bare_rank>(setting_, checkpoint_.model, limits_,
                                                 static_cast<int32_t>(rank), memory_, map_pool());
    });
    encoder_thread_.call([this] {
      gpu::use_device(setting_.options().backend_options());
      encoder_ = std::make_unique<model::vision_runner>(
          gpu::make_operations(setting_.options().backend_options()), checkpoint_.model,
          model::load_vision_weights(
              std::make_shared<const model::safetensors_folder>(fixtures() / setting_.checkpoint),
              checkpoint_.model, [](int64_t, int64_t) {}),
          map_pool(),
          model::vision_options{setting_.activation, false, runner_group::max_patches,
                                runner_group::max_segments, group_options{}.max_slice_flops});
      copier_ = gpu::make_operations(setting_.options().backend_options());
    });
  }
  ~bare_group() {
    on_ranks([this](size_t rank) { ranks_[rank].reset(); });
    encoder_thread_.call([this] {
      encoder_.reset();
      copier_.reset();
    });
  }

  void capture(family which) {
    if (which == family::vision)
      return encoder_thread_.call([this] { encoder_->capture([](int32_t, int32_t) {}); });
    on_ranks([this, which](size_t rank) {
      ranks_[rank]->capture(which == family::prefill ? prefill_bucket : decode_bucket);
    });
  }
  void compute_context() { run(steps_.context, true); }
  void replay(family which, results& found) {
    if (which == family::vision) found.rows = encode();
    if (which == family::prefill) found.prefill = run(steps_.prefill, false);
    if (which == family::decode) found.decode = run(steps_.decode, false);
  }
  /// What the text graphs must give.
  results eager_results() {
    results expected;
    expected.rows = encode();
    expected.prefill = run(steps_.prefill, true);
    expected.decode = run(steps_.decode, true);
    return expected;
  }

 private:
  model::visual_pool make_pool() const {
    gpu::use_device(setting_.options().backend_options());
    return {checkpoint_.model, setting_.activation, limits_.visual_pool_rows,
            gpu::shared_memory_on(tested_device())};
  }
  model::visual_pool map_pool() const {
    return model::visual_pool::map(checkpoint_.model, setting_.activation, limits_.visual_pool_rows,
                                   gpu::shared_memory_on(tested_device()), pool_.file_descriptor());
  }
  /// On all ranks at once: they wait for each other.
  void on_ranks(const std::function<void(size_t rank)>& task) {
    std::vector<std::future<void>> answers;
    for (size_t rank = 0; rank < threads_.size(); ++rank)
      answers.push_back(threads_[rank]->submit([&task, rank] { task(rank); }));
    for (auto& answer : answers) answer.wait();
    for (auto& answer : answers) answer.get();
  }
  std::vector<model::step_fingerprint> run(const plan::step_plan& plan, bool eagerly) {
    std::vector<model::step_fingerprint> found(ranks_.size());
    on_ranks([&](size_t rank) { found[rank] = ranks_[rank]->run(plan, eagerly); });
    return found;
  }
  /// The picture's rows, level by level.
  std::vector<std::byte> encode() {
    return encoder_thread_.call([this] {
      encoder_->encode(placed_.items);
      std::vector<std::byte> rows;
      const gpu::tensor_view pool = pool_.view();
      for (int64_t level = 0; level < pool.shape[0]; ++level) {
        const auto part = pool.at(level).slice_rows(first_pool_row, std::ssize(placed_.rows));
        const auto old = rows.size();
        rows.resize(old + static_cast<size_t>(part.span_bytes()));
        copier_->download(rows.data() + old, part, part.span_bytes());
      }
      copier_->synchronize();
      return rows;
    });
  }

  tested_setting setting_;
  reference_set set_;
  config::checkpoint_config checkpoint_;
  plan::plan_limits limits_;
  transport::symmetric_memory memory_;
  model::visual_pool pool_;
  std::vector<model::patch_rows> pictures_;
  placed_pictures placed_;
  repeatable_steps steps_;
  std::vector<std::unique_ptr<bare_rank>> ranks_;
  std::unique_ptr<gpu::operations> copier_;  // lives on the encoder's thread, like the encoder
  std::unique_ptr<model::vision_runner> encoder_;
  std::vector<std::unique_ptr<worker_thread>> threads_;
  worker_thread encoder_thread_;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(capture_orders)

BOOST_AUTO_TEST_CASE(every_order_of_capture_and_replay_gives_the_results_of_eager_runs) {
  for (const auto& setting : tested_settings()) {
    if (setting.tp_size == 1) continue;  // what is of interest are graphs that wait for each other
    std::optional<results> expected;
    for (const order& captured : all_orders()) {
      bare_group group(setting);
      for (const family which : captured) group.capture(which);
      group.compute_context();
      const results eager = group.eager_results();
      if (!expected) expected = eager;
      BOOST_TEST((eager == *expected), setting << ": captured " << name_of(captured));
      for (const order& replayed : all_orders()) {
        results found;
        for (const family which : replayed) group.replay(which, found);
        BOOST_TEST((found == *expected), setting << ": captured " << name_of(captured)
                                                 << ", replayed " << name_of(replayed));
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
