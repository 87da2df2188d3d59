#pragma once

#include "config/model_config.hpp"
#include "gpu/host_matrix.hpp"
#include "model/weights/safetensors.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace troupe::model {

/// A tensor of one rank's share: where it lies in mapped files, or owned bytes (converted dtypes, random
/// values).
using host_tensor = gpu::host_matrix;

struct attention_weights {
  host_tensor qkv;     // [(q + 2 kv) heads of this rank * head_dim, hidden]: q rows, k rows, v rows
  host_tensor output;  // [hidden, q heads of this rank * head_dim]
  host_tensor q_norm;  // [head_dim]
  host_tensor k_norm;
};
struct dense_mlp_weights {
  host_tensor gate_up;  // [2 * intermediate / tp, hidden]: gate rows, then up rows
  host_tensor down;     // [hidden, intermediate / tp]
};
struct expert_mlp_weights {
  host_tensor router;                // [experts, hidden]
  std::vector<host_tensor> gate_up;  // [experts] of [2 * moe_intermediate / tp, hidden]
  std::vector<host_tensor> down;     // [experts] of [hidden, moe_intermediate / tp]
};
struct decoder_layer_weights {
  host_tensor input_norm;
  host_tensor post_attention_norm;
  attention_weights attention;
  dense_mlp_weights dense;     // empty views in a sparse layer
  expert_mlp_weights experts;  // empty in a dense layer
};
/// One rank's share of the text model (tensor parallel split of spec section 9, embeddings
/// replicated).
struct text_weights {
  host_tensor embedding;  // [vocab, hidden]
  std::vector<decoder_layer_weights> layers;
  host_tensor final_norm;
  host_tensor lm_head;  // [vocab / tp, hidden] (a view of the embedding if tied)
};

struct affine {
  host_tensor weight;
  host_tensor bias;
};
struct vision_block_weights {
  affine norm1, qkv, proj, norm2, fc1, fc2;
};
struct merger_weights {
  affine norm, fc1, fc2;
};
struct vision_weights {
  affine patch_embed;              // weight [hidden, patch_width]
  host_tensor position_embedding;  // [side * side, hidden]
  std::vector<vision_block_weights> blocks;
  merger_weights merger;
  std::vector<merger_weights> deepstack_mergers;
};

/// Bytes of which loading has begun so far, of how many; called from the thread that loads them.
using load_progress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

/// Every tensor of the folder is accounted for: throws config::error listing missing, unexpected
/// and mis-shaped tensors by name (expected and found shape). MoE in all three layouts
/// (input-major, output-major, one tensor per expert), decided by shape. Prefixes
/// `model.language_model.`, `model.visual.`, `lm_head.`; the older ones without
/// `model.`/`language_model.` are accepted.
void check_tensors(const safetensors_folder& folder, const config::model_config& model);

/// The shares, which keep the folder's mapping alive; nothing is read before somebody loads them. Call
/// `check_tensors` first.
text_weights load_text_weights(std::shared_ptr<const safetensors_folder> folder,
                               const config::model_config& model, int32_t tp_rank, int32_t tp_size,
                               const load_progress& progress);
vision_weights load_vision_weights(std::shared_ptr<const safetensors_folder> folder,
                                   const config::model_config& model,
                                   const load_progress& progress);

/// Random weights of a shape, for benchmarks and tests: bf16, deterministic in `seed` and
/// independent of tp_size (rank shares are slices of one model).
text_weights random_text_weights(const config::model_config& model, uint64_t seed, int32_t tp_rank,
                                 int32_t tp_size);
vision_weights random_vision_weights(const config::model_config& model, uint64_t seed);

}  // namespace troupe::model
