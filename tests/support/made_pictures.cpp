#include "support/made_pictures.hpp"

#include "gpu/bfloat16.hpp"

#include <random>

namespace troupe::testing {

model::patch_rows make_picture(const config::vision_config& config, model::patch_grid grid,
                               gpu::dtype type, uint32_t seed) {
  model::patch_rows picture;
  picture.grid = grid;
  picture.type = type;
  picture.pixels.resize(
      static_cast<size_t>(int64_t{grid.patches()} * config.patch_width() * gpu::size_of(type)));
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> pixel(-1, 1);
  if (type == gpu::dtype::f32)
    for (float& value : picture.values<float>()) value = pixel(random);
  else
    for (auto& value : picture.values<gpu::bfloat16>()) value = gpu::to_bfloat16(pixel(random));
  return picture;
}

}  // namespace troupe::testing
