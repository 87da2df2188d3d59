#pragma once

#include "config/json_fields.hpp"

#include <cstdint>

/// What a checkpoint's numbers may be: far above every released size, and small enough that the
/// products in model_config.hpp (q_width, patch_width) fit 32 bits.
namespace troupe::config::ranges {

constexpr range<int32_t> hidden_sizes{1, 1 << 16};
constexpr range<int32_t> intermediate_sizes{1, 1 << 20};
constexpr range<int32_t> layer_counts{1, 1024};
constexpr range<int32_t> head_counts{1, 1024};
constexpr range<int32_t> head_dims{2, 1024};
constexpr range<int32_t> expert_counts{1, 4096};
constexpr range<int32_t> vocabulary_sizes{1, 1 << 24};
constexpr range<int32_t> token_ids{0, vocabulary_sizes.most - 1};
constexpr range<int64_t> context_lengths{1, int64_t{1} << 24};
constexpr range<int32_t> patch_sizes{1, 64};
constexpr range<int32_t> temporal_patch_sizes{1, 8};
constexpr range<int32_t> merge_sizes{1, 8};
constexpr range<int64_t> pixel_counts{1, int64_t{1} << 40};

}  // namespace troupe::config::ranges
