#include "model/vision/vision_staging.hpp"

#include "config/ensure.hpp"
#include "gpu/cuda_backend.hpp"

#include <utility>

namespace troupe::model {

struct vision_staging::state {
  gpu::arena arena{"vision_staging", gpu::memory_kind::host_shared};
  int32_t reservation = 0;
  std::shared_ptr<void> visible_to_device;  // destroyed before the memory goes

  explicit state(const staging_shape& shape) {
    config::ensure(shape.max_patches > 0 && shape.patch_width > 0, "slots of {} patches of {} values",
                   shape.max_patches, shape.patch_width);
    reservation = arena.reserve("slots", shape.type,
                                {num_slots, shape.max_patches, shape.patch_width});
  }
};

vision_staging::vision_staging(std::unique_ptr<state> made) : state_(std::move(made)) {}

vision_staging::vision_staging(const staging_shape& shape)
    : vision_staging(std::make_unique<state>(shape)) {
  state_->arena.seal();
}

vision_staging vision_staging::map(const staging_shape& shape, int file_descriptor,
                                   gpu::device_kind reader) {
  vision_staging mapped(std::make_unique<state>(shape));
  auto& arena = mapped.state_->arena;
  arena.seal(file_descriptor);
  if (reader == gpu::device_kind::cuda)
    mapped.state_->visible_to_device = gpu::show_to_cuda_devices(arena.base(), arena.bytes());
  return mapped;
}

vision_staging::~vision_staging() = default;
vision_staging::vision_staging(vision_staging&&) noexcept = default;

gpu::tensor_view vision_staging::slot(int32_t index) const {
  config::ensure(index >= 0 && index < num_slots, "slot {} of {}", index, num_slots);
  return state_->arena.view(state_->reservation).at(index);
}
int vision_staging::file_descriptor() const {
  return state_->arena.file_descriptor();
}

}  // namespace troupe::model
