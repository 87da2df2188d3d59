#include "tests/gpu/cpu_fixture.hpp"

#include "gpu/cpu/sampler.hpp"
#include "model/plan/sampling_row.hpp"

#include <algorithm>
#include <map>
#include <numeric>

using namespace troupe;
using namespace troupe::gpu;
using namespace troupe::gpu::cpu;
using namespace troupe::gpu::cpu::test;
using troupe::plan::logit_adjustment;
using troupe::plan::sampling_row;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// Rows to sample, with every setting neutral and greedy.
struct sample_case {
  memory tensors;
  tensor_view logits, settings, adjustments, resolved, mask;
  sampling_output output;
  live_count rows, num_adjustments;

  sample_case(int64_t capacity, int64_t vocab) {
    logits = tensors.add_random(dtype::f32, {capacity, vocab});
    settings = tensors.add(dtype::u8, {capacity, static_cast<int64_t>(sizeof(sampling_row))});
    adjustments = tensors.add(dtype::u8, {32 * static_cast<int64_t>(sizeof(logit_adjustment))});
    resolved = tensors.add_ids({1, 2, 3, 4});
    mask = tensors.add(dtype::u8, {vocab});
    std::memset(mask.data, 1, static_cast<size_t>(vocab));
    output = {tensors.add(dtype::i32, {capacity}), tensors.add(dtype::f32, {capacity}),
              tensors.add(dtype::i32, {capacity, plan::max_logprobs}),
              tensors.add(dtype::f32, {capacity, plan::max_logprobs})};
    rows = tensors.add_count(static_cast<int32_t>(capacity));
    num_adjustments = tensors.add_count(0);
    for (int64_t row = 0; row < capacity; ++row) {
      setting(row) = sampling_row{};
      setting(row).temperature = 0;
    }
  }

  sampling_row& setting(int64_t row) { return settings.as<sampling_row>()[row]; }
  float& logit(int64_t row, int64_t token) {
    return logits.as<float>()[row * logits.row_stride + token];
  }
  int32_t token(int64_t row) const { return output.tokens.as<int32_t>()[row]; }
  void adjust(std::vector<logit_adjustment> entries) {
    std::copy(entries.begin(), entries.end(), adjustments.as<logit_adjustment>());
    memory::set(num_adjustments, static_cast<int32_t>(entries.size()));
  }
  void sample(operations& backend) {
    run(backend, tensors, [&] {
      backend.sample(output, logits, settings, adjustments, num_adjustments, resolved, mask, rows);
    });
  }
};

/// Draws `count` tokens of one row by position and returns how often each came.
std::map<int32_t, int> draw(sampling_row settings, const std::vector<float>& logits, int count) {
  const std::vector<uint8_t> mask(logits.size(), 1);
  std::vector<float> adjusted(logits.size());
  std::vector<int32_t> ids(logits.size());
  std::map<int32_t, int> counts;
  for (int i = 0; i < count; ++i) {
    settings.position = i;
    sampler_result result;
    sample_row(kernels_of(best_instruction_set()), {logits, mask, settings, {}, -1},
               {adjusted, ids}, result);
    ++counts[result.token];
  }
  return counts;
}

std::vector<double> probabilities(const std::vector<float>& logits, double temperature) {
  std::vector<double> result;
  for (const float logit : logits)
    result.push_back(std::exp(static_cast<double>(logit) / temperature));
  const double total = std::accumulate(result.begin(), result.end(), 0.0);
  for (double& value : result) value /= total;
  return result;
}

double chi_square(const std::map<int32_t, int>& counts, const std::vector<double>& expected,
                  int draws) {
  double sum = 0;
  for (size_t id = 0; id < expected.size(); ++id) {
    if (expected[id] == 0) continue;
    const auto found = counts.find(static_cast<int32_t>(id));
    const double count = found == counts.end() ? 0 : found->second;
    sum += std::pow(count - expected[id] * draws, 2) / (expected[id] * draws);
  }
  return sum;
}

const std::vector<float> ten_logits{2.0F, 0.5F, -1.0F, 1.2F, 0.0F, 1.9F, -0.3F, 0.7F, -2.0F, 1.0F};
// 99.9 % quantile of the chi-square distribution with 9 degrees of freedom.
constexpr double chi_square_9 = 27.88;

}  // namespace

BOOST_AUTO_TEST_SUITE(cpu_sampler_test)

BOOST_AUTO_TEST_CASE(greedy_takes_the_largest_and_the_lowest_id_on_a_tie) {
  for (const auto set : instruction_sets()) {
    const auto backend = make_backend(set);
    for (const int64_t vocab : {1, 2, 17, 640, 5000}) {
      sample_case test(3, vocab);
      test.logit(0, vocab - 1) = 50;
      test.logit(1, vocab / 2) = 50;
      test.logit(1, vocab - 1) = 50;
      for (int64_t i = 0; i < vocab; ++i) test.logit(2, i) = -7;
      test.sample(*backend);
      BOOST_TEST(test.token(0) == vocab - 1);
      BOOST_TEST(test.token(1) == vocab / 2);
      BOOST_TEST(test.token(2) == 0);
    }
  }
}

BOOST_AUTO_TEST_CASE(logits_that_are_not_finite_give_no_token) {
  for (const auto set : instruction_sets()) {
    const auto backend = make_backend(set);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity})
      for (const int64_t place : {0, 15, 16, 31, 35}) {
        sample_case test(2, 36);
        test.logit(0, place) = bad;
        test.setting(0).num_logprobs = 3;
        test.sample(*backend);
        BOOST_TEST(test.token(0) == -1);
        BOOST_TEST(test.token(1) >= 0);
      }
  }
}

BOOST_AUTO_TEST_CASE(masked_tokens_are_never_taken) {
  const auto backend = make_backend(best_instruction_set());
  sample_case test(2, 10);
  test.logit(0, 4) = 90;
  test.setting(1).temperature = 100;
  for (int64_t i = 0; i < 10; ++i) set_value(test.mask, 0, i, i == 6);
  test.sample(*backend);
  BOOST_TEST(test.token(0) == 6);
  BOOST_TEST(test.token(1) == 6);
  set_value(test.mask, 0, 6, 0);
  test.sample(*backend);
  BOOST_TEST(test.token(0) == -1);
}

BOOST_AUTO_TEST_CASE(penalties_and_bias_change_their_own_row) {
  const auto backend = make_backend(best_instruction_set());
  const auto prepare = [](sample_case& test) {
    for (int64_t row = 0; row < 4; ++row) {
      for (int64_t i = 0; i < 20; ++i) test.logit(row, i) = -1;
      test.logit(row, 5) = 4;
      test.logit(row, 6) = 3;
    }
  };
  sample_case test(4, 20);
  prepare(test);
  test.setting(1).repetition_penalty = 1.5F;  // 4 / 1.5 < 3
  test.setting(2).frequency_penalty = 0.4F;   // 4 - 3 * 0.4 < 3
  test.setting(3).presence_penalty = 1.1F;
  test.adjust({{0, 7, 0, 0, 4.5F}, {1, 5, 1, 1, 0}, {2, 5, 3, 1, 0}, {3, 5, 1, 1, 0}});
  test.sample(*backend);
  BOOST_TEST(test.token(0) == 5);  // -1 + 4.5 < 4
  BOOST_TEST(test.token(1) == 6);
  BOOST_TEST(test.token(2) == 6);
  BOOST_TEST(test.token(3) == 6);

  sample_case weaker(4, 20);
  prepare(weaker);
  weaker.setting(1).repetition_penalty = 1.3F;
  weaker.setting(2).frequency_penalty = 0.3F;
  weaker.setting(3).presence_penalty = 0.9F;
  weaker.adjust({{0, 7, 0, 0, 5.5F}, {1, 5, 1, 1, 0}, {2, 5, 3, 1, 0}, {3, 5, 1, 1, 0}});
  weaker.sample(*backend);
  BOOST_TEST(weaker.token(0) == 7);
  BOOST_TEST(weaker.token(1) == 5);
  BOOST_TEST(weaker.token(2) == 5);
  BOOST_TEST(weaker.token(3) == 5);
}

BOOST_AUTO_TEST_CASE(a_negative_logit_is_multiplied_by_the_repetition_penalty) {
  const auto backend = make_backend(best_instruction_set());
  sample_case test(1, 2);
  test.logit(0, 0) = -1;
  test.logit(0, 1) = -1.5F;
  test.setting(0).repetition_penalty = 2;
  test.adjust({{0, 0, 0, 1, 0}});
  test.sample(*backend);
  BOOST_TEST(test.token(0) == 1);
}

BOOST_AUTO_TEST_CASE(the_token_of_the_step_before_counts) {
  const auto backend = make_backend(best_instruction_set());
  for (const bool listed : {false, true}) {
    sample_case test(2, 8);
    for (int64_t row = 0; row < 2; ++row) {
      for (int64_t i = 0; i < 8; ++i) test.logit(row, i) = 0;
      test.logit(row, 3) = 2;
      test.logit(row, 1) = 1.5F;
      test.setting(row).frequency_penalty = listed ? 0.3F : 0.6F;
    }
    test.setting(0).input_index = 2;  // resolved id 3
    if (listed) test.adjust({{0, 3, 1, 1, 0}});
    test.sample(*backend);
    BOOST_TEST(test.token(0) == 1);
    BOOST_TEST(test.token(1) == 3);
  }
}

BOOST_AUTO_TEST_CASE(logprobs_are_of_the_raw_logits) {
  for (const auto set : instruction_sets()) {
    const auto backend = make_backend(set);
    sample_case test(2, 700);
    test.setting(0).num_logprobs = 20;
    test.setting(0).temperature = 3;
    test.setting(0).seed = 5;
    test.setting(1).num_logprobs = 0;
    test.adjust({{0, 100, 1, 1, 30}, {1, 7, 0, 0, 100}});
    test.sample(*backend);
    for (int64_t row = 0; row < 2; ++row) {
      double total = 0;
      for (int64_t i = 0; i < 700; ++i) total += std::exp(static_cast<double>(test.logit(row, i)));
      const double wanted = static_cast<double>(test.logit(row, test.token(row))) - std::log(total);
      BOOST_TEST(value_at(test.output.logprobs, 0, row) == wanted,
                 boost::test_tools::tolerance(1e-5));
    }
    BOOST_TEST(test.token(1) == 7);
    std::vector<int32_t> order(700);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return test.logit(0, a) > test.logit(0, b); });
    for (int64_t i = 0; i < 20; ++i)
      BOOST_TEST(value_at(test.output.top_tokens, 0, i) == order[static_cast<size_t>(i)]);
  }
}

BOOST_AUTO_TEST_CASE(draws_follow_the_distribution) {
  constexpr int draws = 20000;
  for (const float temperature : {0.5F, 1.0F, 2.0F}) {
    sampling_row settings;
    settings.temperature = temperature;
    settings.seed = 1234;
    const auto counts = draw(settings, ten_logits, draws);
    BOOST_TEST(chi_square(counts, probabilities(ten_logits, temperature), draws) < chi_square_9);
  }
}

BOOST_AUTO_TEST_CASE(truncated_draws_follow_the_renormalised_distribution) {
  constexpr int draws = 20000;
  sampling_row settings;
  settings.seed = 99;
  const auto check = [&](const std::vector<int32_t>& kept) {
    auto wanted = probabilities(ten_logits, 1);
    double total = 0;
    for (size_t id = 0; id < wanted.size(); ++id) {
      if (std::find(kept.begin(), kept.end(), id) == kept.end()) wanted[id] = 0;
      total += wanted[id];
    }
    for (double& value : wanted) value /= total;
    const auto counts = draw(settings, ten_logits, draws);
    for (const auto& [id, count] : counts) BOOST_TEST(wanted[static_cast<size_t>(id)] > 0);
    BOOST_TEST(chi_square(counts, wanted, draws) < chi_square_9);
  };
  settings.top_k = 3;
  check({0, 5, 3});
  settings.top_k = 0;
  settings.top_p = 0.5F;  // 0.28 + 0.26 pass a half
  check({0, 5});
  settings.top_p = 1;
  settings.min_p = 0.4F;  // exp(1.2 - 2) = 0.45, exp(1.0 - 2) = 0.37
  check({0, 5, 3});
  settings.top_k = 4;
  settings.top_p = 0.65F;  // of 0.28, 0.26, 0.13 and 0.10, renormalised: 0.37 + 0.33 pass
  settings.min_p = 0;
  check({0, 5});
}

BOOST_AUTO_TEST_CASE(a_large_vocabulary_is_drawn_from_whole_and_in_part) {
  // Two heaps of equal mass far apart: a draw that loses stretches would miss one.
  std::vector<float> logits(10000, -30.0F);
  logits[17] = 0;
  logits[9001] = 0;
  sampling_row settings;
  settings.seed = 4;
  for (const float top_p : {1.0F, 0.99F}) {
    settings.top_p = top_p;
    const auto counts = draw(settings, logits, 2000);
    BOOST_TEST(counts.size() == 2u);
    BOOST_TEST(std::abs(counts.at(17) - 1000) < 110);  // 5 sigma
  }
  // Flat: the nucleus is larger than any first guess.
  const std::vector<float> flat(4096, 1.0F);
  settings.top_p = 0.75F;
  for (const auto& [id, count] : draw(settings, flat, 3000)) BOOST_TEST(id < 3073);
}

BOOST_AUTO_TEST_CASE(settings_at_the_edge_still_give_the_likeliest_token) {
  sampling_row settings;
  settings.seed = 8;
  const auto always_the_best = [&] {
    const auto counts = draw(settings, ten_logits, 50);
    return counts.size() == 1 && counts.begin()->first == 0;
  };
  for (const float temperature : {1e-45F, 1e-38F, 1e-30F, 1e-3F}) {
    settings.temperature = temperature;
    BOOST_TEST(always_the_best());
    settings.top_p = 0.5F;
    BOOST_TEST(always_the_best());
    settings.top_p = 1;
  }
  settings.temperature = 1;
  settings.min_p = 2;
  BOOST_TEST(always_the_best());
  settings.min_p = 0;
  settings.top_p = 0;
  BOOST_TEST(always_the_best());
  settings.top_p = 1;
  settings.top_k = 1;
  BOOST_TEST(always_the_best());
}

BOOST_AUTO_TEST_CASE(random_numbers_depend_on_seed_and_position_alone) {
  BOOST_TEST(uniform_random(1, 2) == uniform_random(1, 2));
  BOOST_TEST(uniform_random(1, 2) != uniform_random(2, 2));
  BOOST_TEST(uniform_random(1, 2) != uniform_random(1, 3));
  BOOST_TEST(uniform_random(1, uint64_t{1} << 32) != uniform_random(1, 0));
  double sum = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    const double value = uniform_random(42, i);
    BOOST_REQUIRE((value >= 0 && value < 1));
    sum += value;
  }
  BOOST_TEST(std::abs(sum / 10000 - 0.5) < 0.015);  // 5 sigma
}

BOOST_AUTO_TEST_CASE(a_row_gets_the_same_token_beside_any_others) {
  const auto backend = make_backend(best_instruction_set());
  sample_case test(6, 900);
  for (int64_t row = 0; row < 6; ++row) {
    test.setting(row).temperature = 1.5F;
    test.setting(row).seed = 11;
    test.setting(row).top_p = row % 2 == 0 ? 0.9F : 1;
    test.setting(row).position = row;
  }
  test.sample(*backend);
  std::vector<int32_t> together;
  for (int64_t row = 0; row < 6; ++row) together.push_back(test.token(row));
  memory::set(test.rows, 1);
  for (int64_t row = 0; row < 6; ++row) {
    backend->sample(test.output, test.logits.slice_rows(row, 1), test.settings.slice_rows(row, 1),
                    test.adjustments, test.num_adjustments, test.resolved, test.mask, test.rows);
    BOOST_TEST(test.token(0) == together[static_cast<size_t>(row)]);
  }
}

BOOST_AUTO_TEST_SUITE_END()
