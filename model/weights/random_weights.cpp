#include "model/weights/random_weights.hpp"

#include "model/parallel_slices.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <string_view>

namespace troupe::model {

namespace {

static_assert(std::endian::native == std::endian::little, "values lie in a word lowest first");

// One 64-bit random number makes four values, in one go: each has 16 of its bits.
constexpr int64_t values_per_word = 4;
// Values that make it worth starting a thread.
constexpr int64_t values_per_thread = int64_t{1} << 18;
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

/// Values that nobody has made yet.
class owned_bytes final : public gpu::weight_bytes {
 public:
  explicit owned_bytes(int64_t values)
      : values_(std::make_unique_for_overwrite<uint16_t[]>(static_cast<size_t>(values))) {}
  uint16_t* data() const { return values_.get(); }

 private:
  std::unique_ptr<uint16_t[]> values_;
};

/// One rectangle, dense, on several threads.
void fill_piece(uint16_t* target, const weight_piece& piece, uint64_t seed) {
  const value_maker values_of(piece.tensor);
  const auto key = mix(seed ^ hash_of(piece.tensor.name));
  const int64_t grain = std::max<int64_t>(1, values_per_thread / piece.num_columns);
  for_slices(piece.num_rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      fill(target + row * piece.num_columns, values_of, key,
           (piece.first_row + row) * piece.tensor.columns() + piece.first_column,
           piece.num_columns);
  });
}

}  // namespace

host_tensor random_weights::gather(const std::vector<weight_piece>& pieces) {
  const auto& front = pieces.front();
  int64_t rows = 0;
  for (const auto& piece : pieces) rows += piece.num_rows;
  const auto bytes = std::make_shared<owned_bytes>(rows * front.num_columns);
  auto* target = bytes->data();
  for (const auto& piece : pieces) {
    fill_piece(target, piece, seed_);
    target += piece.num_rows * piece.num_columns;
  }
  if (front.tensor.vector()) return {gpu::make_view(bytes->data(), gpu::dtype::bf16, rows), bytes};
  return {gpu::make_view(bytes->data(), gpu::dtype::bf16, rows, front.num_columns), bytes};
}

}  // namespace troupe::model
