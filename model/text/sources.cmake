list(APPEND model_sources graph_family.cpp kv_cache.cpp model_runner.cpp step_inputs.cpp weight_placement.cpp
     text/attention.cpp text/decoder_layer.cpp text/mlp.cpp text/rotary_tables.cpp text/text_model.cpp
     text/text_step.cpp)
list(APPEND model_headers arena_builder.hpp graph_family.hpp input_block.hpp kv_cache.hpp step_inputs.hpp
     weight_placement.hpp
     text/attention.hpp text/decoder_layer.hpp text/mlp.hpp text/rotary_tables.hpp text/text_model.hpp
     text/text_step.hpp)
