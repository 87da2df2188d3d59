// Who waits for whom on a device that a shard and a vision tower share: real pictures, and steps
// that are only announced.
#include "actors/device_turns.hpp"
#include "actors/tower_runs.hpp"
#include "config/checkpoint_file.hpp"
#include "gpu/error.hpp"
#include "model/vision/visual_pool.hpp"
#include "model/weights/model_weights.hpp"
#include "model/work_model.hpp"
#include "support/forwarding_operations.hpp"
#include "support/made_pictures.hpp"
#include "support/reference_prompt.hpp"

#include <fmt/format.h>
#include <boost/test/unit_test.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace troupe;
using namespace std::chrono_literals;
using testing::forwarding_operations;

namespace {

using event_log = std::vector<std::string>;

/// Passes when the test says so.
struct held_milestone final : gpu::milestone {
  explicit held_milestone(std::string place) : name(std::move(place)) {}
  bool passed() override { return *done; }
  std::string name;
  std::shared_ptr<bool> done = std::make_shared<bool>(false);
};

/// A backend that names its milestones, and notes which ones it is made to wait for. `on_device`:
/// it claims to issue and not to run.
class noting_operations final : public forwarding_operations {
 public:
  noting_operations(std::string name, event_log& log, bool on_device)
      : forwarding_operations(gpu::make_cpu_operations({})),
        name_(std::move(name)),
        log_(&log),
        on_device_(on_device) {}

  gpu::memory_kind memory() const override {
    return on_device_ ? gpu::memory_kind::device : forwarding_operations::memory();
  }
  std::unique_ptr<gpu::milestone> mark() override {
    auto made = std::make_unique<held_milestone>(fmt::format("{} {}", name_, ++marks_));
    *made->done = all_done;
    held.push_back(made->done);
    return made;
  }
  void wait_for(const gpu::milestone& earlier) override {
    log_->push_back(name_ + " waits for " + dynamic_cast<const held_milestone&>(earlier).name);
  }
  void layer_norm(gpu::tensor_view output, gpu::tensor_view input, gpu::tensor_view weight,
                  gpu::tensor_view bias, float epsilon, gpu::live_count rows) override {
    if (fails) throw gpu::error("layer_norm fails");
    forwarding_operations::layer_norm(output, input, weight, bias, epsilon, rows);
  }

  void forget_marks() {
    marks_ = 0;
    held.clear();
  }

  bool all_done = false;  // what is marked from now on has passed
  bool fails = false;
  std::vector<std::shared_ptr<bool>> held;

 private:
  std::string name_;
  event_log* log_;
  bool on_device_;
  int marks_ = 0;
};

plan::step_plan plan_of(std::vector<int32_t> tokens_of_sequences) {
  plan::step_plan plan;
  plan.query_start.push_back(0);
  for (const int32_t tokens : tokens_of_sequences) {
    plan.query_start.push_back(plan.query_start.back() + tokens);
    plan.context_lengths.push_back(tokens);
  }
  return plan;
}

/// How runs are cut: not at all, into slices of a few parts, or into parts that are all too large
/// for a slice.
enum class cut { whole, bounded, too_large };

/// On a clock that stands still: what is not idle stays so.
struct fixture {
  /// The tower's backend runs eagerly, so that it is asked for every operation.
  explicit fixture(cut runs_are)
      : model(config::named_model_config("tiny")),
        shard("step", log, true),
        pictures{testing::make_picture(model.vision, {1, 4, 4}, gpu::dtype::f32, 1)} {
    auto backend = std::make_unique<noting_operations>("slice", log, false);
    tower_backend = backend.get();
    backend->all_done = true;
    tower = std::make_unique<model::vision_runner>(
        std::move(backend), model, model::random_vision_weights(model, 1),
        model::visual_pool(model, gpu::dtype::f32, 64),
        model::vision_options{gpu::dtype::f32, true, max_patches, 4, slice_flops(runs_are)});
    tower->capture({});
    tower_backend->all_done = false;
    tower_backend->forget_marks();
    turns.open(runs_are == cut::whole ? 0us : 1000us);
    runs.emplace(*tower, turns);
    log.clear();
  }

  static constexpr int32_t max_patches = 64;

  double slice_flops(cut runs_are) const {
    if (runs_are == cut::whole) return 0;
    const auto parts = model::frame_flops(model.vision, max_patches);
    return runs_are == cut::bounded ? parts.attention + parts.mlp + parts.merger : 1;
  }
  std::vector<model::encode_item> items() {
    return testing::place(pictures, model.vision.spatial_merge_size, 0).items;
  }
  void begin(std::vector<int32_t> tokens = {1, 1}) { turns.step_begins(shard, plan_of(tokens)); }
  void issue() { turns.step_issued(shard); }
  void end() { turns.step_ends(); }
  void step(std::vector<int32_t> tokens = {1, 1}) {
    begin(std::move(tokens));
    issue();
    runs->advance();
    end();
  }
  /// Lets the device do all that it was given.
  void run_device() {
    for (auto& done : tower_backend->held) *done = true;
  }

  config::model_config model;
  event_log log;
  noting_operations shard;
  std::vector<model::patch_rows> pictures;  // items refer to their pixels
  noting_operations* tower_backend = nullptr;
  std::unique_ptr<model::vision_runner> tower;
  actors::device_turns turns{[] { return actors::device_turns::clock::time_point{}; }};
  std::optional<actors::tower_runs> runs;
};

/// Parts of a whole run of the tiny shape.
int32_t num_parts(const config::model_config& model) {
  return 2 + 2 * model.vision.depth + model.vision.num_deepstack_levels();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(turns_on_a_device)

BOOST_AUTO_TEST_CASE(a_slice_runs_between_the_step_it_was_issued_in_and_the_next) {
  fixture f(cut::bounded);
  BOOST_REQUIRE(f.turns.statistics().slices_issued == 0);
  f.runs->add(f.items());
  for (int i = 0; i < 3; ++i) f.step();
  // The tower's first mark is that of its inputs.
  BOOST_TEST(f.log == (event_log{"slice waits for step 1", "step waits for slice 2",
                                 "slice waits for step 2", "step waits for slice 3",
                                 "slice waits for step 3"}),
             boost::test_tools::per_element());
  BOOST_TEST(f.turns.statistics().slices_issued == 3);
}

BOOST_AUTO_TEST_CASE(while_a_step_is_being_issued_no_slice_is) {
  fixture f(cut::bounded);
  f.runs->add(f.items());
  f.begin();
  f.runs->advance();
  BOOST_TEST(f.turns.statistics().slices_issued == 0);
  f.issue();
  f.runs->advance();
  BOOST_TEST(f.turns.statistics().slices_issued == 1);
}

BOOST_AUTO_TEST_CASE(a_host_backend_issues_and_runs_in_one_and_the_tower_has_its_turn_meanwhile) {
  fixture f(cut::bounded);
  noting_operations host("step", f.log, false);
  f.runs->add(f.items());
  f.turns.step_begins(host, plan_of({1}));
  f.runs->advance();
  BOOST_TEST(f.turns.statistics().slices_issued == 1);
}

BOOST_AUTO_TEST_CASE(steps_that_read_prompts_and_generate_are_left_alone) {
  fixture f(cut::bounded);
  f.runs->add(f.items());
  for (int i = 0; i < scheduling::slice_pacing::max_passed_over; ++i) f.step({1, 7});
  BOOST_TEST(f.turns.statistics().slices_issued == 0);
  f.step({1, 7});
  BOOST_TEST(f.turns.statistics().slices_issued == 1);
  f.step({9, 7});  // nobody generates
  BOOST_TEST(f.turns.statistics().slices_issued == 2);
  BOOST_TEST(f.turns.statistics().steps_passed_over == scheduling::slice_pacing::max_passed_over);
}

BOOST_AUTO_TEST_CASE(a_step_waits_for_the_last_slice_of_a_pause) {
  fixture f(cut::bounded);
  f.runs->add(f.items());
  f.runs->advance();
  BOOST_TEST(f.turns.statistics().slices_issued == scheduling::slice_pacing::slices_ahead);
  f.begin();
  BOOST_TEST(f.log == event_log{"step waits for slice 3"}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(nobody_waits_for_parts_that_are_too_large) {
  fixture f(cut::too_large);
  f.runs->add(f.items());
  for (int i = 0; i < 3; ++i) f.step();
  BOOST_TEST(f.log.empty());
  BOOST_TEST(f.turns.statistics().slices_issued == 3);
}

BOOST_AUTO_TEST_CASE(whole_runs_wait_for_nobody_and_nobody_for_them) {
  fixture f(cut::whole);
  f.runs->add(f.items());
  f.runs->add(f.items());
  f.runs->add(f.items());
  f.begin({1, 7});
  f.runs->advance();
  BOOST_TEST(f.turns.statistics().slices_issued == 2);  // one goes on, the next is prepared
  f.issue();
  f.end();
  f.run_device();
  BOOST_TEST(f.runs->advance() == 2);
  f.step();
  BOOST_TEST(f.turns.statistics().slices_issued == 3);
  BOOST_TEST(f.log.empty());
}

BOOST_AUTO_TEST_CASE(a_step_that_failed_while_it_was_issued_holds_nobody_back) {
  fixture f(cut::bounded);
  f.begin();
  f.end();
  f.runs->add(f.items());
  f.step();
  BOOST_TEST(f.log == event_log{"slice waits for step 1"}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(runs_are_issued_whole_in_their_order_and_finish_when_the_device_did) {
  fixture f(cut::too_large);
  const int32_t parts = num_parts(f.model);
  f.runs->add(f.items());
  f.runs->add(f.items());
  for (int i = 0; i < parts; ++i) {
    BOOST_TEST(f.runs->unfinished() == 2);
    f.step();
  }
  BOOST_TEST(f.tower->slices_left() == parts);  // of the second run, whose inputs are on their way
  f.run_device();
  BOOST_TEST(f.runs->advance() == 1);
  BOOST_TEST(f.runs->unfinished() == 1);
  for (int i = 0; i < parts; ++i) {
    f.step();
    f.run_device();
  }
  BOOST_TEST(f.runs->advance() == 1);
  BOOST_TEST(f.runs->unfinished() == 0);
  BOOST_TEST(f.turns.statistics().slices_issued == 2 * parts);
}

BOOST_AUTO_TEST_CASE(items_that_do_not_fit_are_refused_and_others_go_on) {
  fixture f(cut::too_large);
  f.tower_backend->all_done = true;
  f.runs->add(f.items());
  auto wrong = f.items();
  wrong[0].destination_rows.pop_back();
  BOOST_CHECK_THROW(f.runs->add(wrong), std::invalid_argument);
  BOOST_TEST(f.runs->unfinished() == 1);
  BOOST_TEST(f.runs->advance() == 1);
}

BOOST_AUTO_TEST_CASE(a_failure_gives_up_what_is_unfinished_and_the_tower_goes_on) {
  fixture f(cut::too_large);
  f.runs->add(f.items());
  f.runs->add(f.items());
  f.step();
  f.tower_backend->fails = true;
  BOOST_CHECK_THROW(f.step(), gpu::error);
  f.end();
  BOOST_TEST(f.runs->unfinished() == 0);
  f.tower_backend->fails = false;
  f.tower_backend->all_done = true;
  f.runs->add(f.items());
  for (int i = 0; i < num_parts(f.model); ++i) f.step();
  BOOST_TEST(f.runs->unfinished() == 0);
}

BOOST_AUTO_TEST_SUITE_END()
