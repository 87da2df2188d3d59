// No live row depends on memory beside it: every captured size runs every smaller batch while
// everything dead is full of NaN (inputs past the live ones, activations, rows of the pool and
// blocks of the cache that nobody owns), and gives the bits that it gives without.
#include "support/filled_steps.hpp"
#include "support/made_pictures.hpp"
#include "support/poisoning_operations.hpp"
#include "support/runner_fixture.hpp"
#include "support/tested_settings.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

using namespace troupe;
using namespace troupe::testing;

namespace {

using poisoners = std::vector<poisoning_operations*>;

/// Backends of the ranks in order, then the encoder's, are noted in `made`.
group_options poisoned(group_options options, const std::shared_ptr<poisoners>& made) {
  options.backend = [inner = options.backend_options(), made] {
    auto backend = std::make_unique<poisoning_operations>(gpu::make_operations(inner));
    made->push_back(backend.get());
    return backend;
  };
  return options;
}

/// A group whose dead memory is poisoned.
struct poisoned_fixture {
  explicit poisoned_fixture(const group_options& options)
      : made(std::make_shared<poisoners>()), f(poisoned(options, made)) {}

  template <class Task>
  void on_ranks(Task task) {
    for (int32_t rank = 0; rank < f.group.tp_size(); ++rank)
      f.group.on_rank(rank, [&](auto&) { task(*(*made)[static_cast<size_t>(rank)]); });
  }
  template <class Task>
  void on_encoder(Task task) {
    f.group.on_encoder([&](auto&) { task(*made->back()); });
  }
  /// Rows of all levels that no picture is in, with NaN.
  void poison_pool_behind(int32_t first) {
    const gpu::tensor_view pool = f.group.pool().view();
    for (int64_t level = 0; level < pool.shape[0]; ++level) {
      const auto part = pool.at(level).slice_rows(first, pool.shape[1] - first);
      f.group.write_bytes(
          part, std::vector<std::byte>(static_cast<size_t>(part.span_bytes()), std::byte{0xff}));
    }
  }

  std::shared_ptr<poisoners> made;
  runner_fixture f;
};

void check_steps(const tested_setting& setting, int32_t stride) {
  runner_fixture clean(setting.options());
  poisoned_fixture dirty(setting.options());
  filled_steps expected(clean, 3);
  filled_steps found(dirty.f, 3);
  const auto& limits = clean.group.limits();
  dirty.poison_pool_behind(found.num_pool_rows());
  dirty.on_ranks([](auto& backend) { backend.poison_arena("kv_cache"); });
  std::vector<int32_t> freed;
  for (const int32_t bucket : limits.token_buckets)
    for (int32_t tokens = bucket; tokens > 0; tokens -= std::min(tokens, stride)) {
      dirty.on_ranks([&](auto& backend) {
        backend.poison_blocks(freed, limits.num_blocks);
        backend.poison_arena("activations");
      });
      const plan::step_plan plan = expected.next(tokens, bucket);
      BOOST_REQUIRE((found.next(tokens, bucket).content == plan.content));
      const auto clean_result = clean.group.run(plan);
      const auto dirty_result = dirty.f.group.run(plan);
      BOOST_TEST((dirty.f.group.fingerprints(plan) == clean.group.fingerprints(plan)),
                 setting << ": " << tokens << " tokens in the bucket of " << bucket);
      BOOST_TEST((std::ranges::find(clean_result.tokens, -1) == clean_result.tokens.end()));
      expected.complete(plan, clean_result);
      freed = found.complete(plan, dirty_result);
    }
}

void check_pictures(const tested_setting& setting, int32_t stride) {
  runner_fixture clean(setting.options());
  poisoned_fixture dirty(setting.options());
  const auto& checkpoint = clean.group.checkpoint();
  const int32_t merge_size = checkpoint.preprocessor.merge_size;
  const gpu::tensor_view pool = clean.group.pool().view();
  const gpu::tensor_view dirty_pool = dirty.f.group.pool().view();
  for (int32_t merged = runner_group::max_patches / (merge_size * merge_size); merged > 0;
       merged -= std::min(merged, stride)) {
    // Two pictures where there are patches for two: segments end inside the budget.
    std::vector<model::patch_rows> pictures;
    const auto add = [&](int32_t columns) {
      pictures.push_back(make_picture(checkpoint.model.vision,
                                      {1, merge_size, merge_size * columns}, setting.activation,
                                      static_cast<uint32_t>(columns)));
    };
    if (merged > 1) add(merged / 2);
    add(merged - merged / 2);
    const auto placed = place(pictures, merge_size, 0);
    dirty.poison_pool_behind(0);
    dirty.on_encoder([](auto& backend) {
      backend.poison_arena("vision_activations");
      backend.poison_arena("vision_pixels");
    });
    clean.group.encode(placed.items);
    dirty.f.group.encode(placed.items);
    for (int64_t level = 0; level < pool.shape[0]; ++level)
      BOOST_TEST((dirty.f.group.read_bytes(dirty_pool.at(level).slice_rows(0, merged)) ==
                  clean.group.read_bytes(pool.at(level).slice_rows(0, merged))),
                 setting << ": level " << level << " of " << merged << " merged rows");
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(dead_memory)

BOOST_AUTO_TEST_CASE(every_bucket_gives_every_smaller_batch_the_bits_it_has_without_poison) {
  for (const auto& setting : tested_settings())
    check_steps(setting,
                rounds_of(23, setting.checkpoint == "tiny" && setting.tp_size == 1 ? 1 : 13));
}

BOOST_AUTO_TEST_CASE(every_patch_budget_gives_every_smaller_run_the_bits_it_has_without_poison) {
  for (const auto activation : {gpu::dtype::f32, gpu::dtype::bf16})
    check_pictures({"tiny", 1, activation}, rounds_of(29, 1));
}

BOOST_AUTO_TEST_SUITE_END()
