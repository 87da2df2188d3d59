#include "support/poisoning_operations.hpp"

#include <algorithm>

namespace troupe::testing {
namespace {

constexpr uint32_t poison_word = 0x7fffffff;

void fill(std::byte* memory, int64_t bytes) {
  auto* words = reinterpret_cast<uint32_t*>(memory);
  std::fill_n(words, bytes / int64_t{sizeof(uint32_t)}, poison_word);
}

}  // namespace

std::shared_ptr<std::byte> poisoning_operations::host_staging(int64_t bytes) {
  auto memory = forwarding_operations::host_staging(bytes);
  fill(memory.get(), bytes);
  stagings_.emplace_back(memory, bytes);
  return memory;
}

void poisoning_operations::upload(gpu::tensor_view destination, const void* source, int64_t bytes) {
  forwarding_operations::upload(destination, source, bytes);
  synchronize();
  poison_staging_of(source);
  poison(destination.data + bytes, destination.span_bytes() - bytes);
}

/// The copy is over: nobody needs what was copied.
void poisoning_operations::poison_staging_of(const void* source) {
  for (const auto& [memory, bytes] : stagings_)
    if (source >= memory.get() && source < memory.get() + bytes) fill(memory.get(), bytes);
}

gpu::captured_graph poisoning_operations::end_capture(std::string name) {
  auto graph = forwarding_operations::end_capture(std::move(name));
  for (const auto& operation : graph.baked().operations())
    for (const auto& operand : operation.operands)
      for (const auto& lease : graph.baked().arenas())
        if (operand.bytes > 0 && lease.contains(operand.address, operand.bytes)) {
          auto& bytes = operands_[lease.name()][const_cast<std::byte*>(operand.address)];
          bytes = std::max(bytes, operand.bytes);
        }
  return graph;
}

void poisoning_operations::poison_arena(const std::string& name) {
  for (const auto& [address, bytes] : operands_.at(name)) poison(address, bytes);
}

void poisoning_operations::poison_blocks(const std::vector<int32_t>& blocks, int32_t num_blocks) {
  for (const auto& [address, bytes] : operands_.at("kv_cache"))
    for (const int32_t block : blocks)
      poison(address + bytes / num_blocks * block, bytes / num_blocks);
}

void poisoning_operations::poison(std::byte* address, int64_t bytes) {
  const auto words = static_cast<size_t>(bytes) / sizeof(uint32_t);
  if (poison_.size() < words) poison_.resize(words, poison_word);
  forwarding_operations::upload(gpu::make_view(address, gpu::dtype::u8, bytes), poison_.data(),
                                static_cast<int64_t>(words * sizeof(uint32_t)));
  synchronize();
}

}  // namespace troupe::testing
