#pragma once

#include "config/model_config.hpp"
#include "model/weights/model_weights.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// The one description of the network's tensors: their published names, their shapes and which part
/// of each belongs to a tensor-parallel rank. Where the values come from is a `weight_source`'s
/// concern.
namespace troupe::model {

inline constexpr auto embedding_name = "model.language_model.embed_tokens.weight";
inline constexpr auto lm_head_name = "lm_head.weight";  // absent if the embeddings are tied

enum class expert_projection : uint8_t { gate, up, down };

/// The place of one expert's matrix, which files store in three layouts.
struct expert_matrix {
  std::string experts;  // "model.language_model.layers.0.mlp.experts."
  int32_t index = 0;
  expert_projection projection = expert_projection::gate;
};

/// A tensor of the published checkpoint. Experts are described one by one.
struct tensor_spec {
  std::string name;
  std::vector<int64_t> shape;
  std::optional<expert_matrix> expert;

  /// As a matrix: the first dimension is kept, the others joined; a vector has one column.
  int64_t rows() const { return shape[0]; }
  int64_t columns() const;
  bool vector() const { return shape.size() == 1; }
};

/// A rectangle of a tensor.
struct weight_piece {
  tensor_spec tensor;
  int64_t first_row = 0, num_rows = 0;
  int64_t first_column = 0, num_columns = 0;
};

/// Where values come from.
class weight_source {
 public:
  virtual ~weight_source() = default;

  /// The pieces, equally wide, one below the other. A vector's piece gives a tensor of rank 1.
  virtual host_tensor gather(const std::vector<weight_piece>& pieces) = 0;
};

/// One rank's share of the text model. `tp_size` must be one that the model can be split by.
text_weights gather_text_weights(weight_source& source, const config::model_config& model,
                                 int32_t tp_rank, int32_t tp_size);
vision_weights gather_vision_weights(weight_source& source, const config::model_config& model);

/// Keeps the pieces it is asked for and gathers nothing.
class piece_recorder : public weight_source {
 public:
  host_tensor gather(const std::vector<weight_piece>& pieces) override;
  const std::vector<weight_piece>& pieces() const { return pieces_; }

 private:
  std::vector<weight_piece> pieces_;
};

/// Every tensor that a checkpoint of this model has, once.
std::vector<tensor_spec> checkpoint_tensors(const config::model_config& model);

}  // namespace troupe::model
