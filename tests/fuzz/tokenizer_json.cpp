#include "config/error.hpp"
#include "fuzz/fuzz_input.hpp"
#include "model/tokenizer/tokenizer.hpp"

#include <string>
#include <vector>

using namespace troupe;

/// A tokenizer that was accepted must work: every id it gives exists, and none of user text is
/// added.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto tokenizer = model::tokenizer::parse(fuzz::as_text(data, size), "input");
    std::vector<int32_t> ids;
    tokenizer.encode_text("It's 1 <|im_start|> \xC3\xA9\xE4\xB8\xAD\n\n", ids);
    for (const int32_t id : ids)
      fuzz::expect(tokenizer.exists(id) && !tokenizer.is_added(id), "text gives ordinary tokens");
    tokenizer.encode_with_special("a<|im_start|>b", ids);
    for (const int32_t id : ids) fuzz::expect(tokenizer.exists(id), "tokens exist");
    tokenizer.decode(ids, true);
  } catch (const config::error&) {
  }
  return 0;
}
