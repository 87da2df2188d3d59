#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace troupe::gpu::cpu {

/// Working memory whose content does not outlive one operation. It grows when an operation is
/// issued, never when a graph is replayed; operations ask for its address each time they run, so
/// nothing bakes it.
class scratch {
 public:
  void reserve(int64_t bytes) {
    if (bytes <= bytes_) return;
    memory_.reset(static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes), alignment)));
    bytes_ = bytes;
  }

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  static constexpr std::align_val_t alignment{64};
  struct release {
    void operator()(std::byte* memory) const { ::operator delete(memory, alignment); }
  };

  std::unique_ptr<std::byte, release> memory_;
  int64_t bytes_ = 0;
};

}  // namespace troupe::gpu::cpu
