// The table of what a request may not say, and what becomes of what it may.
#include "actors/http/chat_request.hpp"
#include "actors/http/text_request.hpp"
#include "tests/http/fake_gateway.hpp"
#include "tests/http/fixture_images.hpp"

#include <fmt/format.h>
#include <boost/test/unit_test.hpp>

#include <string>
#include <vector>

namespace troupe::http {
namespace {

api_limits limits() {
  auto model = tests::fake_model();
  model.limits.num_images_max = 3;
  model.limits.num_frames_max = 5;
  return model.limits;
}

std::string body_with(const std::string& fields) {
  return R"({"messages":[{"role":"user","content":"hi"}])" + (fields.empty() ? "" : "," + fields) +
         "}";
}

chat_request accepted(const std::string& body, const api_limits& bounds = limits()) {
  auto parsed = parse_chat_request(body, bounds);
  if (const auto* error = std::get_if<api_error>(&parsed))
    BOOST_FAIL(fmt::format("{} was refused: {}", body.substr(0, 200), error->message));
  return std::get<chat_request>(std::move(parsed));
}

api_error refused(const std::string& body, const api_limits& bounds = limits()) {
  auto parsed = parse_chat_request(body, bounds);
  BOOST_REQUIRE_MESSAGE(std::holds_alternative<api_error>(parsed), body.substr(0, 200));
  return std::get<api_error>(parsed);
}

void check_refused(const std::string& body, int32_t status, std::string_view code,
                   std::string_view param) {
  const auto error = refused(body);
  BOOST_TEST_INFO(body.substr(0, 200) << " -> " << error.message);
  BOOST_TEST(error.status == status);
  BOOST_TEST(error.code == code);
  BOOST_TEST(error.param == param);
  BOOST_TEST(!error.message.empty());
  // Nobody learns from an error what the server is made of.
  for (const auto* inside : {"0x", "std::", "boost", "simdjson", "caf", "/usr"})
    BOOST_TEST(error.message.find(inside) == std::string::npos);
}

std::string user_parts(const std::string& parts) {
  return fmt::format(R"({{"messages":[{{"role":"user","content":[{}]}}]}})", parts);
}

std::string image_part(const std::string& url) {
  return fmt::format(R"({{"type":"image_url","image_url":{{"url":"{}"}}}})", url);
}

BOOST_AUTO_TEST_SUITE(request_table)

/// Values that fit no field of a kind, whatever its range.
const std::vector<std::string> never_a_number{"\"1\"", "true", "[]", "{}", "[1]", "\"\""};
const std::vector<std::string> never_an_integer{"\"1\"", "true", "[]", "{}", "1.5", "1e99"};
const std::vector<std::string> never_a_boolean{"1", "0", "\"true\"", "[]", "{}"};

struct field_case {
  std::string field;
  std::vector<std::string> outside;  // of its range
  const std::vector<std::string>* wrong_kind;
};

BOOST_AUTO_TEST_CASE(fields_of_the_wrong_kind_or_outside_their_range) {
  const std::vector<field_case> fields{
      {"temperature", {"-0.1", "2.01", "1e38", "-1"}, &never_a_number},
      {"top_p", {"0", "-1", "1.01", "1e-60"}, &never_a_number},
      {"min_p", {"-0.1", "1.1"}, &never_a_number},
      {"frequency_penalty", {"-2.1", "2.1"}, &never_a_number},
      {"presence_penalty", {"-2.1", "2.1"}, &never_a_number},
      {"repetition_penalty", {"0", "-1", "10.5", "1e-60"}, &never_a_number},
      {"top_k", {"-2", "3000000000"}, &never_an_integer},
      {"max_tokens", {"0", "-1", "3000000000"}, &never_an_integer},
      {"max_completion_tokens", {"0", "-1", "3000000000"}, &never_an_integer},
      {"min_tokens", {"-1", "4097", "3000000000"}, &never_an_integer},
      {"n", {"0", "-1", "9", "1000000"}, &never_an_integer},
      {"best_of", {"0", "2", "1000000"}, &never_an_integer},
      {"seed", {"9223372036854775808", "1e300"}, &never_an_integer},
      {"top_logprobs", {"-1", "21", "1000000000"}, &never_an_integer},
      {"stream", {}, &never_a_boolean},
      {"logprobs", {}, &never_a_boolean},
      {"ignore_eos", {}, &never_a_boolean},
      {"skip_special_tokens", {}, &never_a_boolean},
      {"include_stop_str_in_output", {}, &never_a_boolean},
      {"return_token_ids", {}, &never_a_boolean},
      {"add_generation_prompt", {}, &never_a_boolean},
  };
  int cases = 0;
  for (const auto& each : fields) {
    auto values = each.outside;
    values.insert(values.end(), each.wrong_kind->begin(), each.wrong_kind->end());
    for (const auto& value : values) {
      check_refused(body_with(fmt::format("\"{}\":{}", each.field, value)), 400, "invalid_value",
                    each.field);
      ++cases;
    }
    accepted(body_with(fmt::format("\"{}\":null", each.field)));
  }
  BOOST_TEST(cases > 150);
}

BOOST_AUTO_TEST_CASE(numbers_that_json_lacks) {
  for (const auto* value : {"NaN", "Infinity", "-Infinity", "1e400", "01",
                            "+1", "0x1", ".5", "1."})
    check_refused(body_with(fmt::format("\"temperature\":{}", value)), 400, "invalid_json", "");
}

BOOST_AUTO_TEST_CASE(bodies_that_are_no_request) {
  const std::string deep(100'000, '[');
  const std::vector<std::string> malformed{"",
                                           "{",
                                           "{\"a\":1,\"a\":2}",
                                           "{} {}",
                                           "{\"messages\":" + deep,
                                           deep,
                                           "{\"messages\":\"\xC3\x28\"}",
                                           "{\"messages\":\"\\ud800\"}"};
  for (const auto& body : malformed) check_refused(body, 400, "invalid_json", "");
  check_refused("[]", 400, "invalid_value", "");
  for (const auto* body : {"1", "\"text\"", "null"}) BOOST_TEST(refused(body).status == 400);
}

BOOST_AUTO_TEST_CASE(structured_fields) {
  const std::vector<std::array<std::string, 3>> cases{
      {R"("stop":1)", "invalid_value", "stop"},
      {R"("stop":"")", "invalid_value", "stop"},
      {R"("stop":{"a":1})", "invalid_value", "stop"},
      {R"("stop":["a",1])", "invalid_value", "stop[1]"},
      {R"("stop":["a",null])", "invalid_value", "stop[1]"},
      {R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])",
       "invalid_value", "stop"},
      {R"("stop":")" + std::string(513, 'a') + "\"", "invalid_value", "stop"},
      {R"("stop_token_ids":[256])", "invalid_value", "stop_token_ids[0]"},
      {R"("stop_token_ids":[-1])", "invalid_value", "stop_token_ids[0]"},
      {R"("stop_token_ids":[1,"2"])", "invalid_value", "stop_token_ids[1]"},
      {R"("stop_token_ids":7)", "invalid_value", "stop_token_ids"},
      {R"("seed":18446744073709551616)", "invalid_value", "seed"},
      {R"("max_tokens":-9223372036854775809 )", "invalid_value", "max_tokens"},
      {R"("max_tokens":1)" + std::string(400, '0'), "invalid_value", "max_tokens"},
      {R"("stop_token_ids":[1,2,99999999999999999999])", "invalid_value", "stop_token_ids[2]"},
      {R"("stream_options":{"x":[{"y":1}],"z":99999999999999999999})", "invalid_value",
       "stream_options.z"},
      {R"("logit_bias":{"256":1})", "invalid_value", "logit_bias"},
      {R"("logit_bias":{"-1":1})", "invalid_value", "logit_bias"},
      {R"("logit_bias":{"a":1})", "invalid_value", "logit_bias"},
      {R"("logit_bias":{"1x":1})", "invalid_value", "logit_bias"},
      {R"("logit_bias":{"99999999999":1})", "invalid_value", "logit_bias"},
      {R"("logit_bias":{"1":101})", "invalid_value", "logit_bias.1"},
      {R"("logit_bias":{"1":"2"})", "invalid_value", "logit_bias.1"},
      {R"("logit_bias":[1])", "invalid_value", "logit_bias"},
      {R"("logprobs":false,"top_logprobs":3)", "invalid_value", "top_logprobs"},
      {R"("top_logprobs":3)", "invalid_value", "top_logprobs"},
      {R"("stream_options":1)", "invalid_value", "stream_options"},
      {R"("stream_options":{"include_usage":1})", "invalid_value", "stream_options.include_usage"},
      {R"("stream_options":{"continuous_usage_stats":"yes"})", "invalid_value",
       "stream_options.continuous_usage_stats"},
      {R"("response_format":{"type":"json_object"})", "unsupported_schema", "response_format.type"},
      {R"("response_format":{"type":"json_schema","json_schema":{}})", "unsupported_schema",
       "response_format.type"},
      {R"("response_format":{})", "invalid_value", "response_format.type"},
      {R"("response_format":"text")", "invalid_value", "response_format"},
      {R"("guided_json":{"type":"object"})", "unsupported_schema", "guided_json"},
      {R"("guided_regex":"(a*)*")", "unsupported_schema", "guided_regex"},
      {R"("guided_choice":["a"])", "unsupported_schema", "guided_choice"},
      {R"("guided_grammar":"g")", "unsupported_schema", "guided_grammar"},
      {R"("structured_outputs":{"json":{}})", "unsupported_schema", "structured_outputs"},
      {R"("grammar":"root ::= x")", "unsupported_schema", "grammar"},
      {R"("chat_template":"{{ x }}")", "unsupported_parameter", "chat_template"},
      {R"("chat_template_kwargs":{"tokenize":true})", "unsupported_parameter",
       "chat_template_kwargs"},
      {R"("chat_template_kwargs":{"enable_thinking":1})", "invalid_value",
       "chat_template_kwargs.enable_thinking"},
      {R"("continue_final_message":true)", "unsupported_parameter", "continue_final_message"},
      {R"("echo":true)", "unsupported_parameter", "echo"},
      {R"("prompt_logprobs":-1)", "unsupported_parameter", "prompt_logprobs"},
      {R"("use_beam_search":true)", "unsupported_parameter", "use_beam_search"},
      {R"("bad_words":["a"])", "unsupported_parameter", "bad_words"},
      {R"("allowed_token_ids":[1])", "unsupported_parameter", "allowed_token_ids"},
      {R"("truncate_prompt_tokens":5)", "unsupported_parameter", "truncate_prompt_tokens"},
      {R"("mm_processor_kwargs":{"fps":2})", "unsupported_parameter", "mm_processor_kwargs"},
      {R"("prompt_embeds":"AAAA")", "unsupported_parameter", "prompt_embeds"},
      {R"("modalities":["text","audio"])", "invalid_value", "modalities"},
      {R"("tools":1)", "invalid_value", "tools"},
      {R"("tools":[1])", "invalid_value", "tools[0]"},
      {R"("tools":[{"type":"retrieval"}])", "invalid_value", "tools[0].type"},
      {R"("tools":[{"type":"function"}])", "invalid_value", "tools[0].function"},
      {R"("tools":[{"type":"function","function":{}}])", "invalid_value", "tools[0].function.name"},
      {R"("tools":[{"type":"function","function":{"name":""}}])", "invalid_value",
       "tools[0].function.name"},
      {R"("tools":[{"type":"function","function":{"name":"f","strict":true}}])",
       "unsupported_schema", "tools[0].function.strict"},
      {R"("tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"required")",
       "unsupported_parameter", "tool_choice"},
      {R"("tool_choice":{"type":"function","function":{"name":"f"}})", "unsupported_parameter",
       "tool_choice"},
      {R"("functions":[{"name":"f"}])", "unsupported_parameter", "functions"},
  };
  for (const auto& [fields, code, param] : cases)
    check_refused(body_with(fields), 400, code, param);
  check_refused(body_with(R"("model":"gpt-4")"), 404, "model_not_found", "model");
  check_refused(body_with(R"("model":7)"), 400, "invalid_value", "model");
}

BOOST_AUTO_TEST_CASE(messages) {
  const std::vector<std::array<std::string, 3>> cases{
      {R"({})", "invalid_value", "messages"},
      {R"({"messages":null})", "invalid_value", "messages"},
      {R"({"messages":{}})", "invalid_value", "messages"},
      {R"({"messages":[]})", "invalid_value", "messages"},
      {R"({"messages":["hi"]})", "invalid_value", "messages[0]"},
      {R"({"messages":[{}]})", "invalid_value", "messages[0].role"},
      {R"({"messages":[{"role":"king","content":"a"}]})", "invalid_value", "messages[0].role"},
      {R"({"messages":[{"role":"user"}]})", "invalid_value", "messages[0].content"},
      {R"({"messages":[{"role":"user","content":null}]})", "invalid_value", "messages[0].content"},
      {R"({"messages":[{"role":"user","content":7}]})", "invalid_value", "messages[0].content"},
      {R"({"messages":[{"role":"user","content":{"a":1}}]})", "invalid_value",
       "messages[0].content"},
      {R"({"messages":[{"role":"user","content":[7]}]})", "invalid_value",
       "messages[0].content[0]"},
      {R"({"messages":[{"role":"user","content":[{}]}]})", "invalid_value",
       "messages[0].content[0].type"},
      {R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})", "invalid_value",
       "messages[0].content[0].text"},
      {R"({"messages":[{"role":"user","content":[{"type":"text","text":7}]}]})", "invalid_value",
       "messages[0].content[0].text"},
      {R"({"messages":[{"role":"user","content":[{"type":"hologram"}]}]})", "invalid_value",
       "messages[0].content[0].type"},
      {R"({"messages":[{"role":"user","content":"a","tool_calls":[{}]}]})", "invalid_value",
       "messages[0].tool_calls"},
      {R"({"messages":[{"role":"assistant","tool_calls":[{}]}]})", "invalid_value",
       "messages[0].tool_calls[0].function"},
      {R"({"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":1}}]}]})",
       "invalid_value", "messages[0].tool_calls[0].function.arguments"},
  };
  for (const auto& [body, code, param] : cases) check_refused(body, 400, code, param);
}

BOOST_AUTO_TEST_CASE(media) {
  const std::string path = "messages[0].content[0]";
  for (const auto* type : {"video_url", "input_video", "input_audio", "file", "image_embeds"})
    check_refused(user_parts(fmt::format(R"({{"type":"{}"}})", type)), 400, "unsupported_content",
                  path + ".type");
  check_refused(user_parts(R"({"type":"image_url"})"), 400, "invalid_value", path + ".image_url");
  check_refused(user_parts(R"({"type":"image_url","image_url":{}})"), 400, "invalid_value",
                path + ".image_url.url");
  check_refused(user_parts(R"({"type":"image_url","image_url":7})"), 400, "invalid_value",
                path + ".image_url");
  check_refused(
      user_parts(R"({"type":"image_url","image_url":{"url":"data:;base64,AAAA","detail":"best"}})"),
      400, "invalid_value", path + ".image_url.detail");
  for (const auto* url : {"http://169.254.169.254/", "https://a/b.png", "file:///etc/passwd"})
    check_refused(user_parts(image_part(url)), 400, "unsupported_url", path + ".image_url.url");
  check_refused(user_parts(image_part("data:image/png;base64,////")), 415,
                "unsupported_image_format", path + ".image_url.url");
  check_refused(user_parts(R"({"type":"video","video":[]})"), 400, "invalid_value",
                path + ".video");
  check_refused(user_parts(R"({"type":"video","video":"data:"})"), 400, "invalid_value",
                path + ".video");
  check_refused(user_parts(R"({"type":"video","video":["x"]})"), 400, "invalid_url",
                path + ".video[0]");
  const auto png = tests::fixture_data_url("000.png");
  check_refused(
      fmt::format(R"({{"messages":[{{"role":"system","content":[{}]}}]}})", image_part(png)), 400,
      "unsupported_content", path);
  for (const auto* rate : {"0", "-1", "1e9", "\"2\""})
    check_refused(
        user_parts(fmt::format(R"({{"type":"video","video":["{}"],"sample_fps":{}}})", png, rate)),
        400, "invalid_value", path + ".sample_fps");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(request_media)

BOOST_AUTO_TEST_CASE(pictures_and_clips_are_placed_and_charged) {
  const auto png = tests::fixture_data_url("000.png");
  const auto request = accepted(user_parts(
      image_part(png) + R"(,{"type":"text","text":"and"},)" +
      fmt::format(R"({{"type":"video","video":["{0}","{0}","{0}"],"sample_fps":4}},)", png) +
      fmt::format(R"({{"type":"image_url","image_url":"{}"}})",
                  tests::fixture_data_url("001.jpg"))));
  BOOST_REQUIRE(request.media.size() == 3u);
  BOOST_TEST(!request.media[0].video);
  BOOST_TEST(request.media[1].video);
  BOOST_TEST(request.media[1].frames.size() == 3u);
  BOOST_TEST(request.media[1].grid.t == 2);
  BOOST_TEST(request.media[1].sample_fps == 4);
  const auto& content = request.chat.messages.at(0).content;
  BOOST_TEST(std::get<model::media_part>(content.at(0)).media_index == 0);
  BOOST_TEST(std::get<model::text_part>(content.at(1)).text == "and");
  BOOST_TEST(std::get<model::media_part>(content.at(2)).video);
  BOOST_TEST(std::get<model::media_part>(content.at(3)).media_index == 2);
}

BOOST_AUTO_TEST_CASE(counts_and_pixels_have_limits) {
  const auto png = image_part(tests::fixture_data_url("000.png"));
  accepted(user_parts(png + "," + png + "," + png));
  check_refused(user_parts(png + "," + png + "," + png + "," + png), 400, "too_many_images",
                "messages[0].content[3]");
  const auto url = tests::fixture_data_url("000.png");
  check_refused(user_parts(fmt::format(
                    R"({{"type":"video","video":["{0}","{0}","{0}","{0}","{0}","{0}"]}})", url)),
                400, "invalid_value", "messages[0].content[0].video");
  auto small = limits();
  small.image_pixels_max = 100;
  BOOST_TEST(refused(user_parts(png), small).status == 413);
  small = limits();
  small.request_pixels_max = 20'000;
  BOOST_TEST(refused(user_parts(png + "," + png), small).code == "image_too_large");
}

BOOST_AUTO_TEST_CASE(a_header_that_promises_too_much_is_refused_undecoded) {
  // A PNG head of 30000 x 30000 pixels.
  const std::string bomb = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAdTAAAHUwCAIAAAAAAAAA";
  const auto error = refused(user_parts(image_part(bomb)));
  BOOST_TEST_INFO(error.message);
  BOOST_TEST((error.status == 413 || error.status == 400));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(request_values)

BOOST_AUTO_TEST_CASE(absent_sampling_fields_come_from_the_model) {
  auto bounds = limits();
  BOOST_TEST(accepted(body_with(""), bounds).options.sampling.temperature ==
             0);  // do_sample is off
  bounds.generation.do_sample = true;
  BOOST_TEST(accepted(body_with(""), bounds).options.sampling.temperature == 1);
  bounds.generation.temperature = 0.7F;
  bounds.generation.top_k = 20;
  bounds.generation.top_p = 0.8F;
  bounds.generation.repetition_penalty = 1.1F;
  const auto defaults = accepted(body_with(""), bounds).options.sampling;
  BOOST_TEST(defaults.temperature == 0.7F);
  BOOST_TEST(defaults.top_k == 20);
  BOOST_TEST(defaults.top_p == 0.8F);
  BOOST_TEST(defaults.repetition_penalty == 1.1F);
  const auto asked =
      accepted(body_with(R"("temperature":0.5,"top_k":-1,"top_p":1,"repetition_penalty":1.0)"),
               bounds)
          .options.sampling;
  BOOST_TEST(asked.temperature == 0.5F);
  BOOST_TEST(asked.top_k == 0);
  BOOST_TEST(asked.top_p == 1);
  BOOST_TEST(asked.repetition_penalty == 1);
}

BOOST_AUTO_TEST_CASE(all_fields_arrive) {
  const auto request = accepted(body_with(
      R"("model":"org/alias","n":2,"stop":["a","b"],"seed":-1,"logprobs":true,"top_logprobs":5,"min_p":0.1,)"
      R"("max_tokens":9,"max_completion_tokens":7,"min_tokens":3,"ignore_eos":true,"stream":true,)"
      R"("presence_penalty":1,)"
      R"("frequency_penalty":-1,"stop_token_ids":[3],"logit_bias":{"4":-100},"return_token_ids":true,)"
      R"("stream_options":{"include_usage":true,"continuous_usage_stats":true},)"
      R"("include_stop_str_in_output":true,)"
      R"("skip_special_tokens":false,"tool_choice":"auto",)"
      R"("tools":[{"type":"function","function":{"name":"f","parameters":{}}}])"));
  const auto& options = request.options;
  BOOST_TEST(options.model == "org/alias");
  BOOST_TEST(options.num_choices == 2);
  BOOST_TEST(options.stop.size() == 2u);
  BOOST_TEST(options.seed.value() == ~uint64_t{0});
  BOOST_TEST(options.sampling.num_logprobs == 5);
  BOOST_TEST(options.sampling.min_p == 0.1F);
  BOOST_TEST(options.sampling.max_tokens == 7);
  BOOST_TEST(options.sampling.min_tokens == 3);
  BOOST_TEST(options.sampling.ignore_eos);
  BOOST_TEST(options.sampling.presence_penalty == 1);
  BOOST_TEST(options.sampling.frequency_penalty == -1);
  BOOST_TEST(options.sampling.stop_token_ids.at(0) == 3);
  BOOST_TEST(options.sampling.logit_bias.at(0).first == 4);
  BOOST_TEST(options.sampling.logit_bias.at(0).second == -100);
  BOOST_TEST(options.stream);
  BOOST_TEST(options.include_usage);
  BOOST_TEST(options.continuous_usage);
  BOOST_TEST(options.return_token_ids);
  BOOST_TEST(options.include_stop_text);
  BOOST_TEST(!options.skip_special_tokens);
  BOOST_TEST(request.parse_tool_calls);
  BOOST_TEST(request.chat.tools.at(0) ==
             R"({"type": "function", "function": {"name": "f", "parameters": {}}})");
  BOOST_TEST(options.warnings.empty());
}

BOOST_AUTO_TEST_CASE(conversations_keep_roles_calls_and_reasoning) {
  const auto chat =
      accepted(R"({"messages":[{"role":"developer","content":"d"},)"
               R"({"role":"user","content":["a",{"type":"text","text":"b"}]},)"
               R"({"role":"assistant","content":null,"reasoning":"r","tool_calls":[)"
               R"({"id":"1","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},)"
               R"({"id":"2","type":"function","function":{"name":"g","arguments":{"y":[1,2]}}}]},)"
               R"({"role":"tool","tool_call_id":"1","content":"18"}]})")
          .chat;
  BOOST_TEST((chat.messages.at(0).role == model::chat_role::system));
  BOOST_TEST(chat.messages.at(1).content.size() == 2u);
  BOOST_TEST(chat.messages.at(2).content.empty());
  BOOST_TEST(chat.messages.at(2).reasoning_content.value() == "r");
  BOOST_TEST(chat.messages.at(2).tool_calls.at(0).arguments == "{\"x\":1}");
  BOOST_TEST(chat.messages.at(2).tool_calls.at(1).arguments == R"({"y": [1, 2]})");
  BOOST_TEST((chat.messages.at(3).role == model::chat_role::tool));
}

BOOST_AUTO_TEST_CASE(unknown_fields_are_named_with_their_neighbour) {
  const auto warnings = accepted(body_with(R"("temprature":0.5,"zzzzzzzz":1)")).options.warnings;
  BOOST_REQUIRE(warnings.size() == 2u);
  BOOST_TEST(warnings[0] ==
             "unknown field \"temprature\" is ignored, did you mean \"temperature\"?");
  BOOST_TEST(warnings[1] == "unknown field \"zzzzzzzz\" is ignored");
}

BOOST_AUTO_TEST_CASE(answers_that_could_fill_the_memory_are_refused) {
  auto bounds = limits();
  bounds.answer_bytes_max = 1 << 20;
  accepted(body_with(R"("n":8,"max_tokens":100,"logprobs":true,"top_logprobs":5)"), bounds);
  BOOST_TEST(
      refused(body_with(R"("n":8,"max_tokens":4096,"logprobs":true,"top_logprobs":20)"), bounds)
          .param == "max_tokens");
  accepted(body_with(R"("n":8,"max_tokens":4096,"logprobs":true,"top_logprobs":20,"stream":true)"),
           bounds);
}

BOOST_AUTO_TEST_CASE(text_prompts_have_four_forms) {
  const auto prompts = [](const std::string& prompt) {
    auto parsed = parse_text_request(R"({"prompt":)" + prompt + "}", limits());
    return std::holds_alternative<text_request>(parsed) ? std::get<text_request>(parsed).prompts
                                                        : std::vector<text_prompt>{};
  };
  BOOST_TEST(std::get<std::string>(prompts("\"a\"").at(0)) == "a");
  BOOST_TEST(prompts(R"(["a","b"])").size() == 2u);
  BOOST_TEST(std::get<std::vector<int32_t>>(prompts("[1,2]").at(0)).size() == 2u);
  BOOST_TEST(prompts("[[1],[2,3]]").size() == 2u);
  for (const auto* bad : {"\"\"", "[]", "[[]]", "[256]", "[-1]", "[1,\"a\"]", "[\"a\",1]", "7",
                          "null", "{}", R"(["1","2","3","4","5","6","7","8","9"])", "[1.5]"})
    BOOST_TEST(prompts(bad).empty());
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::http
