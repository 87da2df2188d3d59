#include "actors/device_worker.hpp"

namespace troupe::actors {

config::model_config model_of(const weight_source& source) {
  return source.folder.empty() ? config::named_model_config(source.shape)
                               : config::read_checkpoint_config(source.folder).model;
}

}  // namespace troupe::actors
