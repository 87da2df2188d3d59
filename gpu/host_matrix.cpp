#include "gpu/host_matrix.hpp"

#include "config/ensure.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace troupe::gpu {
namespace {

/// Uninitialised memory that starts on a cache line.
std::shared_ptr<std::byte> allocate(int64_t bytes) {
  constexpr std::align_val_t cache_line{64};
  auto* memory = static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes), cache_line));
  return {memory, [](std::byte* owned) { ::operator delete(owned, cache_line); }};
}

bool aligned(const std::byte* data, dtype type) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(size_of(type)) == 0;
}

bool continues(const matrix_part& above, const matrix_part& below, dtype type) {
  return above.row_stride == below.row_stride && above.column_stride == below.column_stride &&
         above.data + above.rows * above.row_stride * size_of(type) == below.data;
}

void copy_rows(std::byte* target, const matrix_part& part, int64_t row_bytes,
               int64_t stride_bytes) {
  for (int64_t row = 0; row < part.rows; ++row)
    std::memcpy(target + row * row_bytes, part.data + row * stride_bytes,
                static_cast<size_t>(row_bytes));
}

/// Square tiles: both sides of a transposition stay in the first-level cache.
template <class Element>
void copy_transposed(std::byte* target, const matrix_part& part, int64_t width) {
  constexpr int64_t tile = 64, size = sizeof(Element);
  for (int64_t row_0 = 0; row_0 < part.rows; row_0 += tile)
    for (int64_t column_0 = 0; column_0 < width; column_0 += tile)
      for (int64_t row = row_0; row < std::min(row_0 + tile, part.rows); ++row)
        for (int64_t column = column_0; column < std::min(column_0 + tile, width); ++column)
          std::memcpy(target + (row * width + column) * size,
                      part.data + (row * part.row_stride + column * part.column_stride) * size,
                      sizeof(Element));
}

void copy_part(std::byte* target, const matrix_part& part, int64_t width, dtype type) {
  if (!part.transposed())
    copy_rows(target, part, width * size_of(type), part.row_stride * size_of(type));
  else if (size_of(type) == 2)
    copy_transposed<uint16_t>(target, part, width);
  else
    copy_transposed<uint32_t>(target, part, width);
}

}  // namespace

void weight_bytes::read(const std::byte* first, int64_t bytes, std::byte* target) {
  fetch(first, bytes);
  std::memcpy(target, first, static_cast<size_t>(bytes));
}

host_matrix::host_matrix(const tensor_view& view) : host_matrix(view, nullptr) {}

host_matrix::host_matrix(const tensor_view& view, std::shared_ptr<weight_bytes> source)
    : shape_(view), source_(std::move(source)) {
  config::ensure(view.rank <= 2, "a weight has {} dimensions, expected at most 2", view.rank);
  if (view.rank > 0) parts_.push_back({view.data, view.rows(), view.row_stride});
  shape_.data = nullptr;
  shape_.row_stride = shape_.width();
}

host_matrix::host_matrix(dtype type, int64_t width, const std::vector<matrix_part>& parts,
                         std::shared_ptr<weight_bytes> source)
    : source_(std::move(source)) {
  int64_t rows = 0;
  for (const auto& part : parts) {
    rows += part.rows;
    config::ensure(part.row_stride == 1 || part.column_stride == 1,
                   "a weight has gaps between its values in both directions");
    if (!parts_.empty() && continues(parts_.back(), part, type))
      parts_.back().rows += part.rows;
    else
      parts_.push_back(part);
  }
  shape_ = make_view(nullptr, type, rows, width);
}

tensor_view host_matrix::view_at(std::byte* data) const {
  tensor_view view = shape_;
  view.data = data;
  return view;
}

host_matrix host_matrix::slice_rows(int64_t first, int64_t count) const {
  if (rank() == 0) return {};
  config::ensure(parts_.size() == 1, "rows of a weight in {} parts, expected 1", parts_.size());
  matrix_part part = parts_.front();
  part.data += first * part.row_stride * size_of(type());
  part.rows = count;
  return {type(), width(), {part}, source_};
}

void host_matrix::announce() const {
  if (source_) source_->announce(bytes());
}

void host_matrix::fetch(const matrix_part& part) const {
  if (!source_) return;
  const int64_t last = (part.rows - 1) * part.row_stride + (width() - 1) * part.column_stride;
  source_->fetch(part.data, (last + 1) * size_of(type()));
}

bool host_matrix::dense() const {
  const matrix_part& first = parts_.front();
  return parts_.size() == 1 && first.gapless(width()) && aligned(first.data, type());
}

void host_matrix::copy_to(std::byte* target) const {
  announce();
  for (const auto& part : parts_) {
    const int64_t part_bytes = part.rows * width() * size_of(type());
    if (source_ && part.gapless(width())) {
      source_->read(part.data, part_bytes, target);
    } else {
      fetch(part);
      copy_part(target, part, width(), type());
    }
    target += part_bytes;
  }
}

loaded_matrix host_matrix::load() const {
  if (rank() == 0) return {};
  if (!dense()) {
    const auto memory = allocate(bytes());
    copy_to(memory.get());
    return {view_at(memory.get()), memory};
  }
  announce();
  fetch(parts_.front());
  return {view_at(const_cast<std::byte*>(parts_.front().data)), source_};
}

}  // namespace troupe::gpu
