#include "model/weights/stored_weights.hpp"

#include "config/error.hpp"
#include "model/weights/host_memory.hpp"
#include "model/weights/mapped_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace troupe::model {

namespace {

// Progress is told at least this often.
constexpr int64_t read_ahead_bytes = int64_t{64} << 20;

int64_t elements_of(const weight_piece& piece) {
  return piece.num_rows * piece.num_columns;
}

/// A dense tensor for all pieces at `data`.
gpu::tensor_view shape_of(std::byte* data, gpu::dtype type,
                          const std::vector<weight_piece>& pieces) {
  int64_t rows = 0;
  for (const auto& piece : pieces) rows += piece.num_rows;
  if (pieces.front().tensor.vector()) return gpu::make_view(data, type, rows);
  return gpu::make_view(data, type, rows, pieces.front().num_columns);
}

/// Whether the pieces are dense in memory, each where the one before it ends.
bool adjacent(const std::vector<stored_matrix>& matrices, const std::vector<weight_piece>& pieces) {
  const auto* expected = matrices.front().at(pieces.front().first_row, 0);
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto& matrix = matrices[i];
    const bool dense = matrix.column_stride == 1 && pieces[i].whole_rows();
    if (!dense || matrix.at(pieces[i].first_row, 0) != expected) return false;
    expected += elements_of(pieces[i]) * gpu::size_of(matrix.type);
  }
  return true;
}

bool aligned(const std::byte* data, gpu::dtype type) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(gpu::size_of(type)) == 0;
}

void copy_rows(std::byte* target, const stored_matrix& matrix, const weight_piece& piece) {
  const auto row_bytes = static_cast<size_t>(piece.num_columns * gpu::size_of(matrix.type));
  for (int64_t row = 0; row < piece.num_rows; ++row, target += row_bytes)
    std::memcpy(target, matrix.at(piece.first_row + row, piece.first_column), row_bytes);
}

/// Square tiles: both sides of a transposition stay in the first-level cache.
template <class Element>
void copy_transposed(std::byte* target, const stored_matrix& matrix, const weight_piece& piece) {
  constexpr int64_t tile = 64;
  for (int64_t row_0 = 0; row_0 < piece.num_rows; row_0 += tile) {
    const auto row_end = std::min(row_0 + tile, piece.num_rows);
    for (int64_t column_0 = 0; column_0 < piece.num_columns; column_0 += tile) {
      const auto column_end = std::min(column_0 + tile, piece.num_columns);
      for (int64_t row = row_0; row < row_end; ++row)
        for (int64_t column = column_0; column < column_end; ++column)
          std::memcpy(target + (row * piece.num_columns + column) * int64_t{sizeof(Element)},
                      matrix.at(piece.first_row + row, piece.first_column + column),
                      sizeof(Element));
    }
  }
}

void copy_piece(std::byte* target, const stored_matrix& matrix, const weight_piece& piece) {
  if (matrix.column_stride == 1)
    copy_rows(target, matrix, piece);
  else if (gpu::size_of(matrix.type) == 2)
    copy_transposed<uint16_t>(target, matrix, piece);
  else
    copy_transposed<uint32_t>(target, matrix, piece);
}

/// From the first to the last byte that a piece touches, whatever its strides.
void read_ahead_piece(const stored_matrix& matrix, const weight_piece& piece) {
  const auto* begin = matrix.at(piece.first_row, piece.first_column);
  const auto* last =
      matrix.at(piece.first_row + piece.num_rows - 1, piece.first_column + piece.num_columns - 1);
  read_ahead(begin, last - begin + gpu::size_of(matrix.type));
}

}  // namespace

stored_weights::stored_weights(std::shared_ptr<const safetensors_folder> folder,
                               const config::model_config& model, load_progress progress)
    : folder_(std::move(folder)), index_(*folder_, model), progress_(std::move(progress)) {}

void stored_weights::expect(const std::vector<weight_piece>& pieces) {
  for (const auto& piece : pieces)
    total_bytes_ += elements_of(piece) * gpu::size_of(index_.find(piece.tensor).type);
}

host_tensor stored_weights::gather(const std::vector<weight_piece>& pieces) {
  std::vector<stored_matrix> matrices;
  for (const auto& piece : pieces) {
    matrices.push_back(index_.find(piece.tensor));
    if (matrices.back().type != matrices.front().type)
      throw config::error(fmt::format("tensors {} and {} have different dtypes, expected one",
                                      pieces.front().tensor.name, piece.tensor.name));
  }
  const auto* data = matrices.front().at(pieces.front().first_row, 0);
  const auto type = matrices.front().type;
  if (adjacent(matrices, pieces) && aligned(data, type)) return view(data, type, pieces);
  return copy(matrices, pieces);
}

host_tensor stored_weights::view(const std::byte* data, gpu::dtype type,
                                 const std::vector<weight_piece>& pieces) {
  const auto view = shape_of(const_cast<std::byte*>(data), type, pieces);
  const auto bytes = view.span_bytes();
  for (int64_t begin = 0; begin < bytes; begin += read_ahead_bytes) {
    const auto part = std::min(read_ahead_bytes, bytes - begin);
    read_ahead(data + begin, part);
    advance(part);
  }
  return {view, folder_};
}

host_tensor stored_weights::copy(const std::vector<stored_matrix>& matrices,
                                 const std::vector<weight_piece>& pieces) {
  auto view = shape_of(nullptr, matrices.front().type, pieces);
  const auto memory = allocate_host_bytes(view.span_bytes());
  view.data = memory.get();
  auto* target = view.data;
  for (size_t i = 0; i < pieces.size(); ++i) {
    read_ahead_piece(matrices[i], pieces[i]);
    copy_piece(target, matrices[i], pieces[i]);
    const auto bytes = elements_of(pieces[i]) * gpu::size_of(view.type);
    target += bytes;
    advance(bytes);
  }
  return {view, memory};
}

void stored_weights::advance(int64_t bytes) {
  done_bytes_ += bytes;
  if (progress_) progress_(done_bytes_, total_bytes_);
}

}  // namespace troupe::model
