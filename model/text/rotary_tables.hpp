#pragma once

#include "config/model_config.hpp"

#include <cstdint>
#include <vector>

namespace troupe::model {

/// Interleaved M-RoPE: which frequency each pair (j, j + head_dim / 2) turns with and which
/// position axis (0 t, 1 h, 2 w) drives it. cos and sin are multiplied by `attention_factor`.
struct rotary_tables {
  std::vector<float> inverse_frequency;  // [head_dim / 2]
  std::vector<int32_t> axis;             // [head_dim / 2]
  float attention_factor = 1;
};

/// Source: Qwen3-VL's interleaved sections; Peng et al. 2023 for YaRN.
rotary_tables make_rotary_tables(const config::rope_config& rope, int32_t head_dim);

}  // namespace troupe::model
