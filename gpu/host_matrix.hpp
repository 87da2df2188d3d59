#pragma once

#include "gpu/tensor_view.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace troupe::gpu {

/// Where the bytes of weights come from. Kept alive by every matrix that lies in them.
class weight_bytes {
 public:
  virtual ~weight_bytes() = default;

  /// A matrix of `bytes` is about to be loaded. Called once for each, by the thread that hands it
  /// over.
  virtual void announce(int64_t /*bytes*/) {}
  /// Brings a range into memory before it is read. Called by any thread; throws if that fails.
  virtual void fetch(const std::byte* /*first*/, int64_t /*bytes*/) {}
  /// Copies a range to `target`, without a `fetch` before. As `fetch` otherwise.
  virtual void read(const std::byte* first, int64_t bytes, std::byte* target);
};

/// Rows of a matrix as they lie in memory: element (r, c) is at data + (r * row_stride + c *
/// column_stride) elements. One stride is 1: rows lie one after the other, or columns do.
struct matrix_part {
  const std::byte* data = nullptr;
  int64_t rows = 0;
  int64_t row_stride = 0;
  int64_t column_stride = 1;

  bool transposed() const { return column_stride != 1; }
  /// Whether rows of `width` follow each other without a gap.
  bool gapless(int64_t width) const {
    return !transposed() && (row_stride == width || rows <= 1);
  }
};

/// A dense matrix in memory, and what keeps it there.
struct loaded_matrix {
  tensor_view view;
  std::shared_ptr<const void> owner;
};

/// A weight in host memory as its files have it: parts of equal width, one below the other.
/// Backends load it from there, so that it need not be put together on the host. Copyable; the
/// bytes are shared.
class host_matrix {
 public:
  host_matrix() = default;  // rank 0: no weight
  /// Memory of the caller, which lives until whoever is given this returns.
  host_matrix(const tensor_view& view);  // NOLINT(google-explicit-constructor)
  /// `source` keeps `view` alive.
  host_matrix(const tensor_view& view, std::shared_ptr<weight_bytes> source);
  /// Rank 2. Parts that continue each other become one.
  host_matrix(dtype type, int64_t width, const std::vector<matrix_part>& parts,
              std::shared_ptr<weight_bytes> source);

  int32_t rank() const { return shape_.rank; }
  dtype type() const { return shape_.type; }
  int64_t rows() const { return shape_.rows(); }
  int64_t width() const { return shape_.width(); }
  int64_t bytes() const { return shape_.elements() * size_of(shape_.type); }
  const std::vector<matrix_part>& parts() const { return parts_; }
  /// Null: the caller's memory.
  const std::shared_ptr<weight_bytes>& source() const { return source_; }

  /// The dense tensor that this is put together as, at `data`.
  tensor_view view_at(std::byte* data) const;
  /// Rows [first, first + count) of a matrix of one part; of no weight, none.
  host_matrix slice_rows(int64_t first, int64_t count) const;

  /// Announces and fetches all of it and puts it together at `target`. Throws what the source
  /// throws.
  void copy_to(std::byte* target) const;
  /// The same in memory of its own; no copy if it is dense already.
  loaded_matrix load() const;

 private:
  void announce() const;
  void fetch(const matrix_part& part) const;
  bool dense() const;

  tensor_view shape_;  // without data
  std::vector<matrix_part> parts_;
  std::shared_ptr<weight_bytes> source_;
};

}  // namespace troupe::gpu
