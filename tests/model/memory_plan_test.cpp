#include "model/memory_plan.hpp"
#include "gpu/pages.hpp"
#include "model/vision/vision_staging.hpp"

#include "support/reference_set.hpp"
#include "support/runner_group.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

using namespace troupe;

namespace {

/// Line of the plan that an owner of the runners' ledgers belongs to.
std::string text_line(const std::string& arena) {
  const std::map<std::string, std::string> lines{{"packed_weights", "text weights"},
                                                 {"weights", "text weights"},
                                                 {"kv_cache", model::kv_cache_owner},
                                                 {"activations", "activations"},
                                                 {"output", "activations"},
                                                 {"input", "step inputs"},
                                                 // On a device.
                                                 {"linear_weights", "text weights"},
                                                 {"workspace", "working memory"},
                                                 {"attention_scratch", "working memory"},
                                                 {"experts_scratch", "working memory"}};
  return lines.at(arena);
}

std::string vision_line(const std::string& arena) {
  const std::map<std::string, std::string> lines{{"packed_weights", "vision weights"},
                                                 {"vision_weights", "vision weights"},
                                                 {"vision_activations", "vision activations"},
                                                 {"vision_input", "vision activations"},
                                                 {"vision_pixels", "vision activations"},
                                                 // On a device.
                                                 {"linear_weights", "vision weights"},
                                                 {"workspace", "vision working memory"}};
  return lines.at(arena);
}

using line_bytes = std::map<std::string, int64_t>;

/// Adds up a ledger by line. What slabs left unused is no one's.
template <class LineOf>
void add_up(line_bytes& found, const std::vector<gpu::ledger_entry>& ledger, LineOf line_of) {
  for (const auto& entry : ledger)
    if (entry.owner != "packed_weights/unused")
      found[line_of(entry.owner.substr(0, entry.owner.find('/')))] += entry.bytes;
}

int64_t held_staging_bytes(const testing::runner_group& group, gpu::dtype type) {
  const model::vision_staging staging(
      {testing::runner_group::max_patches, group.checkpoint().model.vision.patch_width(), type});
  int64_t bytes = 0;
  for (int32_t slot = 0; slot < model::vision_staging::num_slots; ++slot)
    bytes += staging.slot(slot).span_bytes();
  return bytes;
}

/// What rank 0, the encoder and the node hold.
line_bytes held_bytes(testing::runner_group& group, const testing::group_options& options) {
  line_bytes found;
  add_up(found, group.on_rank(0, [](auto& runner) { return runner.ledger(); }), text_line);
  add_up(found, group.on_encoder([](auto& encoder) { return encoder.ledger(); }), vision_line);
  found["visual pool"] = group.pool().view().span_bytes();
  if (options.device == gpu::device_kind::cpu)
    found["vision staging"] = held_staging_bytes(group, options.activation);
  if (options.tp_size > 1) found["symmetric arena"] = group.symmetric().bytes_per_rank();
  return found;
}

model::engine_limits limits_of(const testing::runner_group& group,
                               const testing::group_options& options) {
  const auto& text = group.checkpoint().model.text;
  model::engine_limits limits;
  limits.plan = group.limits();
  limits.activation = options.activation;
  limits.tp_size = options.tp_size;
  limits.vision_max_patches = testing::runner_group::max_patches;
  limits.vision_max_segments = testing::runner_group::max_segments;
  limits.kv_block_bytes =
      model::kv_block_bytes(text, options.tp_size, limits.plan.block_size, options.activation);
  return limits;
}

/// Every line within a hundredth of what is held, or within a page, since memory comes in pages.
void check_plan(const testing::group_options& options) {
  testing::runner_group group(options);
  const line_bytes held = held_bytes(group, options);
  const auto kind =
      options.device == gpu::device_kind::cpu ? gpu::memory_kind::host : gpu::memory_kind::device;
  const auto plan = model::plan_memory(group.checkpoint().model, limits_of(group, options), kind);
  const auto page = static_cast<double>(gpu::page_bytes_of(kind));
  BOOST_TEST(plan.size() == held.size());
  for (const auto& line : plan) {
    const auto found = static_cast<double>(held.at(line.owner));
    BOOST_TEST(std::abs(static_cast<double>(line.bytes) - found) <= std::max(0.01 * found, page),
               line.owner << ": planned " << line.bytes << " bytes, held " << held.at(line.owner));
  }
}

struct engine_on_tiny {
  engine_on_tiny() {
    engine.model.max_model_len = 1024;
    engine.limits.max_num_seqs = 8;
    engine.limits.max_num_batched_tokens = 2048;
    engine.limits.memory_share = 0.5;
  }
  std::string shortage(int64_t available) const {
    return model::memory_shortage(engine, checkpoint, available);
  }
  /// The least memory that suffices.
  int64_t enough() const {
    int64_t least = 0, most = int64_t{1} << 40;
    while (least + 1 < most) {
      const int64_t middle = (least + most) / 2;
      (shortage(middle).empty() ? most : least) = middle;
    }
    return most;
  }

  config::engine_config engine;
  config::checkpoint_config checkpoint =
      config::read_checkpoint_config(testing::fixtures() / "tiny");
};

/// The number behind `name` in `text`, or -1.
int64_t number_after(const std::string& text, const std::string& name) {
  const auto place = text.find(name + ' ');
  return place == std::string::npos ? -1 : std::stoll(text.substr(place + name.size() + 1));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(memory_plan_test)

BOOST_AUTO_TEST_CASE(a_plan_says_what_runners_hold) {
  for (const char* checkpoint : {"tiny", "dense72", "moe"})
    for (const int32_t tp_size : {1, 2})
      for (const auto activation : {gpu::dtype::f32, gpu::dtype::bf16})
        BOOST_TEST_CONTEXT(checkpoint << ", " << tp_size << " ranks, dtype "
                                      << gpu::size_of(activation))
  check_plan({.checkpoint = checkpoint, .tp_size = tp_size, .activation = activation});
}

BOOST_FIXTURE_TEST_CASE(a_shortage_of_memory_says_where_it_would_go, engine_on_tiny) {
  const auto why = shortage(enough() - 1);
  for (const char* line :
       {"text weights", "activations", "step inputs", "vision weights", "vision activations",
        "vision staging", "visual pool", "KV cache", "one context of 1024 tokens"})
    BOOST_TEST(why.find(line) != std::string::npos, line << " is not in: " << why);
  BOOST_TEST(shortage(1'000'000).find("no single setting makes it fit") != std::string::npos);
}

BOOST_FIXTURE_TEST_CASE(every_setting_that_is_said_to_fit_does, engine_on_tiny) {
  const int64_t available = enough() - 200'000;
  const auto why = shortage(available);
  const auto fits_with = [&](const std::string& name, auto apply) {
    const int64_t value = number_after(why.substr(why.find("it would fit with")), name);
    BOOST_REQUIRE_MESSAGE(value > 0, name << " is not in: " << why);
    auto smaller = *this;
    apply(smaller.engine, value);
    BOOST_TEST(smaller.shortage(available) == "");
  };
  fits_with("max_model_len",
            [](auto& changed, int64_t value) { changed.model.max_model_len = value; });
  const auto share = why.find("memory_share ");
  BOOST_REQUIRE(share != std::string::npos);
  auto larger_share = *this;
  larger_share.engine.limits.memory_share = std::stod(why.substr(share + 13));
  BOOST_TEST(larger_share.shortage(available) == "");
  fits_with("max_num_batched_tokens", [](auto& changed, int64_t value) {
    changed.limits.max_num_batched_tokens = static_cast<int32_t>(value);
  });
  fits_with("vision_max_patches", [](auto& changed, int64_t value) {
    changed.limits.vision_max_patches = static_cast<int32_t>(value);
  });
  fits_with("visual_pool_rows", [](auto& changed, int64_t value) {
    changed.limits.visual_pool_rows = static_cast<int32_t>(value);
  });
}

BOOST_FIXTURE_TEST_CASE(a_kv_cache_that_is_asked_for_must_fit_whole, engine_on_tiny) {
  engine.limits.kv_cache_bytes = int64_t{1} << 40;
  const int64_t available = int64_t{1} << 30;
  const auto why = shortage(available);
  BOOST_TEST(why.find("as asked for") != std::string::npos, why);
  engine.limits.kv_cache_bytes = number_after(why, "kv_cache_memory");
  BOOST_TEST(engine.limits.kv_cache_bytes > 0);
  BOOST_TEST(shortage(available) == "");
}

BOOST_AUTO_TEST_SUITE_END()
