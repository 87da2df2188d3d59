#include "actors/plan_codec.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace troupe::actors {
namespace {

class byte_writer {
 public:
  template <class T>
  void value(const T& x) {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&x), sizeof(T));
  }
  template <class T>
  void array(const T* first, size_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    value(static_cast<uint32_t>(count));
    bytes_.append(reinterpret_cast<const char*>(first), count * sizeof(T));
  }
  template <class T>
  void array(const std::vector<T>& items) {
    array(items.data(), items.size());
  }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

/// Reads what a byte_writer wrote. After the first contradiction every read fails.
class byte_reader {
 public:
  explicit byte_reader(std::string_view bytes) : rest_(bytes) {}

  template <class T>
  bool value(T& x) {
    if (rest_.size() < sizeof(T)) return false;
    std::memcpy(&x, rest_.data(), sizeof(T));
    rest_.remove_prefix(sizeof(T));
    return true;
  }
  template <class T>
  bool array(std::vector<T>& items) {
    uint32_t count = 0;
    if (!value(count) || rest_.size() / sizeof(T) < count) return false;
    items.resize(count);
    if (count > 0) std::memcpy(items.data(), rest_.data(), count * sizeof(T));
    rest_.remove_prefix(count * sizeof(T));
    return true;
  }
  bool at_end() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

size_t used_blocks(const int32_t* row, size_t width) {
  while (width > 0 && row[width - 1] == 0) --width;
  return width;
}

/// Rows of `max_blocks_per_sequence` entries each, their trailing zeros left out.
void write_block_tables(byte_writer& out, const plan::step_plan& plan) {
  const auto width = static_cast<size_t>(std::max(plan.max_blocks_per_sequence, 0));
  const size_t rows = width == 0 ? 0 : plan.block_tables.size() / width;
  out.value(static_cast<uint32_t>(rows));
  for (size_t row = 0; row < rows; ++row) {
    const int32_t* first = plan.block_tables.data() + row * width;
    out.array(first, used_blocks(first, width));
  }
}

bool read_block_tables(byte_reader& in, plan::step_plan& plan) {
  uint32_t rows = 0;
  if (!in.value(rows) || plan.max_blocks_per_sequence < 0) return false;
  const auto width = static_cast<size_t>(plan.max_blocks_per_sequence);
  if (width > 0 && rows > static_cast<uint64_t>(max_padded_blocks) / width) return false;
  plan.block_tables.assign(rows * width, 0);
  std::vector<int32_t> used;
  for (size_t row = 0; row < rows; ++row) {
    if (!in.array(used) || used.size() > width) return false;
    std::copy(used.begin(), used.end(), plan.block_tables.begin() + static_cast<ptrdiff_t>(row * width));
  }
  return true;
}

}  // namespace

std::string encode_plan(const plan::step_plan& plan) {
  byte_writer out;
  out.value(plan.epoch);
  out.value(plan.step);
  out.value(plan.bucket_tokens);
  out.array(plan.token_ids);
  out.array(plan.positions);
  out.array(plan.slot_mapping);
  out.array(plan.row_map);
  out.array(plan.query_start);
  out.array(plan.context_lengths);
  out.value(plan.max_blocks_per_sequence);
  write_block_tables(out, plan);
  out.array(plan.logit_rows);
  out.array(plan.sampling);
  out.array(plan.adjustments);
  out.array(plan.cleared_blocks);
  out.value(plan.content);
  return out.take();
}

std::optional<plan::step_plan> decode_plan(std::string_view bytes) {
  byte_reader in(bytes);
  plan::step_plan plan;
  const bool whole = in.value(plan.epoch) && in.value(plan.step) && in.value(plan.bucket_tokens) &&
                     in.array(plan.token_ids) && in.array(plan.positions) &&
                     in.array(plan.slot_mapping) && in.array(plan.row_map) &&
                     in.array(plan.query_start) && in.array(plan.context_lengths) &&
                     in.value(plan.max_blocks_per_sequence) && read_block_tables(in, plan) &&
                     in.array(plan.logit_rows) && in.array(plan.sampling) &&
                     in.array(plan.adjustments) && in.array(plan.cleared_blocks) &&
                     in.value(plan.content) && in.at_end();
  if (!whole) return std::nullopt;
  return plan;
}

}  // namespace troupe::actors
