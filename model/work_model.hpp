#pragma once

#include "config/model_config.hpp"
#include "gpu/tensor_view.hpp"
#include "model/vision/image_processor.hpp"

#include <cstdint>
#include <vector>

namespace troupe::model {

/// Work that a step cannot avoid, in bytes and FLOP: what benchmarks divide by a measured rate to
/// state their limit. A multiply-add counts as two.

/// Parameters of the text layers that one token's linears touch (MoE: router and the chosen
/// experts).
int64_t active_layer_parameters(const config::text_config& text);

/// Bytes one decode step of `batch` sequences with `context` visible keys each must read: layer
/// weights and lm_head once in `weight_type` (MoE: the expected number of distinct experts), and
/// every sequence's keys and values in `cache_type`.
double decode_bytes(const config::text_config& text, gpu::dtype weight_type, gpu::dtype cache_type,
                    int64_t batch, int64_t context);

/// FLOP to compute `tokens` new tokens of one sequence behind `cached` earlier ones, logits of the
/// last one included.
double prefill_flops(const config::text_config& text, int64_t tokens, int64_t cached);

/// FLOP of the vision tower's parts for one frame of `patches` patches.
struct vision_part_flops {
  double embedding = 0;
  double attention = 0;  // of one block, its projections included
  double mlp = 0;        // of one block
  double merger = 0;     // of one level
};
vision_part_flops frame_flops(const config::vision_config& vision, int64_t patches);

/// FLOP of the vision tower for these grids: patch embedding, blocks, attention inside each frame,
/// and all mergers.
double vision_flops(const config::vision_config& vision, const std::vector<patch_grid>& grids);

}  // namespace troupe::model
