#include "gpu/cuda/kernels/sampler.hpp"

#include "gpu/cuda/kernels/launch.cuh"
#include "gpu/cuda/kernels/sampler_order.cuh"
#include "gpu/cuda/kernels/typed.cuh"
#include "gpu/error.hpp"
#include "model/plan/sampling_row.hpp"

#include <cfloat>
#include <string>

/// A cluster per row. A greedy row is read once and never kept; all others are kept in shared
/// memory, where penalties, the searches for top-k and top-p, and the draw find it.
namespace troupe::gpu::cuda {
namespace sampling {
namespace {

struct sample_call {
  int32_t* tokens;
  float* logprobs;
  matrix<int32_t> top_tokens;
  matrix<float> top_logprobs;
  matrix<const float> logits;
  const plan::sampling_row* settings;
  const plan::logit_adjustment* adjustments;
  const int32_t* resolved_ids;
  const uint8_t* token_mask;
  const int32_t* num_adjustments;
  const int32_t* live_rows;
  int32_t max_adjustments;
  int32_t num_resolved_ids;
  int32_t capacity;
  int32_t vocab;
  int32_t slice;  // tokens per CTA, a multiple of 16
  bool vectors;   // 16-byte reads of logits and 4-byte reads of the mask are aligned
};

/// What one pass over a row finds.
struct row_summary {
  standing best;   // of the tokens that may be taken; may be -infinity
  float raw_peak;  // largest logit, mask aside
  uint32_t finite;

  __device__ static row_summary nothing() { return {0, -INFINITY, 1}; }
  __device__ void add(float raw, bool allowed, int32_t id) {
    finite &= static_cast<uint32_t>(isfinite(raw));
    raw_peak = fmaxf(raw_peak, raw);
    best = max(best, standing_of(allowed ? raw + 0.0F : -INFINITY, id));
  }
};

struct combine_summaries {
  __device__ row_summary operator()(const row_summary& a, const row_summary& b) const {
    return {max(a.best, b.best), fmaxf(a.raw_peak, b.raw_peak), a.finite & b.finite};
  }
};
struct larger {
  __device__ standing operator()(standing a, standing b) const { return max(a, b); }
};
struct plus {
  template <class Value>
  __device__ Value operator()(Value a, Value b) const {
    return a + b;
  }
};

/// Philox 4x32-10: 53 random bits at the top of the word, a function of the arguments alone. The
/// CPU backend's uniform_random is these bits times 2^-53. Source: Salmon et al. 2011.
__device__ uint64_t random_bits(uint64_t seed, uint64_t counter) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t x0 = static_cast<uint32_t>(counter), x1 = static_cast<uint32_t>(counter >> 32);
  uint32_t x2 = 0, x3 = 0;
  for (int32_t round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * x0, b = uint64_t{0xCD9E8D57} * x2;
    x0 = static_cast<uint32_t>(b >> 32) ^ x1 ^ key0;
    x1 = static_cast<uint32_t>(b);
    x2 = static_cast<uint32_t>(a >> 32) ^ x3 ^ key1;
    x3 = static_cast<uint32_t>(a);
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  constexpr uint64_t low_bits = (1U << 11) - 1;
  return (uint64_t{x0} << 32 | x1) & ~low_bits;
}

/// First of the sorted adjustments whose row is not below `row`. One warp: 32 probes at a time.
__device__ int32_t first_adjustment(const plan::logit_adjustment* adjustments, int32_t count,
                                    int32_t row) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % warp_size;
  int32_t first = 0, last = count;  // the answer lies in [first, last]
  while (first < last) {
    const int32_t step = (last - first + warp_size - 1) / warp_size;
    const int32_t probe = first + (lane + 1) * step - 1;
    const bool below = probe < last && adjustments[probe].row < row;
    const int32_t passed = __popc(__ballot_sync(all_lanes, below));
    const int32_t next = first + passed * step;
    last = min(last, next + step - 1);
    first = min(next, last);
  }
  return first;
}

/// One row, seen from a thread of its cluster.
class row_sampler {
 public:
  __device__ row_sampler(const sample_call& call, shared_state& state, float* values, int32_t row,
                         int32_t rank)
      : call_(call),
        state_(state),
        settings_(call.settings[row]),
        logits_(call.logits.row(row)),
        row_(row),
        rank_(rank) {
    slice_.values = values;
    slice_.first = min(rank * call.slice, call.vocab);
    slice_.count = min(call.slice, call.vocab - slice_.first);
  }

  __device__ void run() {
    find_adjustments();
    // Below the smallest normal number a temperature has no finite inverse, and its limit is
    // greedy.
    const bool greedy = !(settings_.temperature >= FLT_MIN);
    const bool adjusted = late_token_ >= 0 || first_adjustment_ < last_adjustment_;
    row_summary summary = greedy && !adjusted ? read<false>(true) : read<true>(true);
    summary = state_.reducer.reduce(summary, turn_++, combine_summaries());
    if (summary.finite == 0) return finish(-1, 0);
    if (adjusted) summary.best = adjust();
    if (value_of(summary.best) == -INFINITY) return finish(-1, 0);
    const int32_t token = greedy ? id_of(summary.best) : draw(value_of(summary.best));
    if (settings_.num_logprobs < 0) return finish(token, 0);
    finish(token, write_logprobs(token, summary.raw_peak));
  }

 private:
  __device__ bool leads() const { return rank_ == 0 && threadIdx.x == 0; }

  __device__ void finish(int32_t token, float logprob) const {
    if (!leads()) return;
    call_.tokens[row_] = token;
    call_.logprobs[row_] = logprob;
  }

  // -- history
  // ----------------------------------------------------------------------------------------
  __device__ void find_adjustments() {
    const int32_t input = settings_.input_index;
    if (input >= 0 && input < call_.num_resolved_ids) late_token_ = call_.resolved_ids[input];
    const int32_t count = live(call_.num_adjustments, call_.max_adjustments);
    if (count == 0) return;
    __shared__ int32_t bounds[2];
    const auto warp = static_cast<int32_t>(threadIdx.x / warp_size);
    if (warp < 2) bounds[warp] = first_adjustment(call_.adjustments, count, row_ + warp);
    __syncthreads();
    first_adjustment_ = bounds[0];
    last_adjustment_ = bounds[1];
  }

  /// Applies bias and penalties to the kept values; returns the best token then.
  __device__ standing adjust() {
    if (threadIdx.x == 0) state_.late_token_met = 0;
    __syncthreads();
    for (int32_t i = first_adjustment_ + static_cast<int32_t>(threadIdx.x); i < last_adjustment_;
         i += block_threads) {
      plan::logit_adjustment entry = call_.adjustments[i];
      if (entry.token == late_token_) {
        count_once_more(entry);
        state_.late_token_met = 1;
      }
      apply(entry);
    }
    __syncthreads();
    if (threadIdx.x == 0 && late_token_ >= 0 && state_.late_token_met == 0) {
      plan::logit_adjustment entry;
      entry.token = late_token_;
      count_once_more(entry);
      apply(entry);
    }
    __syncthreads();
    standing best = 0;
    slice_.each([&](float value, int32_t id) { best = max(best, standing_of(value, id)); });
    return state_.reducer.reduce(best, turn_++, larger());
  }

  __device__ static void count_once_more(plan::logit_adjustment& entry) {
    ++entry.generated_count;
    entry.seen = 1;
  }

  /// Operation by operation as the CPU does it, so that equal logits stay equal.
  __device__ void apply(const plan::logit_adjustment& entry) const {
    const int32_t place = entry.token - slice_.first;
    if (entry.token < 0 || place < 0 || place >= slice_.count) return;
    float logit = __fadd_rn(slice_.values[place], entry.bias);
    const float factor = settings_.repetition_penalty;
    if (entry.seen != 0) logit = logit > 0 ? __fdiv_rn(logit, factor) : __fmul_rn(logit, factor);
    if (entry.generated_count > 0) {
      const float repeated =
          __fmul_rn(settings_.frequency_penalty, static_cast<float>(entry.generated_count));
      logit = __fsub_rn(logit, __fadd_rn(settings_.presence_penalty, repeated));
    }
    slice_.values[place] = logit + 0.0F;
  }

  // -- reading
  // ----------------------------------------------------------------------------------------
  /// One pass over this CTA's logits; `keep` puts them into shared memory, masked if `masked`.
  template <bool keep>
  __device__ row_summary read(bool masked) const {
    row_summary summary = row_summary::nothing();
    const auto take = [&](float raw, bool allowed, int32_t place) {
      summary.add(raw, allowed, slice_.first + place);
      if constexpr (keep) slice_.values[place] = allowed ? raw + 0.0F : -INFINITY;
    };
    if (call_.vectors)
      read_vectors(masked, take);
    else
      for (auto place = static_cast<int32_t>(threadIdx.x); place < slice_.count;
           place += block_threads) {
        const int32_t id = slice_.first + place;
        take(logits_[id], !masked || call_.token_mask[id] != 0, place);
      }
    __syncthreads();
    return summary;
  }

  /// Several reads under way per thread.
  template <class Function>
  __device__ void read_vectors(bool masked, Function take) const {
    constexpr int32_t batch = 4, size = 4;
    const auto* logits = reinterpret_cast<const float4*>(logits_ + slice_.first);
    const auto* mask = reinterpret_cast<const uint32_t*>(call_.token_mask + slice_.first);
    const int32_t vectors = slice_.count / size;
    for (auto first = static_cast<int32_t>(threadIdx.x); first < vectors;
         first += batch * block_threads) {
      float4 raw[batch];
      uint32_t allowed[batch];
#pragma unroll
      for (int32_t i = 0; i < batch; ++i) {
        const int32_t index = min(first + i * block_threads, vectors - 1);
        raw[i] = logits[index];
        allowed[i] = masked ? mask[index] : 0xffffffffU;
      }
#pragma unroll
      for (int32_t i = 0; i < batch; ++i) {
        const int32_t index = first + i * block_threads;
        if (index >= vectors) break;
#pragma unroll
        for (int32_t j = 0; j < size; ++j)
          take(reinterpret_cast<const float*>(&raw[i])[j], (allowed[i] >> 8 * j & 0xffU) != 0,
               index * size + j);
      }
    }
  }

  // -- drawing
  // ----------------------------------------------------------------------------------------
  __device__ int32_t draw(float peak) {
    const distribution law{peak, 1 / settings_.temperature};
    token_cut last;
    if (settings_.top_k > 0 && settings_.top_k < call_.vocab)
      last = descent<false>(state_, slice_, law, last).last_of(settings_.top_k);
    if (settings_.top_p < 1)
      last = descent<true>(state_, slice_, law, last).last_of_share(settings_.top_p);
    const float floor = settings_.min_p > 0
                            ? peak + settings_.temperature * logf(fminf(settings_.min_p, 1.0F))
                            : -INFINITY;
    return draw_among(law, last, floor);
  }

  /// The token at which the running weight, in the order of ids, passes the random share of the
  /// whole.
  __device__ int32_t draw_among(const distribution& law, const token_cut& last, float floor) {
    // Neighbouring tokens belong to one warp.
    const auto warp = static_cast<int32_t>(threadIdx.x / warp_size);
    const auto lane = static_cast<int32_t>(threadIdx.x % warp_size);
    const int32_t per_warp = (slice_.count + block_threads - 1) / block_threads * warp_size;
    const int32_t first = warp * per_warp, end = min(first + per_warp, slice_.count);
    const auto weight_at = [&](int32_t place) -> uint64_t {
      if (place >= end) return 0;
      const float value = slice_.values[place];
      return value >= floor && last.keeps(value, slice_.first + place) ? law.weight(value) : 0;
    };
    uint64_t own = 0;
    for (int32_t place = first + lane; place < end; place += warp_size) own += weight_at(place);
    const uint64_t of_warp = warp_inclusive_sum(own);
    if (lane == warp_size - 1) state_.warp_sums[warp] = of_warp;
    const uint64_t total = state_.reducer.reduce(own, turn_, plus());
    const uint64_t target =
        __umul64hi(random_bits(settings_.seed, static_cast<uint64_t>(settings_.position)), total);
    uint64_t passed = 0;
    for (int32_t i = 0; i < rank_; ++i) passed += state_.reducer.share_of<uint64_t>(i, turn_);
    ++turn_;
    for (int32_t i = 0; i < warp; ++i) passed += state_.warp_sums[i];
    if (passed <= target && target < passed + state_.warp_sums[warp])
      pick(first, end, target - passed, weight_at);
    cooperative_groups::this_cluster().sync();
    return state_.token;
  }

  /// The warp that holds the token: where its running weight passes `target`.
  template <class Weight>
  __device__ void pick(int32_t first, int32_t end, uint64_t target, Weight weight_at) {
    const auto lane = static_cast<int32_t>(threadIdx.x % warp_size);
    uint64_t passed = 0;
    for (int32_t start = first; start < end; start += warp_size) {
      const uint64_t inclusive = passed + warp_inclusive_sum(weight_at(start + lane));
      const uint32_t over = __ballot_sync(all_lanes, inclusive > target);
      if (over != 0) {
        if (lane == 0) broadcast(&state_.token, slice_.first + start + __ffs(over) - 1);
        return;
      }
      passed = __shfl_sync(all_lanes, inclusive, warp_size - 1);
    }
  }

  // -- log probabilities, of the logits as they came
  // -----------------------------------------------------
  __device__ float write_logprobs(int32_t token, float peak) {
    read<true>(false);
    const distribution law{peak, 1};
    float own = 0;
    slice_.each([&](float value, int32_t) { own += law.relative(value); });
    const double total = state_.reducer.reduce(static_cast<double>(own), turn_++, plus());
    const double log_total = static_cast<double>(peak) + log(total);
    const int32_t count = min(min(settings_.num_logprobs, plan::max_logprobs), call_.vocab);
    if (count > 0) write_alternatives(law, count, log_total);
    return static_cast<float>(static_cast<double>(logits_[token]) - log_total);
  }

  __device__ void write_alternatives(const distribution& law, int32_t count, double log_total) {
    const token_cut last = descent<false>(state_, slice_, law, {}).last_of(count);
    gather(state_, slice_, [&](float value, int32_t id) { return last.keeps(value, id); });
    const auto index = static_cast<int32_t>(threadIdx.x);
    if (rank_ != 0 || index >= count) return;
    const standing own = state_.members.places[index];
    int32_t better = 0;
    for (int32_t i = 0; i < count; ++i)
      better += static_cast<int32_t>(state_.members.places[i] > own);
    call_.top_tokens.row(row_)[better] = id_of(own);
    call_.top_logprobs.row(row_)[better] =
        static_cast<float>(static_cast<double>(value_of(own)) - log_total);
  }

  const sample_call& call_;
  shared_state& state_;
  const plan::sampling_row& settings_;
  const float* logits_;
  row_slice slice_;
  const int32_t row_;
  const int32_t rank_;
  int32_t turn_ = 0;  // of the reducer
  int32_t late_token_ = -1;
  int32_t first_adjustment_ = 0;
  int32_t last_adjustment_ = 0;
};

__global__ void __cluster_dims__(cluster_size, 1, 1) __launch_bounds__(block_threads, 2)
    sample_kernel(const __grid_constant__ sample_call call) {
  release_successor();
  __shared__ shared_state state;
  extern __shared__ float values[];
  const auto cluster = cooperative_groups::this_cluster();
  if (threadIdx.x == 0) state.num_members = 0;
  cluster.sync();  // every CTA runs before another writes to it
  wait_for_predecessor();
  const auto row = static_cast<int32_t>(blockIdx.x / cluster_size);
  if (row >= live(call.live_rows, call.capacity)) return;
  row_sampler(call, state, values, row, static_cast<int32_t>(cluster.block_rank())).run();
}

}  // namespace
}  // namespace sampling

void launch_sample(const sample_arguments& a, const launch_context& on) {
  using namespace sampling;
  const int64_t vocab = a.logits.width(), capacity = a.logits.rows();
  if (vocab > int64_t{id_last} + 1)
    throw error("a vocabulary of " + std::to_string(vocab) + " tokens, expected at most " +
                std::to_string(int64_t{id_last} + 1));
  constexpr int64_t line = 16;
  const int64_t slice = (vocab + cluster_size * line - 1) / (cluster_size * line) * line;
  const int64_t adjustments_bytes = a.adjustments.elements() * size_of(a.adjustments.type);
  const sample_call call{
      a.tokens.as<int32_t>(),
      a.logprobs.as<float>(),
      matrix_of<int32_t>(a.top_tokens),
      matrix_of<float>(a.top_logprobs),
      matrix_of<const float>(a.logits),
      a.settings.as<const plan::sampling_row>(),
      a.adjustments.as<const plan::logit_adjustment>(),
      a.resolved_ids.as<const int32_t>(),
      a.token_mask.as<const uint8_t>(),
      a.num_adjustments,
      a.live,
      static_cast<int32_t>(adjustments_bytes /
                           static_cast<int64_t>(sizeof(plan::logit_adjustment))),
      static_cast<int32_t>(a.resolved_ids.elements()),
      static_cast<int32_t>(capacity),
      static_cast<int32_t>(vocab),
      static_cast<int32_t>(slice),
      in_vectors(a.logits) && reinterpret_cast<uintptr_t>(a.token_mask.data) % 4 == 0};
  const auto shared_bytes = static_cast<uint32_t>(slice * size_of(dtype::f32));
  allow_shared_memory("sample", sample_kernel, shared_bytes);
  launch_kernel("sample", sample_kernel, static_cast<uint32_t>(capacity * cluster_size),
                block_threads, shared_bytes, on, call);
}

}  // namespace troupe::gpu::cuda
