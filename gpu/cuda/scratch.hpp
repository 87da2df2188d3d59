#pragma once

#include "gpu/arena.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace troupe::gpu::cuda {

/// Working memory of one kind of operation, zeroed when made. It grows only outside of captures, by another
/// arena: the one that earlier graphs baked stays where it is.
class scratch {
 public:
  explicit scratch(std::string name) : name_(std::move(name)) {}

  /// At least `bytes`. `may_grow` false: a broken invariant if there are fewer.
  std::byte* take(int64_t bytes, bool may_grow);
  const std::vector<arena>& arenas() const { return arenas_; }

 private:
  std::string name_;
  std::vector<arena> arenas_;
};

}  // namespace troupe::gpu::cuda
