#include "config/json.hpp"
#include "fuzz/fuzz_input.hpp"

using namespace troupe;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto text = config::parse_json(fuzz::as_text(data, size)).dump();
    fuzz::expect(config::parse_json(text).dump() == text,
                 "what was written reads back as the same");
  } catch (const config::json_error&) {
  }
  return 0;
}
