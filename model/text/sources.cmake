list(APPEND model_sources text/attention.cpp text/decoder_layer.cpp text/mlp.cpp text/rotary_tables.cpp
     text/text_model.cpp text/text_step.cpp)
list(APPEND model_headers text/attention.hpp text/decoder_layer.hpp text/mlp.hpp text/rotary_tables.hpp
     text/text_model.hpp text/text_step.hpp)
