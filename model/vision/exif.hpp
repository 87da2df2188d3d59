#pragma once

#include "model/vision/image.hpp"

#include <string_view>

namespace troupe::model {

/// The orientation in an EXIF block (a TIFF file, with or without the "Exif\0\0" prefix). Only the
/// first directory is read. A block that is damaged, or has no such tag, means an upright picture:
/// metadata never makes a picture unusable. Source: CIPA DC-008 (Exif 2.32), sections 4.6.2
/// and 4.6.4.
image_orientation exif_orientation(std::string_view exif);

}  // namespace troupe::model
