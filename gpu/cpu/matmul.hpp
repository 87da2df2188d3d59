#pragma once

#include "gpu/arena.hpp"
#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/scratch.hpp"
#include "gpu/cpu/team.hpp"
#include "gpu/cpu/weight_memory.hpp"
#include "gpu/tensor_view.hpp"

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace troupe::gpu::cpu {

/// Enough rows to run at the rate of the arithmetic, not of memory.
inline constexpr int64_t matmul_rows_max = 128;

/// What fixes a oneDNN matmul but for the number of rows. Strides in elements.
struct matmul_shape {
  int64_t in_features = 0;
  int64_t out_features = 0;
  bool has_bias = false;
  dtype operand = dtype::f32;  // of input and weights
  dtype output = dtype::f32;
  int64_t input_stride = 0;
  int64_t output_stride = 0;
  auto operator<=>(const matmul_shape&) const = default;
};

/// oneDNN primitives of one shape for several numbers of rows.
class matmul_family;

/// Bytes of a packed weight for operands of `type` as they are given.
int64_t packed_bytes(dtype type, int64_t in_features, int64_t out_features);

/// One `linear` with everything made that running it needs.
struct matmul_plan {
  std::shared_ptr<matmul_family> family;
  int32_t weight = -1;
  dtype input = dtype::f32;
  dtype output = dtype::f32;
  int64_t input_stride_bytes = 0;
  int64_t output_stride_bytes = 0;
  bool staged = false;        // tiles are copied to and from buffers of the family's dtypes
  int64_t few_rows_part = 0;  // inputs that our own kernel adds up at a time; 0: it is not used
};

/// Multiplies rows by packed weights: few rows with a kernel of our own that streams the weight at
/// the rate of memory, more with oneDNN in tiles of at most `matmul_rows_max` rows.
///
/// A row's result is the same bits whatever the number of rows and wherever it lies among them.
/// oneDNN does not promise that matmuls of different heights sum in one order, so it is checked:
/// when a shape is first met, equal rows are run at every height, and only heights that agree are
/// used (all of them on the processors tried). Our kernel reads oneDNN's layout where it knows it
/// and is held to the same bits.
///
/// bf16 weights are widened to f32 where the processor has no bf16 arithmetic; inputs and results
/// keep their bf16 rounding.
class matmul {
 public:
  matmul(const kernel_table& kernels, const team& threads);
  ~matmul();
  matmul(const matmul&) = delete;
  matmul& operator=(const matmul&) = delete;

  /// Packs weight [out, in] and bias [out] (or rank 0); returns its index. Throws gpu::error.
  int32_t add_weight(const std::string& name, const tensor_view& weight, const tensor_view& bias);

  /// Makes the primitives for input and output of these dtypes and strides. Throws gpu::error.
  matmul_plan prepare(int32_t weight, const tensor_view& output, const tensor_view& input);

  /// The first `rows` of `capacity` rows; rows past `rows` may be read and overwritten. Makes
  /// nothing.
  void run(const matmul_plan& plan, std::byte* output, const std::byte* input, int64_t rows,
           int64_t capacity);

  /// A weight's packed bytes and its bias [out] f32 (rank 0: none).
  tensor_view packed(int32_t weight) const;
  tensor_view bias(int32_t weight) const;
  std::vector<arena_lease> leases() const { return memory_.leases(); }
  std::vector<ledger_entry> ledger() const { return memory_.ledger(); }

 private:
  struct library;
  struct packed_weight;

  void pack(packed_weight& packed, const std::string& name, const tensor_view& weight);
  void widen_rows(float* output, const tensor_view& input, int64_t rows, int64_t width);
  std::vector<int64_t> heights_of(matmul_shape shape, const packed_weight& weight);
  std::shared_ptr<matmul_family> family_of(const matmul_shape& shape, const packed_weight& weight);
  std::vector<float> library_result(const matmul_shape& shape, const packed_weight& weight,
                                    int64_t height, const std::byte* input);
  int64_t agreeing_part(const matmul_shape& shape, const packed_weight& weight);
  int64_t few_rows_part_of(matmul_shape shape, const packed_weight& weight);
  void multiply_few_rows(const matmul_shape& shape, const packed_weight& weight, int64_t part,
                         std::byte* output, const std::byte* input, int64_t rows);
  int64_t run_tile(const matmul_plan& plan, std::byte* output, const std::byte* input, int64_t rows,
                   int64_t room);
  void stage_input(const matmul_plan& plan, const std::byte* input, int64_t rows);
  void unstage_output(const matmul_plan& plan, std::byte* output, int64_t rows);

  const kernel_table& kernels_;
  const team& threads_;
  weight_memory memory_;
  std::unique_ptr<library> library_;
  std::vector<packed_weight> weights_;
  std::map<matmul_shape, std::vector<int64_t>> heights_;  // that agree, ascending
  std::map<matmul_shape, std::shared_ptr<matmul_family>> families_;
  std::map<matmul_shape, int64_t> few_rows_parts_;
  scratch library_scratch_, input_tile_, output_tile_;
};

}  // namespace troupe::gpu::cpu
