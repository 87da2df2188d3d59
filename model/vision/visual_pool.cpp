#include "model/vision/visual_pool.hpp"

#include "config/ensure.hpp"

#include <utility>

namespace troupe::model {

struct visual_pool::state {
  gpu::arena arena;
  int32_t reservation = 0;

  state(const config::model_config& model, gpu::dtype activation, int32_t rows,
        gpu::memory_kind kind)
      : arena("visual_pool", kind) {
    config::ensure(rows > 0, "a visual pool of {} rows", rows);
    reservation = arena.reserve(
        "rows", activation,
        {1 + model.vision.num_deepstack_levels(), rows, model.vision.out_hidden_size});
  }
};

visual_pool::visual_pool(std::unique_ptr<state> made) : state_(std::move(made)) {}

visual_pool::visual_pool(const config::model_config& model, gpu::dtype activation, int32_t rows,
                         gpu::memory_kind kind)
    : visual_pool(std::make_unique<state>(model, activation, rows, kind)) {
  state_->arena.seal();
}

visual_pool visual_pool::map(const config::model_config& model, gpu::dtype activation, int32_t rows,
                             gpu::memory_kind kind, int file_descriptor) {
  visual_pool mapped(std::make_unique<state>(model, activation, rows, kind));
  mapped.state_->arena.seal(file_descriptor);
  return mapped;
}

visual_pool::~visual_pool() = default;
visual_pool::visual_pool(visual_pool&&) noexcept = default;

gpu::tensor_view visual_pool::view() const {
  return state_->arena.view(state_->reservation);
}
gpu::arena_lease visual_pool::lease() const {
  return state_->arena.lease();
}
int visual_pool::file_descriptor() const {
  return state_->arena.file_descriptor();
}
int32_t visual_pool::rows() const {
  return static_cast<int32_t>(view().shape[1]);
}

void visual_pool::clear() {
  state_->arena.clear();
}

}  // namespace troupe::model
