#include "model/weights/random_weights.hpp"

#include "model/weights/host_memory.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>

namespace troupe::model {

namespace {

static_assert(std::endian::native == std::endian::little, "values lie in a word lowest first");

// One 64-bit random number makes four values, in one go: each has 16 of its bits.
constexpr int64_t values_per_word = 4;
constexpr uint64_t in_every_value = 0x0001000100010001U;

/// A strong mix of 64 bits. Source: Steele, Lea and Flood 2014 (SplitMix64).
constexpr uint64_t mix(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9U;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebU;
  return bits ^ (bits >> 31);
}

/// Source: Fowler, Noll and Vo (FNV-1a).
constexpr uint64_t hash_of(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3U;
  return hash;
}

/// How 16 random bits become a bf16 number, without arithmetic on floats.
class value_maker {
 public:
  explicit value_maker(const tensor_spec& tensor) {
    if (tensor.vector() && !tensor.name.ends_with(".bias")) {
      fixed_ = 0x3f80 * in_every_value;   // 1.0
      random_ = 0x001f * in_every_value;  // up to a quarter of the mantissa
      return;
    }
    // Sign and mantissa are random; two more bits take up to 3 off the exponent. The root mean
    // square of the four equally likely octaves is 0.88 of the first.
    const auto fan_in = static_cast<double>(tensor.vector() ? tensor.rows() : tensor.columns());
    const auto octave = std::lround(std::log2(1 / (0.88 * std::sqrt(fan_in))));
    constexpr int64_t exponent_bias = 127;
    fixed_ = (static_cast<uint64_t>(octave + exponent_bias) << mantissa_bits) * in_every_value;
    random_ = 0x807f * in_every_value;
    octaves_ = (3U << mantissa_bits) * in_every_value;
  }

  /// Four values. No lane borrows from its neighbour: the exponent is well above 3.
  uint64_t operator()(uint64_t bits) const {
    return (bits & random_) | (fixed_ - (bits & octaves_));
  }

 private:
  static constexpr int mantissa_bits = 7;
  uint64_t fixed_ = 0;
  uint64_t random_ = 0;
  uint64_t octaves_ = 0;
};

/// The values of tensor elements [first, first + count), counted row by row.
void fill(uint16_t* target, const value_maker& values_of, uint64_t key, int64_t first,
          int64_t count) {
  const auto word_at = [&](int64_t element) {
    const auto index = static_cast<uint64_t>(element / values_per_word);
    return values_of(mix(key + index * 0x9e3779b97f4a7c15U));
  };
  const auto end = first + count;
  while (first < end) {
    const auto skipped = first % values_per_word;
    const auto used = std::min(values_per_word - skipped, end - first);
    const auto word = word_at(first) >> (16 * skipped);
    if (used == values_per_word)  // a copy of constant size is one store
      std::memcpy(target, &word, sizeof(word));
    else
      std::memcpy(target, &word, static_cast<size_t>(used) * sizeof(*target));
    target += used;
    first += used;
  }
}

}  // namespace

host_tensor random_weights::gather(const std::vector<weight_piece>& pieces) {
  const auto& front = pieces.front();
  int64_t rows = 0;
  for (const auto& piece : pieces) rows += piece.num_rows;
  const auto memory = allocate_host_bytes(rows * front.num_columns * int64_t{sizeof(uint16_t)});
  auto* target = reinterpret_cast<uint16_t*>(memory.get());
  for (const auto& piece : pieces) {
    const value_maker values_of(piece.tensor);
    const auto key = mix(seed_ ^ hash_of(piece.tensor.name));
    for (int64_t row = 0; row < piece.num_rows; ++row, target += piece.num_columns)
      fill(target, values_of, key,
           (piece.first_row + row) * piece.tensor.columns() + piece.first_column,
           piece.num_columns);
  }
  const auto view = front.tensor.vector()
                        ? gpu::make_view(memory.get(), gpu::dtype::bf16, rows)
                        : gpu::make_view(memory.get(), gpu::dtype::bf16, rows, front.num_columns);
  return {view, memory};
}

}  // namespace troupe::model
