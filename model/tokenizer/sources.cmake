list(APPEND model_headers tokenizer/added_tokens.hpp tokenizer/byte_alphabet.hpp
     tokenizer/byte_pair_merges.hpp tokenizer/chat.hpp tokenizer/chat_template_file.hpp tokenizer/nfc.hpp tokenizer/qwen_split.hpp
     tokenizer/tokenizer.hpp tokenizer/tokenizer_tables.hpp tokenizer/utf8.hpp)
list(APPEND model_sources tokenizer/added_tokens.cpp tokenizer/byte_alphabet.cpp
     tokenizer/byte_pair_merges.cpp tokenizer/chat.cpp tokenizer/chat_template_file.cpp tokenizer/nfc.cpp tokenizer/qwen_split.cpp
     tokenizer/tokenizer.cpp tokenizer/tokenizer_tables.cpp tokenizer/utf8.cpp)
