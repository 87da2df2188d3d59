list(APPEND model_headers weights/safetensors.hpp weights/model_weights.hpp)
list(APPEND model_sources)
