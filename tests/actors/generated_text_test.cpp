#include "actors/generated_text.hpp"
#include "support/reference_set.hpp"

#include <boost/test/unit_test.hpp>

#include <random>

using namespace troupe;
using actors::completion_request;
using actors::find_stop;
using actors::generated_text;
using actors::held_length;

namespace {

const model::tokenizer& tiny_tokenizer() {
  static const auto tokenizer =
      model::tokenizer::load(testing::fixtures() / "tiny" / "tokenizer.json");
  return tokenizer;
}

struct shown {
  std::string text;
  std::string bytes;  // of all tokens that left
  std::vector<int32_t> tokens;
  std::vector<std::string> pieces;
  bool stopped = false;
};

void take(shown& all, const actors::text_delta& delta) {
  all.text += delta.text;
  if (!delta.text.empty()) all.pieces.push_back(delta.text);
  for (const auto& token : delta.tokens) {
    all.bytes += token.bytes;
    all.tokens.push_back(token.token);
  }
}

shown generate(const std::vector<int32_t>& ids, std::vector<std::string> stops, bool include = false) {
  auto request = std::make_shared<completion_request>();
  request->stop = std::move(stops);
  request->include_stop_text = include;
  generated_text text(request, tiny_tokenizer());
  shown all;
  for (const auto id : ids) take(all, text.push(id, {}));
  take(all, text.finish());
  all.stopped = text.stopped();
  return all;
}

std::vector<int32_t> encode(const std::string& text) {
  std::vector<int32_t> ids;
  tiny_tokenizer().encode_text(text, ids);
  return ids;
}

/// One token per byte: the finest cut there is.
std::vector<int32_t> encode_bytes(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char byte : text)
    for (int32_t id = 0; id < tiny_tokenizer().size(); ++id)
      if (!tiny_tokenizer().is_added(id) && tiny_tokenizer().token_bytes(id) == std::string(1, byte)) {
        ids.push_back(id);
        break;
      }
  return ids;
}

/// What a reader of one byte after the other would keep.
std::string expected_text(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const auto& stop : stops)
      if (!stop.empty() && std::string_view(text).substr(0, end).ends_with(stop))
        longest = std::max(longest, stop.size());
    if (longest > 0) return text.substr(0, include ? end : end - longest);
  }
  return text;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(stop_texts)

BOOST_AUTO_TEST_CASE(the_match_that_ends_first_wins) {
  const auto match = find_stop("xabcd", {"abcd", "bc"});
  BOOST_REQUIRE(match.has_value());
  BOOST_TEST(match->begin == 2U);
  BOOST_TEST(match->end == 4U);
  BOOST_TEST(!find_stop("xab", {"abcd", ""}).has_value());
}

BOOST_AUTO_TEST_CASE(of_matches_that_end_together_the_longest_wins) {
  BOOST_TEST(find_stop("xabc", {"bc", "abc", "c"})->begin == 1U);
}

BOOST_AUTO_TEST_CASE(an_end_that_may_become_a_stop_text_is_held) {
  BOOST_TEST(held_length("hello ST", {"STOP", "TIP"}) == 2U);
  BOOST_TEST(held_length("hello", {"STOP"}) == 0U);
  BOOST_TEST(held_length("aa", {"aaa"}) == 2U);
  BOOST_TEST(held_length("", {"a"}) == 0U);
  BOOST_TEST(held_length("STOP", {"STOP"}) == 0U);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(generated_text_of_a_request)

BOOST_AUTO_TEST_CASE(without_stop_texts_every_token_leaves_at_once) {
  const std::string text = "Count: 3 \xc3\xa9\xf0\x9f\x98\x80!";
  const auto ids = encode_bytes(text);
  const auto all = generate(ids, {});
  BOOST_TEST(all.text == text);
  BOOST_TEST(all.bytes == text);
  BOOST_TEST(all.tokens == ids);
  BOOST_TEST(!all.stopped);
}

BOOST_AUTO_TEST_CASE(a_stop_text_over_token_borders_leaves_in_no_form) {
  const auto all = generate(encode_bytes("one STOP two"), {"STOP"});
  BOOST_TEST(all.text == "one ");
  BOOST_TEST(all.bytes == "one ");
  BOOST_TEST(all.stopped);
}

BOOST_AUTO_TEST_CASE(a_token_cut_by_a_stop_text_loses_what_lies_behind_the_cut) {
  const auto ids = encode("The answer is 37.");
  for (const auto& stop : {"answer", "nsw", "37", "e a"}) {
    const auto all = generate(ids, {stop});
    BOOST_TEST(all.stopped);
    BOOST_TEST(all.text == expected_text("The answer is 37.", {stop}, false));
    BOOST_TEST(all.bytes == all.text);
  }
}

BOOST_AUTO_TEST_CASE(half_a_character_of_a_stop_text_is_held_with_its_token) {
  const auto all = generate(encode_bytes("ok \xc3\xa9nd"), {"\xc3\xa9nd"});
  BOOST_TEST(all.text == "ok ");
  BOOST_TEST(all.bytes == "ok ");
}

BOOST_AUTO_TEST_CASE(a_held_text_that_becomes_nothing_leaves_at_the_end) {
  const auto all = generate(encode_bytes("abc ST"), {"STOP"});
  BOOST_TEST(all.text == "abc ST");
  BOOST_TEST(all.bytes == "abc ST");
  BOOST_TEST(!all.stopped);
}

BOOST_AUTO_TEST_CASE(the_stop_text_can_be_included) {
  BOOST_TEST(generate(encode_bytes("one STOP two"), {"STOP"}, true).text == "one STOP");
}

BOOST_AUTO_TEST_CASE(tokens_after_the_stop_are_not_counted) {
  auto request = std::make_shared<completion_request>();
  request->stop = {"b"};
  generated_text text(request, tiny_tokenizer());
  for (const auto id : encode_bytes("abcd")) text.push(id, {});
  BOOST_TEST(text.num_tokens() == 2);
  BOOST_TEST(text.stopped());
}

/// However tokens cut a text, what is shown is what a reader of single bytes would keep, every piece is
/// whole UTF-8 and nothing shown is ever part of a stop text.
BOOST_AUTO_TEST_CASE(the_cut_into_tokens_does_not_matter) {
  const std::vector<std::string> letters{"a", "b", "\xc3\xa9", " ", "\xe2\x82\xac"};
  std::mt19937_64 random(3);
  const auto word = [&](size_t length) {
    std::string text;
    for (size_t i = 0; i < length; ++i) text += letters[random() % letters.size()];
    return text;
  };
  int32_t stopped = 0;
  for (int32_t round = 0; round < 2'000; ++round) {
    const auto text = word(1 + random() % 24);
    std::vector<std::string> stops;
    for (uint64_t n = random() % 4; n > 0; --n) stops.push_back(word(1 + random() % 4));
    const bool include = random() % 2 == 0;
    const auto expected = expected_text(text, stops, include);
    for (const auto& ids : {encode_bytes(text), encode(text)}) {
      const auto all = generate(ids, stops, include);
      BOOST_TEST_REQUIRE(all.text == expected);
      BOOST_TEST_REQUIRE(all.bytes == expected);
      for (const auto& piece : all.pieces)
        BOOST_TEST_REQUIRE((static_cast<uint8_t>(piece[0]) & 0xc0) != 0x80);
      stopped += all.stopped;
    }
  }
  BOOST_TEST(stopped > 100);
}

BOOST_AUTO_TEST_SUITE_END()
