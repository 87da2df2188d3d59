#include "model/tokenizer/tokenizer.hpp"

#include "config/error.hpp"
#include "config/json.hpp"
#include "model/tokenizer/nfc.hpp"
#include "model/tokenizer/qwen_split.hpp"
#include "model/tokenizer/utf8.hpp"
#include "support/reference_set.hpp"

#include <pthread.h>
#include <time.h>
#include <boost/test/unit_test.hpp>

#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace troupe;
using namespace troupe::model;
using std::string_literals::operator""s;

namespace {

using id_list = std::vector<int32_t>;

std::string tiny_json() {
  return testing::read_file(testing::fixtures() / "tiny/tokenizer.json");
}

const tokenizer& tiny() {
  static const tokenizer loaded = tokenizer::load(testing::fixtures() / "tiny/tokenizer.json");
  return loaded;
}

id_list encode_text(const tokenizer& tokenizer, std::string_view text) {
  id_list ids;
  tokenizer.encode_text(text, ids);
  return ids;
}

id_list encode_with_special(const tokenizer& tokenizer, std::string_view text) {
  id_list ids;
  tokenizer.encode_with_special(text, ids);
  return ids;
}

std::string repaired(std::string_view bytes) {
  std::string text;
  append_valid_utf8(text, bytes);
  return text;
}

/// Replaces the first `found` of the tiny tokenizer.json; it must be there.
std::string edited(const std::string& found, const std::string& replacement) {
  std::string json = tiny_json();
  const size_t at = json.find(found);
  BOOST_REQUIRE_MESSAGE(at != std::string::npos, found);
  return json.replace(at, found.size(), replacement);
}

/// Seeded text out of everything that a scanner could trip over, and whatever else there is.
class text_maker {
 public:
  explicit text_maker(uint32_t seed) : random_(seed) {}

  std::string text(size_t length_max) {
    std::string out;
    for (size_t left = below(length_max + 1); left > 0; --left) append_utf8(out, code_point());
    return out;
  }

  std::string bytes(size_t length_max) {
    std::string out;
    for (size_t left = below(length_max + 1); left > 0; --left)
      out.push_back(static_cast<char>(below(256)));
    return out;
  }

  size_t below(size_t bound) {
    return std::uniform_int_distribution<size_t>(0, bound - 1)(random_);
  }

 private:
  int32_t code_point() {
    static const std::u32string traps =
        U" \t\n\r'sStTdDmMrReEvVlL019!.<|>\u00A0\u3000\u2028\u0085\u017F\u212A\u0301\u0327\u0323"
        U"\u00E9\u1EA5\u1100\u1161\u11A8\uAC00\uAC01\u0958\u0915\u093C\u4F60\u597D\u0661\u00BD"
        U"\u2167\u200B\u200D\uFEFF\uFFFD\U0001F600\U0001F3FD\U0001D15F\U0001D165\u0345\u0F71\u0F72";
    if (below(4) > 0) return static_cast<int32_t>(traps[below(traps.size())]);
    for (;;) {
      const auto any = static_cast<int32_t>(below(below(2) == 0 ? 0x3000 : 0x110000));
      if (any < 0xD800 || any > 0xDFFF) return any;
    }
  }

  std::mt19937 random_;
};

/// Byte pair encoding as its definition reads, for words of letters: look at all pairs again after
/// each merge.
class plain_merges {
 public:
  explicit plain_merges(const std::string& json) {
    for (const auto& rule : config::parse_json(json).find("model")->find("merges")->elements()) {
      const auto parts = rule.elements();
      ranks_.emplace(std::pair(*parts[0].string(), *parts[1].string()), ranks_.size());
    }
  }

  std::vector<std::string> encode(const std::string& word) const {
    std::vector<std::string> tokens;
    for (const char letter : word) tokens.emplace_back(1, letter);
    for (;;) {
      size_t best = tokens.size(), best_rank = SIZE_MAX;
      for (size_t i = 0; i + 1 < tokens.size(); ++i) {
        const auto found = ranks_.find({tokens[i], tokens[i + 1]});
        if (found == ranks_.end() || found->second >= best_rank) continue;
        best = i;
        best_rank = found->second;
      }
      if (best == tokens.size()) return tokens;
      tokens[best] += tokens[best + 1];
      tokens.erase(tokens.begin() + static_cast<ptrdiff_t>(best) + 1);
    }
  }

 private:
  std::map<std::pair<std::string, std::string>, size_t> ranks_;
};

/// Runs `work` on a thread with a stack of 256 KiB and returns the processor time it took, which a
/// busy machine does not change.
double seconds_on_small_stack(const std::function<void()>& work) {
  struct task {
    const std::function<void()>& work;
    double seconds;
  } run{work, 0};
  const auto body = [](void* argument) -> void* {
    auto& running = *static_cast<task*>(argument);
    running.work();
    timespec used{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    running.seconds = static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
    return nullptr;
  };
  constexpr size_t stack_bytes = 256 << 10;
  pthread_attr_t attributes;
  pthread_t thread;
  BOOST_REQUIRE_EQUAL(pthread_attr_init(&attributes), 0);
  BOOST_REQUIRE_EQUAL(pthread_attr_setstacksize(&attributes, stack_bytes), 0);
  BOOST_REQUIRE_EQUAL(pthread_create(&thread, &attributes, body, &run), 0);
  BOOST_REQUIRE_EQUAL(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
  return run.seconds;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(utf8)

BOOST_AUTO_TEST_CASE(each_maximal_invalid_part_becomes_one_replacement_character) {
  const std::pair<std::string, std::string> cases[] = {
      {"", ""},
      {"plain \xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80", "plain é € 😀"},
      {"\xF0\x9F\x98"s + "A", "\uFFFDA"},                // cut by another character
      {"\xF0\x9F\x98", "\uFFFD"},                        // cut by the end
      {"\xC0\xAF", "\uFFFD\uFFFD"},                      // overlong, two bytes
      {"\xE0\x80\xAF", "\uFFFD\uFFFD\uFFFD"},            // overlong, three bytes
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},            // surrogate
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},  // above U+10FFFF
      {"\x80\xBF", "\uFFFD\uFFFD"},                      // continuation bytes alone
      {"\xE2\x82\xE2\x82\xAC", "\uFFFD€"},
      {"\xF5\xFF", "\uFFFD\uFFFD"},
      {"a\0b"s, "a\0b"s},
  };
  for (const auto& [bytes, expected] : cases) BOOST_TEST(repaired(bytes) == expected);
}

BOOST_AUTO_TEST_CASE(repaired_bytes_are_valid_and_valid_text_is_kept) {
  text_maker maker(1);
  for (int32_t round = 0; round < 2000; ++round) {
    const std::string once = repaired(maker.bytes(40));
    BOOST_TEST(valid_utf8_prefix(once) == once.size());
    BOOST_TEST(repaired(once) == once);
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(normal_form)

BOOST_AUTO_TEST_CASE(composes_as_unicode_says) {
  const std::pair<std::string, std::string> cases[] = {
      {"", ""},
      {"plain", "plain"},
      {"cafe\u0301", "café"},
      {"\u0301a", "\u0301a"},                  // a mark with nothing before it
      {"e\u0323\u0302", "\u1EC7"},             // two steps
      {"e\u0302\u0323", "\u1EC7"},             // marks in the other order
      {"a\u0301\u0301", "á\u0301"},            // the second is blocked
      {"\u212B\u2126", "Å\u03A9"},             // singletons
      {"\u0958", "\u0915\u093C"},              // excluded from composition
      {"\u1100\u1161\u11A8", "\uAC01"},        // Hangul from its jamo
      {"\uAC00\u11A8", "\uAC01"},              // syllable and trailing jamo
      {"\u0F73", "\u0F71\u0F72"},              // a mark that decomposes
      {"\U0001D15E", "\U0001D157\U0001D165"},  // beyond the basic plane
      {"\uF900\uFB1D", "\u8C48\u05D9\u05B4"},  // compatibility ideograph, Hebrew point
      {"日本語\u3099 é", "日本語\u3099 é"},
      {"か\u3099", "が"},
  };
  for (const auto& [text, expected] : cases) BOOST_TEST(normalize_nfc(text) == expected);
}

BOOST_AUTO_TEST_CASE(normal_text_is_kept_and_lines_are_independent) {
  text_maker maker(2);
  for (int32_t round = 0; round < 5000; ++round) {
    const std::string text = maker.text(30), normal = normalize_nfc(text);
    BOOST_TEST(normalize_nfc(normal) == normal);
    BOOST_TEST(normalize_nfc(text + "\n" + text) == normal + "\n" + normal);
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(split)

BOOST_AUTO_TEST_CASE(cuts_where_the_pattern_does) {
  const std::vector<std::vector<std::string>> cases = {
      {"I", "'ll", " ", " pay", " ", "1", "2", "3", " dollars", "\n\n", " ", " now", "\t"},
      {"DON", "'T", " don", "'t"},
      {"it", "'\u017F", "ound"},  // the long s is an s
      {"x", "'\u212Aelvin"},      // no contraction starts with k
      {"'r", "."},
      {"'re", "'vE", "'Ll", "'ld"},
      {"a", "\u00A0b", "\u3000c"},
      {"   \n \n", " x"},
      {"\r\n\r\n", "x"},
      {"  ", "\t", "1"},
      {"end", "   "},
      {" ?!\r\n\n", "  ", " (", "ok", ")."},  // punctuation takes the newlines behind it
      {" \u0301\u0302", "a"},                 // marks are not letters...
      {"\u0301a"},                            // ...but one may lead a word
      {"\u001C\u001C", "x"},                  // not White_Space
      {"a", "\u0085", "\u0085b"},             // White_Space, but no newline of the pattern
      {"\u0661", "\u0662", " ", "\u2167", "\u00BD"},
      {" \u2028\u2029"},
      {"你好", "，世界", "！"},
  };
  for (const auto& pieces : cases) {
    std::string text;
    for (const auto& piece : pieces) text += piece;
    const auto found = qwen_split(text);
    BOOST_TEST_CONTEXT(text) {
      BOOST_TEST(std::vector<std::string>(found.begin(), found.end()) == pieces,
                 boost::test_tools::per_element());
    }
  }
}

BOOST_AUTO_TEST_CASE(covers_every_text_in_whole_characters) {
  text_maker maker(3);
  for (int32_t round = 0; round < 5000; ++round) {
    const std::string text = maker.text(40);
    std::string joined;
    for (const auto piece : qwen_split(text)) {
      BOOST_TEST(!piece.empty());
      BOOST_TEST(valid_utf8_prefix(piece) == piece.size());
      joined += piece;
    }
    BOOST_TEST(joined == text);
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(encoding)

BOOST_AUTO_TEST_CASE(added_tokens_come_from_template_text_only) {
  size_t special = 0;
  for (const auto& token : tiny().added().all()) {
    BOOST_TEST(encode_with_special(tiny(), token.text) == id_list{token.id},
               boost::test_tools::per_element());
    const id_list plain = encode_text(tiny(), "a" + token.text + token.text);
    for (const int32_t id : plain) BOOST_TEST(!tiny().is_added(id));
    BOOST_TEST(tiny().decode(plain, true) == "a" + token.text + token.text);
    BOOST_TEST(tiny().is_special(token.id) == token.special);
    special += token.special ? 1 : 0;
  }
  BOOST_TEST(tiny().added().all().size() == 26u);
  BOOST_TEST(special == 14u);
}

BOOST_AUTO_TEST_CASE(added_tokens_are_cut_before_normalisation) {
  const auto end = tiny().added_token("<|im_end|>").value();
  id_list expected = encode_text(tiny(), "<|im_end");
  expected.push_back(end);
  for (const int32_t id : encode_text(tiny(), "\u0301x")) expected.push_back(id);
  expected.push_back(end);
  BOOST_TEST(encode_with_special(tiny(), "<|im_end<|im_end|>\u0301x<|im_end|>") == expected,
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(the_longest_added_token_at_a_place_wins) {
  const auto json = edited(R"("content": "<|im_end|>")", R"("content": "<|im_start|>+")");
  const auto loaded = tokenizer::parse(json, "edited");
  BOOST_TEST(encode_with_special(loaded, "<|im_start|>+<|im_start|>") == (id_list{550, 549}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(decoding_gives_the_normal_form_back) {
  text_maker maker(4);
  for (int32_t round = 0; round < 3000; ++round) {
    const std::string text = round % 3 == 0 ? maker.bytes(60) : maker.text(60);
    BOOST_TEST(tiny().decode(encode_text(tiny(), text), false) == normalize_nfc(repaired(text)));
  }
}

BOOST_AUTO_TEST_CASE(words_of_every_length_merge_in_the_order_of_the_rules) {
  const plain_merges reference(tiny_json());
  text_maker maker(5);
  for (size_t length = 1; length <= 300; ++length) {
    std::string word;
    while (word.size() < length) word.push_back("hetinrsaoldu"[maker.below(12)]);
    std::vector<std::string> tokens;
    for (const int32_t id : encode_text(tiny(), word)) tokens.emplace_back(tiny().token_bytes(id));
    BOOST_TEST(tokens == reference.encode(word), boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(threads_share_a_tokenizer) {
  text_maker maker(6);
  std::vector<std::string> texts;
  std::vector<id_list> expected;
  for (int32_t i = 0; i < 200; ++i) {
    texts.push_back(maker.text(100));
    expected.push_back(encode_text(tiny(), texts.back()));
  }
  std::vector<size_t> equal(4);
  std::vector<std::thread> threads;
  for (auto& count : equal)
    threads.emplace_back([&] {
      for (size_t i = 0; i < texts.size(); ++i)
        count += encode_text(tiny(), texts[i]) == expected[i] ? 1 : 0;
    });
  for (auto& thread : threads) thread.join();
  for (const size_t count : equal) BOOST_TEST(count == texts.size());
}

BOOST_AUTO_TEST_CASE(text_beyond_the_limit_is_refused_before_it_is_read) {
  id_list ids;
  const std::string_view claimed("x", tokenizer::text_bytes_max + 1);
  BOOST_CHECK_THROW(tiny().encode_text(claimed, ids), std::length_error);
  BOOST_TEST(ids.empty());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(long_input)

BOOST_AUTO_TEST_CASE(takes_linear_time_and_a_small_stack) {
  // 10 MB in 2 s is promised for release builds on a machine of today. What takes more than linear time would
  // take hours for as much text, so that a slow machine is let have its time.
#ifdef NDEBUG
  constexpr size_t text_bytes = 10 << 20;
#else
  constexpr size_t text_bytes = 1 << 20;
#endif
  constexpr double seconds_max = 40;
  const std::string units[] = {
      "a",     "\n", " ",      "7",      "你",           "<",   "the", "'s",
      "\r\n ", "한", "\u1161", "\u0301", "\u0301\u0323", "\xF0"};
  for (const auto& unit : units) {
    std::string text;
    while (text.size() < text_bytes) text += unit;
    id_list ids;
    const double seconds = seconds_on_small_stack([&] { tiny().encode_text(text, ids); });
    BOOST_TEST_CONTEXT(text.substr(0, 8)) {
      BOOST_TEST(seconds < seconds_max);
      BOOST_TEST((tiny().decode(ids, false) == normalize_nfc(repaired(text))));
    }
  }
}

BOOST_AUTO_TEST_CASE(words_of_random_letters_take_linear_time) {
  const auto seconds_of = [](size_t length) {
    text_maker maker(10);
    std::string word;
    while (word.size() < length) word.push_back("hetinrsaoldu"[maker.below(12)]);
    id_list ids;
    return seconds_on_small_stack([&] { tiny().encode_text(word, ids); });
  };
  // A fraction of a second; merging pair by pair in a list of this length would take a thousand times that.
  constexpr size_t length = 1 << 20;
  BOOST_TEST(seconds_of(length) < 20);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(detokenizer)

BOOST_AUTO_TEST_CASE(streams_whole_characters_that_add_up_to_the_text) {
  text_maker maker(7);
  for (int32_t round = 0; round < 2000; ++round) {
    id_list ids;
    for (size_t left = maker.below(60); left > 0; --left)
      ids.push_back(static_cast<int32_t>(maker.below(static_cast<size_t>(tiny().size()) + 3)) - 1);
    for (const bool skip : {true, false}) {
      streaming_detokenizer stream(tiny(), skip);
      std::string text;
      for (const int32_t id : ids) {
        const std::string piece = stream.push(id);
        BOOST_TEST(valid_utf8_prefix(piece) == piece.size());
        text += piece;
      }
      text += stream.finish();
      BOOST_TEST(text == tiny().decode(ids, skip));
    }
  }
}

BOOST_AUTO_TEST_CASE(holds_back_until_the_last_byte) {
  streaming_detokenizer stream(tiny());
  const id_list ids = encode_text(tiny(), "😀é");
  BOOST_REQUIRE_EQUAL(ids.size(), 6u);  // no merges above ASCII in this vocabulary
  const std::vector<std::string> expected = {"", "", "", "😀", "", "é"};
  for (size_t i = 0; i < ids.size(); ++i) BOOST_TEST(stream.push(ids[i]) == expected[i]);
  BOOST_TEST(stream.finish().empty());
}

BOOST_AUTO_TEST_CASE(shows_what_can_not_become_a_character_at_once) {
  streaming_detokenizer stream(tiny());
  const id_list ids = encode_text(tiny(), "😀a");
  BOOST_TEST(stream.push(ids[0]).empty());
  BOOST_TEST(stream.push(ids[1]).empty());
  BOOST_TEST(stream.push(ids[4]) == "\uFFFDa");
  BOOST_TEST(stream.push(ids[0]).empty());
  BOOST_TEST(stream.push(tiny().added_token("<|im_end|>").value()).empty());
  BOOST_TEST(stream.finish() == "\uFFFD");
  BOOST_TEST(stream.finish().empty());
}

BOOST_AUTO_TEST_CASE(ids_without_a_token_have_no_text) {
  for (const int32_t id : {-1, tiny().size(), INT32_MAX, INT32_MIN}) {
    BOOST_TEST(!tiny().exists(id));
    BOOST_TEST(!tiny().is_added(id));
    BOOST_TEST(!tiny().is_special(id));
    BOOST_TEST(tiny().token_bytes(id).empty());
  }
  BOOST_TEST(tiny().size() == 574);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(file)

BOOST_AUTO_TEST_CASE(merges_may_be_pairs_or_strings) {
  const std::string json = tiny_json();
  const auto rules = config::parse_json(json).find("model")->find("merges")->elements();
  std::string older = json.substr(0, json.find("\"merges\"")) + "\"merges\": [";
  for (const auto& rule : rules) {
    const auto parts = rule.elements();
    if (older.back() != '[') older += ",";
    config::append_json_string(
        older, std::string(*parts[0].string()) + " " + std::string(*parts[1].string()));
  }
  const auto loaded = tokenizer::parse(older + "]}}", "older");
  text_maker maker(8);
  for (int32_t round = 0; round < 500; ++round) {
    const std::string text = "the quick " + maker.text(30);
    BOOST_TEST(encode_text(loaded, text) == encode_text(tiny(), text),
               boost::test_tools::per_element());
  }
}

struct broken_file {
  std::string found;
  std::string replacement;
  std::string fault;
};

const std::vector<broken_file> broken_files = {
    {R"("type": "NFC")", R"("type": "NFKC")", R"(normalizer.type: found "NFKC", expected "NFC")"},
    {R"("normalizer": {)", R"("normaliser": {)", "normalizer: is missing"},
    {R"("type": "Sequence")", R"("type": "Metaspace")", R"(pre_tokenizer.type: found "Metaspace")"},
    {R"(\\p{N}|)", R"(\\p{N}{1,3}|)", "pre_tokenizer.pretokenizers[0].pattern.Regex: found"},
    {R"("behavior": "Isolated")", R"("behavior": "Removed")", "expected \"Isolated\""},
    {R"("use_regex": false)", R"("use_regex": true)",
     "pre_tokenizer.pretokenizers[1].use_regex: found true, expected false"},
    {R"("type": "BPE")", R"("type": "Unigram")", R"(model.type: found "Unigram", expected "BPE")"},
    {R"("byte_fallback": false)", R"("byte_fallback": true)", "model.byte_fallback: found true"},
    {R"("ignore_merges": false)", R"("ignore_merges": true)", "model.ignore_merges: found true"},
    {R"("dropout": null)", R"("dropout": 0.1)", "model.dropout: found 0.1, expected 0"},
    {R"("unk_token": null)", R"("unk_token": "?")", "model.unk_token: found \"?\""},
    {R"("!": 0,)", R"("!": -1,)", "model.vocab: id of '!' is no integer from 0 to 4194303"},
    {R"("!": 0,)", R"("!": 9999999999,)", "model.vocab: id of '!' is no integer"},
    {R"("!": 0,)", R"("!": "0",)", "model.vocab: id of '!' is no integer"},
    {R"("!": 0,)", R"("!": 1,)", "id 1 is in use already"},
    {R"("!": 0,)", R"("": 0,)", "token '' is not spelled in the byte-level alphabet"},
    {R"("!": 0,)", R"("! ": 0,)", "token '! ' is not spelled in the byte-level alphabet"},
    {R"("!": 0,)", R"("!!": 0,)", "model.vocab: has no token for byte 0x21"},
    {R"("vocab": {)", R"("words": {)", "model.vocab: is missing or empty"},
    {R"("content": "<|im_end|>")", R"("content": "<|im_start|>")",
     "added_tokens: '<|im_start|>' is listed twice"},
    {R"("content": "<|im_end|>")", R"("content": "")", "added_tokens[2].content: is empty"},
    {R"("content": "<|im_end|>")", R"("content": "!")",
     "added token '!': id is 550, but 0 in model.vocab"},
    {R"("id": 550)", R"("id": 549)", "token '<|im_end|>': id 549 is in use already"},
    {R"("id": 550)", R"("id": 5)", "token '<|im_end|>': id 5 is in use already"},
    {R"("lstrip": false)", R"("lstrip": true)", "added_tokens[0].lstrip: found true"},
    {R"("special": true)", R"("special": 1)", "added_tokens[0].special: found 1"},
    {"\"h\",\n        \"e\"", R"("h")", "model.merges[0]: is no pair of tokens"},
    {"\"h\",\n        \"e\"", R"("h", 5)", "model.merges[0]: is no pair of tokens"},
    {"\"h\",\n        \"e\"", R"("h", "eeee")", "model.merges[0]: 'eeee' is not in model.vocab"},
    {"\"h\",\n        \"e\"", R"("h", "!")", "model.merges[0]: 'h!' is not in model.vocab"},
    {"\"h\",\n        \"e\"", "\"\u0120\", \"t\"", "model.merges[1]: '\u0120' and 't' have a rule"},
    {R"("version": "1.0",)", R"("version" "1.0",)", "tokenizer.json: line 2"},
};

BOOST_AUTO_TEST_CASE(faults_are_named) {
  for (const auto& broken : broken_files) {
    const std::string json = edited(broken.found, broken.replacement);
    BOOST_TEST_CONTEXT(broken.fault) {
      BOOST_CHECK_EXCEPTION(tokenizer::parse(json, "tokenizer.json"), config::error,
                            [&](const config::error& error) {
                              BOOST_TEST_MESSAGE(error.what());
                              const std::string text = error.what();
                              return text.find(broken.fault) != std::string::npos;
                            });
    }
  }
}

BOOST_AUTO_TEST_CASE(plain_text_can_not_be_made_to_spell_an_added_token) {
  // "he" exists through a merge; as an added token any user could write it.
  const auto json = tiny_json();
  const auto he = config::parse_json(json).find("model")->find("vocab")->find("he")->integer();
  const std::string listed =
      R"({"content": "he", "special": true, "id": )" + std::to_string(*he) + "},";
  BOOST_CHECK_EXCEPTION(
      tokenizer::parse(edited("\"added_tokens\": [", "\"added_tokens\": [" + listed), "edited"),
      config::error, [](const config::error& error) {
        return std::string(error.what()).find("makes the added token 'he' out of plain text") !=
               std::string::npos;
      });
}

BOOST_AUTO_TEST_CASE(many_faults_are_cut_short) {
  std::string json = R"({"model": {"type": "BPE", "vocab": {)";
  for (int32_t i = 0; i < 1000; ++i)
    json += (i == 0 ? "\"" : ", \"") + std::to_string(i) + " \": 0";
  BOOST_CHECK_EXCEPTION(tokenizer::parse(json + "}}}", "f"), config::error,
                        [](const config::error& error) { return error.faults().size() == 21; });
}

BOOST_AUTO_TEST_CASE(any_cut_or_flipped_byte_ends_in_a_fault_or_a_tokenizer) {
  const std::string json = tiny_json();
  text_maker maker(9);
  const auto survives = [](const std::string& bytes) {
    try {
      const auto loaded = tokenizer::parse(bytes, "f");
      id_list ids;
      loaded.encode_with_special("the <|im_end|> end", ids);
      return loaded.decode(ids, false) == "the <|im_end|> end";
    } catch (const config::error&) {
      return true;
    }
  };
  for (int32_t round = 0; round < 150; ++round) {
    BOOST_TEST(survives(json.substr(0, maker.below(json.size()))));
    std::string flipped = json;
    flipped[maker.below(json.size())] = static_cast<char>(maker.below(256));
    BOOST_TEST(survives(flipped));
  }
}

BOOST_AUTO_TEST_CASE(missing_files_are_named) {
  BOOST_CHECK_EXCEPTION(tokenizer::load(testing::fixtures() / "tiny/tokeniser.json"), config::error,
                        [](const config::error& error) {
                          return std::string(error.what()).find("tiny/tokeniser.json") !=
                                 std::string::npos;
                        });
}

BOOST_AUTO_TEST_SUITE_END()
