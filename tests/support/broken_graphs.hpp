#pragma once

#include "support/forwarding_operations.hpp"

#include <string>
#include <utility>
#include <vector>

/// Backends whose eager runs are right and whose graphs are not.
namespace troupe::testing {

/// Knows whether what is issued is recorded.
class recording_operations : public forwarding_operations {
 public:
  using forwarding_operations::forwarding_operations;
  void begin_capture(std::vector<gpu::arena_lease> arenas) override {
    recording_ = true;
    forwarding_operations::begin_capture(std::move(arenas));
  }
  gpu::captured_graph end_capture(std::string name) override {
    recording_ = false;
    return forwarding_operations::end_capture(std::move(name));
  }

 protected:
  bool recording() const { return recording_; }

 private:
  bool recording_ = false;
};

/// Its graphs read the deepstack slot, as their manifests show, and add nothing of it.
class deepstackless_graphs : public recording_operations {
 public:
  using recording_operations::recording_operations;
  void all_reduce_add_norm(gpu::tensor_view normed, gpu::tensor_view residual,
                           gpu::tensor_view partial, gpu::tensor_view norm_weight, float epsilon,
                           const gpu::visual_slot& slot, int32_t level, const gpu::lane_view& lane,
                           gpu::live_count rows) override {
    if (recording() && level > 0) {
      gather_rows(normed, slot.pool.at(level), slot.row_map, rows);  // overwritten at once
      level = -1;
    }
    recording_operations::all_reduce_add_norm(normed, residual, partial, norm_weight, epsilon, slot,
                                              level, lane, rows);
  }
};

/// Its graphs differ from eager runs by the last bits of a norm.
class imprecise_graphs : public recording_operations {
 public:
  using recording_operations::recording_operations;
  void rms_norm(gpu::tensor_view output, gpu::tensor_view input, gpu::tensor_view weight,
                float epsilon, gpu::live_count rows) override {
    recording_operations::rms_norm(output, input, weight, recording() ? 1.01F * epsilon : epsilon,
                                   rows);
  }
};

}  // namespace troupe::testing
