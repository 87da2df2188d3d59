#pragma once

#include <cstdint>
#include <string>

namespace troupe::cli {

/// A JPEG of a size, with detail at every scale as photographs have: its decoding costs what theirs does.
std::string sample_jpeg(int32_t width, int32_t height);

}  // namespace troupe::cli
