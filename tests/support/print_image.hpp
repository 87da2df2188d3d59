#pragma once

#include "model/vision/image_processor.hpp"

#include <ostream>

/// How failed checks show pictures' properties.
namespace troupe::model {

inline std::ostream& operator<<(std::ostream& out, image_size size) {
  return out << size.width << "x" << size.height;
}

inline std::ostream& operator<<(std::ostream& out, patch_grid grid) {
  return out << grid.t << "," << grid.height << "," << grid.width;
}

inline std::ostream& operator<<(std::ostream& out, image_error::reason why) {
  return out << "image_error::reason " << static_cast<int>(why);
}

}  // namespace troupe::model
