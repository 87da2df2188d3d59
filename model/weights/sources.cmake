list(APPEND model_headers weights/mapped_file.hpp weights/model_weights.hpp
     weights/random_weights.hpp weights/safetensors.hpp weights/stored_matrix.hpp
     weights/stored_weights.hpp weights/weight_layout.hpp)
list(APPEND model_sources weights/mapped_file.cpp weights/model_weights.cpp
     weights/random_weights.cpp weights/safetensors.cpp weights/stored_matrix.cpp
     weights/stored_weights.cpp weights/weight_layout.cpp)
