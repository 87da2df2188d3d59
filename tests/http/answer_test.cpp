// The stream's contract, without a socket.
#include "actors/http/answer.hpp"
#include "config/json.hpp"

#include <fmt/format.h>
#include <boost/test/unit_test.hpp>

#include <random>
#include <string>
#include <vector>

namespace troupe::http {
namespace {

using actors::finish_reason;
using actors::text_delta;
using config::json_value;

answer_options chat_options(int32_t num_choices = 1) {
  answer_options options;
  options.id = "chatcmpl-1";
  options.created = 17;
  options.model = "m";
  options.num_choices = num_choices;
  options.choices_per_prompt = num_choices;
  options.style.token_bytes = [](int32_t) { return std::string_view("t"); };
  return options;
}

text_delta delta(const std::string& text, int32_t tokens = 1) {
  text_delta made;
  made.text = text;
  for (int32_t i = 0; i < tokens; ++i) made.tokens.push_back({7, text, {}});
  return made;
}

/// The JSON of each frame; checks their form.
std::vector<std::string> frames_of(const std::string& stream) {
  std::vector<std::string> frames;
  for (size_t at = 0; at < stream.size();) {
    BOOST_REQUIRE(stream.compare(at, 6, "data: ") == 0);
    const auto end = stream.find("\n\n", at);
    BOOST_REQUIRE(end != std::string::npos);
    frames.push_back(stream.substr(at + 6, end - at - 6));
    at = end + 2;
  }
  return frames;
}

std::vector<std::string> take(answer& source) {
  std::string stream;
  source.take_frames(stream);
  return frames_of(stream);
}

constexpr const char* chunk_prefix =
    R"({"id":"chatcmpl-1","object":"chat.completion.chunk","created":17,"model":"m","choices":[)";

BOOST_AUTO_TEST_SUITE(answer_stream)

BOOST_AUTO_TEST_CASE(frames_are_exactly_those_of_the_contract) {
  auto options = chat_options();
  options.include_usage = true;
  answer chat(options);
  BOOST_TEST(!chat.has_frames());
  chat.push(0, delta("Hel"));
  const auto first = take(chat);
  BOOST_REQUIRE(first.size() == 2u);
  BOOST_TEST(
      first[0] ==
      std::string(chunk_prefix) +
          R"({"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]})");
  BOOST_TEST(first[1] ==
             std::string(chunk_prefix) +
                 R"({"index":0,"delta":{"content":"Hel"},"logprobs":null,"finish_reason":null}]})");
  chat.finish(0, finish_reason::stop, {.prompt_tokens = 9, .completion_tokens = 2});
  const auto last = take(chat);
  BOOST_REQUIRE(last.size() == 3u);
  BOOST_TEST(last[0] == std::string(chunk_prefix) +
                            R"({"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]})");
  BOOST_TEST(last[1].starts_with(
      std::string(chunk_prefix) +
      R"(],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11,)"));
  BOOST_TEST(last[2] == "[DONE]");
  BOOST_TEST(!chat.has_frames());
}

BOOST_AUTO_TEST_CASE(continuous_usage_is_in_every_frame_and_counts_its_choice) {
  auto options = chat_options(2);
  options.include_usage = options.continuous_usage = true;
  answer chat(options);
  const auto push = [&](int32_t choice, int32_t completion_tokens) {
    auto made = delta("x");
    made.usage = {.prompt_tokens = 9, .completion_tokens = completion_tokens};
    chat.push(choice, made);
  };
  const auto has = [](const std::string& frame, int32_t completion_tokens) {
    return frame.find(fmt::format(
               R"(}}],"usage":{{"prompt_tokens":9,"completion_tokens":{},"total_tokens":{},)",
               completion_tokens, 9 + completion_tokens)) != std::string::npos;
  };
  push(1, 1);
  const auto first = take(chat);  // both open, then the text of the second
  BOOST_REQUIRE(first.size() == 3u);
  BOOST_TEST(has(first[0], 0), first[0]);
  BOOST_TEST(has(first[2], 1), first[2]);
  push(0, 1);
  push(1, 2);
  push(1, 3);
  const auto next = take(chat);
  BOOST_REQUIRE(next.size() == 2u);
  BOOST_TEST(has(next[0], 1), next[0]);
  BOOST_TEST(has(next[1], 3), next[1]);
  chat.finish(0, finish_reason::length, {.prompt_tokens = 9, .completion_tokens = 2});
  chat.finish(1, finish_reason::stop, {.prompt_tokens = 9, .completion_tokens = 3});
  const auto last = take(chat);
  BOOST_REQUIRE(last.size() == 4u);
  BOOST_TEST(has(last[0], 2), last[0]);
  BOOST_TEST(has(last[1], 3), last[1]);
  BOOST_TEST(last[2].find(R"("completion_tokens":5,"total_tokens":14)") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(what_arrives_between_writes_is_one_frame) {
  answer chat(chat_options());
  chat.push(0, delta("a"));
  take(chat);
  for (const auto* text : {"b", "c", "d"}) chat.push(0, delta(text));
  const auto frames = take(chat);
  BOOST_REQUIRE(frames.size() == 1u);
  BOOST_TEST(frames[0].find(R"("content":"bcd")") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(tokens_without_text_open_the_choice_and_say_nothing) {
  answer chat(chat_options());
  chat.push(0, delta(""));
  BOOST_TEST(take(chat).size() == 1u);  // the role
  chat.push(0, delta(""));
  BOOST_TEST(!chat.has_frames());
}

BOOST_AUTO_TEST_CASE(choices_open_in_order_before_any_content) {
  answer chat(chat_options(3));
  chat.push(2, delta("third"));
  const auto frames = take(chat);
  BOOST_REQUIRE(frames.size() == 4u);
  for (size_t i = 0; i < 3; ++i) {
    BOOST_TEST(frames[i].find("\"index\":" + std::to_string(i)) != std::string::npos);
    BOOST_TEST(frames[i].find("role") != std::string::npos);
  }
  BOOST_TEST(frames[3].find(R"("index":2,"delta":{"content":"third"})") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_shared_prompt_counts_once) {
  answer chat(chat_options(2));
  for (int32_t i = 0; i < 2; ++i)
    chat.finish(i, finish_reason::length,
                {.prompt_tokens = 9, .visual_tokens = 4, .completion_tokens = 2});
  BOOST_TEST(chat.usage().prompt_tokens == 9);
  BOOST_TEST(chat.usage().visual_tokens == 4);
  BOOST_TEST(chat.usage().completion_tokens == 4);
}

BOOST_AUTO_TEST_CASE(a_failure_is_an_error_frame_and_done) {
  std::string stream;
  answer::append_failure(stream, make_error(500, "engine_error", "lost"));
  const auto frames = frames_of(stream);
  BOOST_REQUIRE(frames.size() == 2u);
  BOOST_TEST(
      frames[0] ==
      R"({"error":{"message":"lost","type":"server_error","param":null,"code":"engine_error"}})");
  BOOST_TEST(frames[1] == "[DONE]");
}

BOOST_AUTO_TEST_CASE(random_token_bytes_never_break_a_frame) {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    auto options = chat_options(2);
    options.logprobs = true;
    options.parsing = {round % 2 == 0, round % 3 == 0};
    answer chat(options);
    for (int i = 0; i < 20; ++i) {
      std::string bytes(random() % 5, '\0');
      for (auto& byte : bytes) byte = static_cast<char>(random());
      chat.push(static_cast<int32_t>(random() % 2), delta(bytes));
      if (random() % 2 == 0)
        for (const auto& frame : take(chat)) BOOST_CHECK_NO_THROW(config::parse_json(frame));
    }
    for (int32_t i = 0; i < 2; ++i) chat.finish(i, finish_reason::stop, {});
    const auto frames = take(chat);
    BOOST_TEST(frames.back() == "[DONE]");
  }
}

BOOST_AUTO_TEST_CASE(logprobs_name_alternatives_and_keep_bytes) {
  auto options = chat_options();
  options.logprobs = true;
  answer chat(options);
  text_delta half;
  half.tokens.push_back({7, "\xE6\x9D", {-0.25F, {7, 8}, {-0.25F, -2}}});
  chat.push(0, half);
  const auto frames = take(chat);
  BOOST_REQUIRE(frames.size() == 2u);
  BOOST_TEST(frames[1].find(R"("logprobs":{"content":[{"token":")"
                            "\xEF\xBF\xBD"
                            R"(","logprob":-0.25,"bytes":[230,157],"top_logprobs":[)"
                            R"({"token":"t","logprob":-0.25,"bytes":[116]},)"
                            R"({"token":"t","logprob":-2,"bytes":[116]}]}],"refusal":null})") !=
             std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(answer_body)

BOOST_AUTO_TEST_CASE(has_every_field_that_clients_read) {
  answer chat(chat_options());
  chat.push(0, delta("a"));
  chat.push(0, delta("b"));
  chat.finish(0, finish_reason::length,
              {.prompt_tokens = 3, .cached_tokens = 1, .completion_tokens = 2});
  const auto body = config::parse_json(chat.body());
  BOOST_TEST(*body.find("object")->string() == "chat.completion");
  const auto choice = body.find("choices")->elements().at(0);
  BOOST_TEST(*choice.find("message")->find("content")->string() == "ab");
  BOOST_TEST(*choice.find("finish_reason")->string() == "length");
  BOOST_TEST(*body.find("usage")->find("total_tokens")->integer() == 5);
  BOOST_TEST(*body.find("usage")->find("prompt_tokens_details")->find("cached_tokens")->integer() ==
             1);
  // Absent and null differ for typed clients: these are there.
  const auto has = [](const json_value& object, std::string_view key) {
    for (const auto& [name, value] : object.members())
      if (name == key) return value.is_null();
    return false;
  };
  BOOST_TEST(has(*choice.find("message"), "refusal"));
  BOOST_TEST(has(choice, "logprobs"));
}

BOOST_AUTO_TEST_CASE(calls_and_reasoning_have_their_own_fields) {
  auto options = chat_options();
  options.parsing = {true, true};
  answer chat(options);
  for (const auto* text : {"think", "ing\n</th", "ink>\n\nLook.\n<tool_",
                           "call>\n{\"name\": \"f\", \"arg", "uments\": {\"x\": 1}}\n</tool_call>"})
    chat.push(0, delta(text));
  chat.finish(0, finish_reason::stop, {});
  const auto body = config::parse_json(chat.body());
  const auto choice = body.find("choices")->elements().at(0);
  const auto message = *choice.find("message");
  BOOST_TEST(*message.find("reasoning_content")->string() == "thinking");
  BOOST_TEST(*message.find("content")->string() == "Look.");
  const auto call = message.find("tool_calls")->elements().at(0);
  BOOST_TEST(*call.find("index")->integer() == 0);
  BOOST_TEST(*call.find("type")->string() == "function");
  BOOST_TEST(*call.find("function")->find("name")->string() == "f");
  BOOST_TEST(*call.find("function")->find("arguments")->string() == R"({"x": 1})");
  BOOST_TEST(*choice.find("finish_reason")->string() == "tool_calls");
  BOOST_TEST(chat.usage().reasoning_tokens == 3);
}

BOOST_AUTO_TEST_CASE(text_completions_have_parallel_lists) {
  auto options = chat_options(2);
  options.chat = false;
  options.style.chat = false;
  options.logprobs = true;
  options.choices_per_prompt = 1;
  answer text(options);
  for (int32_t i = 0; i < 2; ++i) {
    text.push(i, delta("ab"));
    text.push(i, delta("cd"));
    text.finish(i, finish_reason::stop, {.prompt_tokens = 2, .completion_tokens = 2});
  }
  const auto body = config::parse_json(text.body());
  BOOST_TEST(*body.find("object")->string() == "text_completion");
  BOOST_TEST(*body.find("usage")->find("prompt_tokens")->integer() == 4);
  const auto choice = body.find("choices")->elements().at(1);
  BOOST_TEST(*choice.find("text")->string() == "abcd");
  const auto logprobs = *choice.find("logprobs");
  BOOST_TEST(logprobs.find("tokens")->elements().size() == 2u);
  BOOST_TEST(*logprobs.find("text_offset")->elements().at(1).integer() == 2);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(tool_calls)

std::string summary(const std::vector<answer_piece>& pieces) {
  std::string text;
  for (const auto& piece : pieces) {
    if (piece.what == answer_piece::kind::tool_call)
      text += "<" + piece.call.name + " " + piece.call.arguments + ">";
    else
      text += (piece.what == answer_piece::kind::reasoning ? "(" + piece.text + ")" : piece.text);
  }
  return text;
}

/// The pieces of `text` fed in parts of `size` bytes; adjoining text is joined by the summary.
std::string parse(const std::string& text, size_t size,
                  answer_parser::settings settings = {false, true}) {
  answer_parser parser(settings);
  std::string all;
  for (size_t at = 0; at < text.size(); at += size)
    all += summary(parser.push(text.substr(at, size)));
  return all + summary(parser.finish());
}

BOOST_AUTO_TEST_CASE(the_outcome_does_not_depend_on_how_the_text_is_cut) {
  const std::pair<std::string, std::string> cases[] = {
      {"plain", "plain"},
      {"a\n\nb\n", "a\n\nb\n"},
      {"<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>", "<f {}>"},
      {"<tool_call>{\"name\":\"f\"}</tool_call>", "<f {}>"},
      {"Look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1]}}\n</tool_call>\n"
       "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>",
       "Look.<f {\"a\": [1]}><g {}>"},
      {"<tool_call>not json</tool_call>", "<tool_call>not json</tool_call>"},
      {"<tool_call>{\"name\": 1}</tool_call> x", "<tool_call>{\"name\": 1}</tool_call> x"},
      {"<tool_call>{\"name\": \"f\", \"arguments\": \"{}\"}</tool_call>",
       "<tool_call>{\"name\": \"f\", \"arguments\": \"{}\"}</tool_call>"},
      {"<tool_call>{\"name\": \"f\"", "<tool_call>{\"name\": \"f\""},
      {"a <tool", "a <tool"},
      {"a <tool_calls> b", "a <tool_calls> b"},
  };
  for (const auto& [text, expected] : cases)
    for (size_t size = 1; size <= text.size(); ++size) BOOST_TEST(parse(text, size) == expected);
}

BOOST_AUTO_TEST_CASE(reasoning_ends_at_its_tag) {
  for (size_t size = 1; size < 30; ++size) {
    BOOST_TEST(parse("a\n</think>\n\nb", size, {true, false}).ends_with("b"));
    BOOST_TEST(parse("a</think>b<tool_call>", size, {true, false}).ends_with("b<tool_call>"));
  }
  BOOST_TEST(parse("a\n</think>\n\nb", 100, {true, false}) == "(a)b");
  BOOST_TEST(parse("never ends\n", 100, {true, false}) == "(never ends)(\n)");
}

BOOST_AUTO_TEST_CASE(brackets_without_end_stay_text_in_bounded_memory) {
  answer_parser parser({false, true});
  std::string all = summary(parser.push("<tool_call>"));
  const std::string part(10'000, '[');
  for (int i = 0; i < 100; ++i) {
    all += summary(parser.push(part));
    BOOST_TEST(parser.held_bytes() <= (256u << 10) + part.size());
  }
  all += summary(parser.finish());
  BOOST_TEST(all == "<tool_call>" + std::string(1'000'000, '['));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::http
