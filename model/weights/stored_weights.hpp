#pragma once

#include "model/weights/stored_matrix.hpp"
#include "model/weights/weight_layout.hpp"

#include <cstdint>
#include <memory>
#include <vector>

namespace troupe::model {

/// Values from the files of a folder. Pieces that lie one behind the other in a file become a view
/// of the mapping; others are copied. Either way their pages are in memory when `gather` returns.
class stored_weights : public weight_source {
 public:
  stored_weights(std::shared_ptr<const safetensors_folder> folder,
                 const config::model_config& model, load_progress progress);

  /// The bytes that `pieces` have in the files: announces them as the total of the progress.
  void expect(const std::vector<weight_piece>& pieces);

  host_tensor gather(const std::vector<weight_piece>& pieces) override;

 private:
  host_tensor view(const std::byte* data, gpu::dtype type, const std::vector<weight_piece>& pieces);
  host_tensor copy(const std::vector<stored_matrix>& matrices,
                   const std::vector<weight_piece>& pieces);
  void advance(int64_t bytes);

  std::shared_ptr<const safetensors_folder> folder_;
  checkpoint_index index_;
  load_progress progress_;
  int64_t done_bytes_ = 0;
  int64_t total_bytes_ = 0;
};

}  // namespace troupe::model
