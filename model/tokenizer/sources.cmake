list(APPEND model_headers tokenizer/chat.hpp tokenizer/tokenizer.hpp)
list(APPEND model_sources)
