#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace troupe::plan {

/// SHA-256 over decoded pixels, size, processor settings and weight identity: pictures with equal
/// digests have equal visual rows.
using media_digest = std::array<uint8_t, 32>;

/// A run of placeholder tokens that visual rows replace: one picture, or one temporal group of a video.
struct visual_span {
  int32_t first_token = 0;
  int32_t num_tokens = 0;
  int32_t media_index = 0;  // which picture or video of the request
  int32_t first_row = 0;    // offset inside that item's visual rows
  int32_t grid_height = 0;  // merged: tokens = grid_height * grid_width
  int32_t grid_width = 0;
  media_digest digest{};    // of the item
};

/// A request's tokens as the model will see them.
///
/// positions: [3][num_tokens] t, h, w. `rope_delta` = max position + 1 - number of tokens; a token
/// generated at index n has position n + rope_delta on all axes.
struct prompt {
  std::vector<int32_t> token_ids;
  std::array<std::vector<int32_t>, 3> positions;
  int32_t rope_delta = 0;
  std::vector<visual_span> spans;  // in token order, disjoint
};

/// Computes `positions` and `rope_delta` from `token_ids` and `spans`. A text run advances all axes
/// together; a span at running position p gives its token (r, c) the position (p, p + r, p + c) and
/// advances by max(height, width). Source: Qwen3-VL, interleaved M-RoPE.
void assign_positions(prompt& prompt);

}  // namespace troupe::plan
