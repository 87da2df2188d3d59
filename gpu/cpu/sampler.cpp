#include "gpu/cpu/sampler.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

namespace troupe::gpu::cpu {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// Logits after bias and penalties, -infinity where a token may not be taken.
class adjusted_logits {
 public:
  adjusted_logits(const kernel_table& kernels, const sampler_input& input, std::span<float> memory)
      : logits_(memory) {
    kernels.copy_masked(logits_.data(), input.logits.data(), input.token_mask.data(),
                        static_cast<int64_t>(input.logits.size()));
    bool late_is_new = input.late_token >= 0;
    for (plan::logit_adjustment entry : input.adjustments) {
      if (entry.token == input.late_token) {
        entry = with_one_more(entry);
        late_is_new = false;
      }
      adjust(input.settings, entry);
    }
    if (late_is_new) adjust(input.settings, with_one_more({.token = input.late_token}));
  }

  std::span<float> values() const { return logits_; }

 private:
  static plan::logit_adjustment with_one_more(plan::logit_adjustment entry) {
    ++entry.generated_count;
    entry.seen = 1;
    return entry;
  }

  void adjust(const plan::sampling_row& settings, const plan::logit_adjustment& entry) {
    if (entry.token < 0 || static_cast<size_t>(entry.token) >= logits_.size()) return;
    float& logit = logits_[static_cast<size_t>(entry.token)];
    logit += entry.bias;
    if (entry.seen != 0)
      logit = logit > 0 ? logit / settings.repetition_penalty : logit * settings.repetition_penalty;
    if (entry.generated_count > 0)
      logit -= settings.presence_penalty +
               settings.frequency_penalty * static_cast<float>(entry.generated_count);
  }

  std::span<float> logits_;
};

/// Larger value first, lower id first among equals.
auto better_in(std::span<const float> values) {
  return [values](int32_t a, int32_t b) {
    const float x = values[static_cast<size_t>(a)], y = values[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
}

/// The ids of the `count` best values, best first. One pass over `values`: candidates collect in
/// `ids`, and whenever they are twice too many the worse half goes.
std::span<int32_t> best_ids(std::span<const float> values, int64_t count, std::span<int32_t> ids) {
  const auto better = better_in(values);
  const auto wanted = static_cast<size_t>(count);
  if (2 * wanted >= values.size()) {
    std::iota(ids.begin(), ids.end(), 0);
    std::partial_sort(ids.begin(), ids.begin() + count, ids.end(), better);
    return ids.first(wanted);
  }
  size_t kept = 0;
  float bar = minus_infinity;
  for (size_t id = 0; id < values.size(); ++id) {
    if (kept >= wanted && values[id] <= bar) continue;
    ids[kept++] = static_cast<int32_t>(id);
    if (kept < 2 * wanted) continue;
    std::nth_element(ids.begin(), ids.begin() + count - 1, ids.begin() + 2 * count, better);
    kept = wanted;
    bar = values[static_cast<size_t>(ids[wanted - 1])];
  }
  std::sort(ids.begin(), ids.begin() + static_cast<int64_t>(kept), better);
  return ids.first(wanted);
}

int32_t best_id(const kernel_table& kernels, std::span<const float> values) {
  return static_cast<int32_t>(
      kernels.place_of_largest(values.data(), static_cast<int64_t>(values.size())));
}

/// Relative probabilities: exp((logit - peak) / temperature).
struct distribution {
  float peak;
  float inverse_temperature;

  double weight(float logit) const {
    return std::exp(static_cast<double>(logit - peak) * static_cast<double>(inverse_temperature));
  }
};

double total_weight(const distribution& law, std::span<const float> values,
                    std::span<const int32_t> ids) {
  double total = 0;
  for (const int32_t id : ids) total += law.weight(values[static_cast<size_t>(id)]);
  return total;
}

/// How many of the best ids it takes to hold `mass`; all if they hold less.
size_t nucleus_size(const distribution& law, std::span<const float> values,
                    std::span<const int32_t> ids, double mass) {
  double held = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    held += law.weight(values[static_cast<size_t>(ids[i])]);
    if (held >= mass) return i + 1;
  }
  return ids.size();
}

/// Moves the best ids that it takes to hold `mass` to the front and returns them, in no order.
/// Halves the undecided ones until one is left: linear time, where sorting a flat distribution is
/// not.
std::span<int32_t> select_nucleus(const distribution& law, std::span<const float> values,
                                  std::span<int32_t> ids, double mass) {
  size_t first = 0, last = ids.size();  // ids before `first` are in, from `last` on out
  while (last - first > 1) {
    const size_t middle = first + (last - first) / 2;
    const auto at = [&](size_t i) { return ids.begin() + static_cast<int64_t>(i); };
    std::nth_element(at(first), at(middle), at(last), better_in(values));
    const double better_half = total_weight(law, values, ids.subspan(first, middle - first));
    if (better_half >= mass) {
      last = middle;
    } else {
      mass -= better_half;
      first = middle;
    }
  }
  return ids.first(last);
}

/// The tokens that top-k and top-p leave.
std::span<int32_t> truncate(const kernel_table& kernels, const distribution& law,
                            const plan::sampling_row& settings, std::span<const float> values,
                            std::span<int32_t> memory) {
  const auto vocab = static_cast<int64_t>(values.size());
  const double top_p = static_cast<double>(settings.top_p);
  if (settings.top_k > 0 && settings.top_k < vocab) {
    const auto ids = best_ids(values, settings.top_k, memory);
    return ids.first(nucleus_size(law, values, ids, top_p * total_weight(law, values, ids)));
  }
  const double mass =
      top_p * kernels.sum_exp(values.data(), vocab, law.peak, law.inverse_temperature);
  // A nucleus is mostly small: a few sorted ids hold it.
  constexpr int64_t first_guess = 256;
  if (first_guess < vocab) {
    const auto ids = best_ids(values, first_guess, memory);
    const size_t size = nucleus_size(law, values, ids, mass);
    if (size < ids.size()) return ids.first(size);
  }
  std::iota(memory.begin(), memory.end(), 0);
  return select_nucleus(law, values, memory, mass);
}

/// The id at which the running weight, in the order of `ids`, passes `random` of the whole.
int32_t draw(const distribution& law, std::span<const float> values, std::span<const int32_t> ids,
             double random) {
  const double target = random * total_weight(law, values, ids);
  double passed = 0;
  for (const int32_t id : ids) {
    passed += law.weight(values[static_cast<size_t>(id)]);
    if (passed > target) return id;
  }
  return ids.back();
}

/// The same over all ids: stretches are skipped by their sums.
int32_t draw_from_all(const kernel_table& kernels, const distribution& law,
                      std::span<const float> values, double random) {
  constexpr size_t stretch = 4096;
  const auto weight_of = [&](std::span<const float> part) {
    return kernels.sum_exp(part.data(), static_cast<int64_t>(part.size()), law.peak,
                           law.inverse_temperature);
  };
  const auto part_at = [&](size_t start) {
    return values.subspan(start, std::min(stretch, values.size() - start));
  };
  double total = 0;
  for (size_t start = 0; start < values.size(); start += stretch)
    total += weight_of(part_at(start));
  double left = random * total;
  int32_t last = best_id(kernels, values);
  for (size_t start = 0; start < values.size(); start += stretch) {
    const auto part = part_at(start);
    const double weight = weight_of(part);
    if (left >= weight) {
      left -= weight;
      continue;
    }
    for (size_t i = 0; i < part.size(); ++i) {
      const double own = law.weight(part[i]);
      if (own > 0) last = static_cast<int32_t>(start + i);
      left -= own;
      if (left < 0) return last;
    }
    return last;  // rounding left a crumb
  }
  return last;
}

int32_t draw_token(const kernel_table& kernels, const plan::sampling_row& settings,
                   std::span<float> values, std::span<int32_t> ids) {
  const distribution law{values[static_cast<size_t>(best_id(kernels, values))],
                         1 / settings.temperature};
  const double random = uniform_random(settings.seed, static_cast<uint64_t>(settings.position));
  const float floor = settings.min_p > 0 ? law.peak + settings.temperature *
                                                          std::log(std::min(settings.min_p, 1.0F))
                                         : minus_infinity;
  const auto too_unlikely = [&](float logit) { return logit < floor; };
  if (settings.top_k <= 0 && settings.top_p >= 1) {
    std::replace_if(values.begin(), values.end(), too_unlikely, minus_infinity);
    return draw_from_all(kernels, law, values, random);
  }
  const auto kept = truncate(kernels, law, settings, values, ids);
  // In the order of ids: the draw does not depend on how the set was found.
  const auto end = std::remove_if(kept.begin(), kept.end(), [&](int32_t id) {
    return too_unlikely(values[static_cast<size_t>(id)]);
  });
  std::sort(kept.begin(), end);
  return draw(law, values, kept.first(static_cast<size_t>(end - kept.begin())), random);
}

void write_logprobs(const kernel_table& kernels, const sampler_input& input, float peak,
                    std::span<int32_t> ids, sampler_result& result) {
  const auto vocab = static_cast<int64_t>(input.logits.size());
  const double log_total =
      static_cast<double>(peak) + std::log(kernels.sum_exp(input.logits.data(), vocab, peak, 1));
  const auto logprob = [&](int32_t token) {
    return static_cast<float>(static_cast<double>(input.logits[static_cast<size_t>(token)]) -
                              log_total);
  };
  result.logprob = logprob(result.token);
  const int64_t count = std::min<int64_t>(input.settings.num_logprobs, vocab);
  if (count == 0) return;
  const auto best = best_ids(input.logits, count, ids);
  for (size_t i = 0; i < best.size(); ++i) {
    result.top_tokens[i] = best[i];
    result.top_logprobs[i] = logprob(best[i]);
  }
}

}  // namespace

double uniform_random(uint64_t seed, uint64_t counter) {
  std::array<uint32_t, 2> key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  std::array<uint32_t, 4> x{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0,
                            0};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * x[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * x[2];
    x = {static_cast<uint32_t>(b >> 32) ^ x[1] ^ key[0], static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ x[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  const uint64_t bits = (uint64_t{x[0]} << 32 | x[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

void sample_row(const kernel_table& kernels, const sampler_input& input,
                const sampler_scratch& scratch, sampler_result& result) {
  result.token = -1;
  result.logprob = 0;
  const float peak =
      kernels.largest_finite(input.logits.data(), static_cast<int64_t>(input.logits.size()));
  if (!std::isfinite(peak)) return;
  const adjusted_logits adjusted(kernels, input, scratch.logits);
  const auto values = adjusted.values();
  const int32_t best = best_id(kernels, values);
  if (values[static_cast<size_t>(best)] == minus_infinity) return;
  // Below the smallest normal number a temperature has no finite inverse, and its limit is greedy.
  result.token = input.settings.temperature >= std::numeric_limits<float>::min()
                     ? draw_token(kernels, input.settings, values, scratch.ids)
                     : best;
  if (input.settings.num_logprobs >= 0) write_logprobs(kernels, input, peak, scratch.ids, result);
}

}  // namespace troupe::gpu::cpu
