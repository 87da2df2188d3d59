#include "model/weights/model_weights.hpp"

#include "config/error.hpp"
#include "model/weights/random_weights.hpp"
#include "model/weights/stored_matrix.hpp"
#include "model/weights/stored_weights.hpp"
#include "model/weights/weight_layout.hpp"

#include <utility>

namespace troupe::model {

void check_tensors(const safetensors_folder& folder, const config::model_config& model) {
  config::throw_if_any(checkpoint_index(folder, model).faults());
}

text_weights load_text_weights(std::shared_ptr<const safetensors_folder> folder,
                               const config::model_config& model, int32_t tp_rank, int32_t tp_size,
                               const load_progress& progress) {
  config::throw_if_any(config::tensor_parallel_faults(model, tp_size));
  piece_recorder recorder;
  gather_text_weights(recorder, model, tp_rank, tp_size);
  stored_weights source(std::move(folder), model, progress);
  source.expect(recorder.pieces());
  return gather_text_weights(source, model, tp_rank, tp_size);
}

vision_weights load_vision_weights(std::shared_ptr<const safetensors_folder> folder,
                                   const config::model_config& model,
                                   const load_progress& progress) {
  piece_recorder recorder;
  gather_vision_weights(recorder, model);
  stored_weights source(std::move(folder), model, progress);
  source.expect(recorder.pieces());
  return gather_vision_weights(source, model);
}

text_weights random_text_weights(const config::model_config& model, uint64_t seed, int32_t tp_rank,
                                 int32_t tp_size) {
  config::throw_if_any(config::tensor_parallel_faults(model, tp_size));
  random_weights source(seed);
  return gather_text_weights(source, model, tp_rank, tp_size);
}

vision_weights random_vision_weights(const config::model_config& model, uint64_t seed) {
  random_weights source(seed);
  return gather_vision_weights(source, model);
}

}  // namespace troupe::model
