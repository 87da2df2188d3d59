#pragma once

#include <functional>
#include <string>

namespace troupe::cli {

/// Runs `run` once while its CUDA kernels are recorded and prints, per kernel of the first device: how often
/// it ran, its time, and its share of the time from the first start to the last end. Kernels overlap, so
/// shares may add up to more than one; what is left without any kernel is printed too. With `picture` a
/// timeline is written there as SVG, one lane per kernel name. Returns the seconds from the first start to
/// the last end.
double print_kernel_profile(const std::function<void()>& run, const std::string& picture);

}  // namespace troupe::cli
