// What is published about the released Qwen3 vocabulary, which the tests fetch from a package.
#include "model/tokenizer/tokenizer.hpp"

#include <time.h>
#include <boost/test/unit_test.hpp>

#include <string>
#include <vector>

using troupe::model::tokenizer;

namespace {

using id_list = std::vector<int32_t>;

const tokenizer& qwen3() {
  static const tokenizer loaded = tokenizer::load(QWEN3_TOKENIZER);
  return loaded;
}

id_list encode(std::string_view text) {
  id_list ids;
  qwen3().encode_with_special(text, ids);
  return ids;
}

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(vocabulary)

BOOST_AUTO_TEST_CASE(golden_encodings) {
  const std::pair<std::string, id_list> cases[] = {
      {"<|im_start|>user\nHello, world!<|im_end|>\n",
       {151644, 872, 198, 9707, 11, 1879, 0, 151645, 198}},
      {"<|im_start|>assistant\n", {151644, 77091, 198}},
      {"<|im_start|>system\n", {151644, 8948, 198}},
      {"<think>\n", {151667, 198}},
      {"\n</think>\n\n", {198, 151668, 271}},
      {"I'll  pay 12345 dollars\n\n  now\t",
       {40, 3278, 220, 2291, 220, 16, 17, 18, 19, 20, 11192, 271, 220, 1431, 197}},
      {"na\u00EFve cafe\u0301 \u00C0\u00C9", {3376, 37572, 586, 51950, 64281, 26789}},
      {"\u4F60\u597D\uFF0C\u4E16\u754C\uFF01", {108386, 3837, 99489, 6313}},
      {"\U0001F600\U0001F44D\U0001F3FD", {141334, 144349, 145375}},
      {"DON'T don't", {84641, 17323, 1513, 944}},
      {"   \n \n x", {5872, 715, 856}},
      {"\r\n\r\nx", {871, 87}},
      {"a\u00A0b\u3000c", {64, 4102, 65, 22441, 66}},
      {"\u0661\u0662\u0663 \u2167 \u00BD",
       {149, 94, 149, 95, 149, 96, 220, 70467, 100, 220, 26062}},
      {"<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
       {151657, 198, 4913, 606, 788, 330, 69, 497, 330, 16370, 788, 4687, 532, 151658}},
      {"<0.3 seconds>", {27, 15, 13, 18, 6486, 29}},
  };
  for (const auto& [text, ids] : cases)
    BOOST_TEST(encode(text) == ids, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(sizes_and_special_tokens) {
  BOOST_TEST(qwen3().size() == 151669);
  BOOST_TEST(qwen3().added().all().size() == 26u);
  for (int32_t id = 0; id < qwen3().size(); ++id) {
    BOOST_TEST(qwen3().exists(id));
    BOOST_TEST(qwen3().is_added(id) == (id >= 151643));
    BOOST_TEST(qwen3().is_special(id) == (id >= 151643 && id <= 151656));
  }
  BOOST_TEST(qwen3().added_token("<|image_pad|>").value() == 151655);
  BOOST_TEST(qwen3().added_token("<|video_pad|>").value() == 151656);
}

BOOST_AUTO_TEST_CASE(every_token_comes_back_from_its_bytes) {
  // Tokens that are a part of a character can not: their bytes are no text.
  int64_t compared = 0;
  for (int32_t id = 0; id < 151643; ++id) {
    const std::string bytes(qwen3().token_bytes(id));
    const std::string shown = qwen3().decode({id}, false);
    if (shown != bytes) continue;
    id_list ids;
    qwen3().encode_text(bytes, ids);
    if (qwen3().decode(ids, false) == bytes) ++compared;
  }
  BOOST_TEST(compared > 140000);
}

BOOST_AUTO_TEST_CASE(ten_megabytes_of_one_character) {
#ifdef NDEBUG
  constexpr size_t text_bytes = 10 << 20;
#else
  constexpr size_t text_bytes = 1 << 20;
#endif
  for (const std::string unit :
       {"a", " ", "\n", "<", "7", "\u4F60", "\u0301", "the", "\xF0\x9F\x98\x80"}) {
    std::string text;
    while (text.size() < text_bytes) text += unit;
    id_list ids;
    const double start = processor_seconds();
    qwen3().encode_text(text, ids);
    const double seconds = processor_seconds() - start;
    BOOST_TEST_CONTEXT(unit) {
      BOOST_TEST(seconds < 2);
      BOOST_TEST((qwen3().decode(ids, false) == text));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
