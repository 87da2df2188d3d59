#include "model/weights/stored_weights.hpp"

#include "config/ensure.hpp"
#include "config/error.hpp"
#include "model/weights/mapped_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace troupe::model {

namespace {

int64_t elements_of(const weight_piece& piece) {
  return piece.num_rows * piece.num_columns;
}

gpu::matrix_part part_of(const stored_matrix& matrix, const weight_piece& piece) {
  return {matrix.at(piece.first_row, piece.first_column), piece.num_rows, matrix.row_stride,
          matrix.column_stride};
}

}  // namespace

/// The mapped files, and how much of what is wanted from them is being loaded.
class folder_bytes final : public gpu::weight_bytes {
 public:
  folder_bytes(std::shared_ptr<const safetensors_folder> folder, load_progress progress)
      : folder_(std::move(folder)), progress_(std::move(progress)) {}

  void expect(int64_t bytes) { total_ += bytes; }

  void announce(int64_t bytes) override {
    const int64_t done = std::min(done_ + bytes, total_);  // a tied head is loaded twice
    if (done == done_) return;
    done_ = done;
    if (progress_) progress_(done_, total_);
  }
  void fetch(const std::byte* first, int64_t bytes) override { read_ahead(first, bytes); }
  void read(const std::byte* first, int64_t bytes, std::byte* target) override {
    folder_->read(first, bytes, target);
  }

 private:
  std::shared_ptr<const safetensors_folder> folder_;
  load_progress progress_;
  int64_t done_ = 0;
  int64_t total_ = 0;
};

stored_weights::stored_weights(std::shared_ptr<const safetensors_folder> folder,
                               const config::model_config& model, load_progress progress)
    : index_(*folder, model),
      bytes_(std::make_shared<folder_bytes>(std::move(folder), std::move(progress))) {}

void stored_weights::expect(const std::vector<weight_piece>& pieces) {
  for (const auto& piece : pieces)
    bytes_->expect(elements_of(piece) * gpu::size_of(index_.find(piece.tensor).type));
}

host_tensor stored_weights::gather(const std::vector<weight_piece>& pieces) {
  const auto& front = pieces.front();
  const stored_matrix first = index_.find(front.tensor);
  if (front.tensor.vector()) {
    config::ensure(pieces.size() == 1, "{} vectors in one tensor", pieces.size());
    auto* data = const_cast<std::byte*>(first.at(front.first_row, 0));
    return {gpu::make_view(data, first.type, front.num_rows), bytes_};
  }
  std::vector<gpu::matrix_part> parts;
  for (const auto& piece : pieces) {
    const stored_matrix matrix = index_.find(piece.tensor);
    if (matrix.type != first.type)
      throw config::error(fmt::format("tensors {} and {} have different dtypes, expected one",
                                      front.tensor.name, piece.tensor.name));
    parts.push_back(part_of(matrix, piece));
  }
  return {first.type, front.num_columns, parts, bytes_};
}

}  // namespace troupe::model
