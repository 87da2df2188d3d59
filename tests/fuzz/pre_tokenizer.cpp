#include "fuzz/fuzz_input.hpp"
#include "model/tokenizer/nfc.hpp"
#include "model/tokenizer/qwen_split.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "model/tokenizer/utf8.hpp"

#include <string>
#include <vector>

using namespace troupe;

namespace {

void check_split(std::string_view text) {
  const char* end = text.data();
  for (const auto piece : model::qwen_split(text)) {
    fuzz::expect(!piece.empty() && piece.data() == end, "pieces cover the text in order");
    end += piece.size();
  }
  fuzz::expect(end == text.data() + text.size(), "pieces cover the whole text");
}

std::string streamed(const model::tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  model::streaming_detokenizer detokenizer(tokenizer, false);
  std::string text;
  for (const int32_t id : ids) {
    const auto piece = detokenizer.push(id);
    fuzz::expect(model::valid_utf8_prefix(piece) == piece.size(),
                 "streamed text is whole characters");
    text += piece;
  }
  return text + detokenizer.finish();
}

}  // namespace

/// Any bytes as text: the split, the encoder and both decoders agree with each other.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto tokenizer = model::tokenizer::load(TROUPE_FIXTURES "/tiny/tokenizer.json");
  std::string text;
  model::append_valid_utf8(text, fuzz::as_text(data, size));
  const auto composed = model::normalize_nfc(text);
  check_split(text);
  std::vector<int32_t> ids;
  tokenizer.encode_text(fuzz::as_text(data, size), ids);
  for (const int32_t id : ids)
    fuzz::expect(!tokenizer.is_added(id), "user text gives no added token");
  fuzz::expect(tokenizer.decode(ids, false) == composed, "decoding gives the composed text");
  fuzz::expect(streamed(tokenizer, ids) == composed, "streaming gives the composed text");
  std::vector<int32_t> with_special;
  tokenizer.encode_with_special(text, with_special);
  for (const int32_t id : with_special) fuzz::expect(tokenizer.exists(id), "tokens exist");
  // Token ids of any order, as a model may sample them.
  std::vector<int32_t> sampled;
  for (size_t i = 0; i + 1 < size; i += 2)
    sampled.push_back((data[i] << 8 | data[i + 1]) % tokenizer.size());
  fuzz::expect(streamed(tokenizer, sampled) == tokenizer.decode(sampled, false),
               "streaming equals decoding at once");
  return 0;
}
