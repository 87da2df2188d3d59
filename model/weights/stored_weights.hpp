#pragma once

#include "model/weights/stored_matrix.hpp"
#include "model/weights/weight_layout.hpp"

#include <cstdint>
#include <memory>
#include <vector>

namespace troupe::model {

class folder_bytes;

/// Where values lie in the files of a folder. Nothing is read here: whoever loads a tensor brings
/// its pages into memory.
class stored_weights : public weight_source {
 public:
  stored_weights(std::shared_ptr<const safetensors_folder> folder,
                 const config::model_config& model, load_progress progress);

  /// The bytes that `pieces` have in the files: announces them as the total of the progress.
  void expect(const std::vector<weight_piece>& pieces);

  host_tensor gather(const std::vector<weight_piece>& pieces) override;

 private:
  checkpoint_index index_;
  std::shared_ptr<folder_bytes> bytes_;
};

}  // namespace troupe::model
