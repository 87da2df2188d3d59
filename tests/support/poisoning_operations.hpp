#pragma once

#include "support/forwarding_operations.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace troupe::testing {

/// A backend whose dead memory holds a word that is NaN in fp32 and in bf16 and a number far out of
/// range as an integer. Inputs past the live ones are poisoned with every upload; activations,
/// cached blocks and whatever else graphs touch on request.
class poisoning_operations : public forwarding_operations {
 public:
  using forwarding_operations::forwarding_operations;

  /// What host memory held before it was filled lies behind the live entries of an input field.
  std::shared_ptr<std::byte> host_staging(int64_t bytes) override;
  /// What lies behind the copied part of `destination` is dead.
  void upload(gpu::tensor_view destination, const void* source, int64_t bytes) override;
  gpu::captured_graph end_capture(std::string name) override;

  /// Everything of arena `name` that the graphs captured so far touch.
  void poison_arena(const std::string& name);
  /// These blocks of the KV cache, in all layers.
  void poison_blocks(const std::vector<int32_t>& blocks, int32_t num_blocks);

 private:
  void poison(std::byte* address, int64_t bytes);
  void poison_staging_of(const void* source);

  std::vector<std::pair<std::shared_ptr<std::byte>, int64_t>> stagings_;
  /// By arena and address: the longest operand that begins there.
  std::map<std::string, std::map<std::byte*, int64_t>> operands_;
  std::vector<uint32_t> poison_;  // what is uploaded
};

}  // namespace troupe::testing
