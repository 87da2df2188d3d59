#pragma once

#include "gpu/cuda/kernels/attention_decode_plan.cuh"
#include "gpu/cuda/kernels/rotary.cuh"

namespace troupe::gpu::cuda::decode {

/// Norms and rotates heads of the step's tokens on their way from qkv to shared memory, a warp a
/// head. Holds what belongs to the token it met last: a lane's part of the angles, and the slot.
template <int32_t head_dim>
class head_rotator {
 public:
  static constexpr int32_t half = head_dim / 2;
  static constexpr int32_t pairs = (half + warp_size - 1) / warp_size;
  using head = lane_pairs<pairs>;

  /// No kernel writes what this reads: it may be called before the predecessor has ended.
  __device__ void aim(const new_heads& heads, int32_t token) {
    if (token == token_) return;
    token_ = token;
    slot_ = heads.slot_mapping[token];
    angles_ = lane_angles<pairs>::of(heads.rotary, token, half);
  }

  __device__ void turn(head& values, const new_heads& heads, const bf16* weight, int32_t token) {
    aim(heads, token);
    values = norm_and_rotate<bf16>(values, head::load(weight, half), angles_, half, heads.epsilon);
  }

  /// Writes the key and value of the token met last to their place in the cache.
  __device__ void store(const parameters& p, const head& key, const head& value,
                        int32_t kv_head) const {
    if (slot_ < 0) return;
    const auto& keys = p.call.keys;
    bf16* place =
        p.heads.cache + (keys.row_in(slot_ >> keys.log2_block_size, slot_, kv_head) - keys.blocks);
    key.store(place, half);
    value.store(place + keys.value_offset(), half);
  }

 private:
  lane_angles<pairs> angles_;
  int32_t token_ = -1;
  int32_t slot_ = -1;
};

/// Where nothing is rotated.
struct no_rotator {};

}  // namespace troupe::gpu::cuda::decode
