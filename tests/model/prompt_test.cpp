#include "model/prompt_builder.hpp"

#include "config/error.hpp"
#include "support/reference_set.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace troupe;
using namespace troupe::model;

namespace {

/// A checkpoint folder without its weights.
struct checkpoint {
  explicit checkpoint(const std::string& name)
      : config(config::read_checkpoint_config(testing::fixtures() / name)),
        tokenizer(model::tokenizer::load(config.folder / "tokenizer.json")) {}

  plan::prompt build(const chat_prompt& chat, const std::vector<media_item>& media) const {
    return build_prompt(chat, template_kind::instruct, media, tokenizer, config);
  }

  config::checkpoint_config config;
  model::tokenizer tokenizer;
};

media_item picture(int32_t height, int32_t width) {
  media_item item;
  item.frames.resize(1);
  item.grid = {1, height, width};
  return item;
}

media_item clip(int32_t num_frames, double sample_fps, patch_grid grid) {
  media_item item;
  item.video = true;
  item.sample_fps = sample_fps;
  item.frames.resize(static_cast<size_t>(num_frames));
  item.grid = grid;
  return item;
}

/// The media of a case, their grids as the reference computed them.
std::vector<media_item> media_of(const testing::reference_case& example) {
  std::vector<media_item> media;
  for (const auto& [t, height, width] : example.grid_thw) {
    if (example.video) {
      media.push_back(clip(static_cast<int32_t>(example.video->frames.size()), example.video->fps,
                           {t, height, width}));
    } else {
      media.push_back(picture(height, width));
    }
  }
  return media;
}

chat_role role_of(const std::string& name) {
  if (name == "system") return chat_role::system;
  return name == "user" ? chat_role::user : chat_role::assistant;
}

/// A message with <image> and <video> for its media.
std::vector<content_part> parts_of(std::string_view text, int32_t& next_media) {
  constexpr std::string_view marks[] = {"<image>", "<video>"};
  std::vector<content_part> parts;
  while (!text.empty()) {
    size_t at = text.size();
    bool video = false;
    for (const auto mark : marks) {
      if (text.find(mark) >= at) continue;
      at = text.find(mark);
      video = mark == marks[1];
    }
    if (at > 0) parts.emplace_back(text_part{std::string(text.substr(0, at))});
    if (at == text.size()) break;
    parts.emplace_back(media_part{next_media++, video});
    text.remove_prefix(at + marks[0].size());
  }
  return parts;
}

chat_prompt chat_of(const testing::reference_case& example) {
  chat_prompt chat;
  int32_t next_media = 0;
  for (const auto& [role, text] : example.messages) {
    chat_message message;
    message.role = role_of(role);
    message.content = parts_of(text, next_media);
    chat.messages.push_back(std::move(message));
  }
  return chat;
}

chat_prompt one_user_message(std::vector<content_part> content) {
  chat_prompt chat;
  chat.messages.push_back({chat_role::user, std::move(content), {}, {}});
  return chat;
}

const checkpoint& tiny() {
  static const checkpoint loaded("tiny");
  return loaded;
}

template <class Check>
void for_each_case(Check check) {
  for (const std::string name : {"tiny", "dense72", "moe"}) {
    const checkpoint model(name);
    const testing::reference_set reference("ref-" + name);
    BOOST_TEST(reference.cases.size() > 0u);
    for (const auto& example : reference.cases) BOOST_TEST_CONTEXT(name << ' ' << example.name) {
        check(model, example);
      }
  }
}

/// Seeded conversations of random bytes, about one picture and one clip.
class chat_maker {
 public:
  explicit chat_maker(uint32_t seed) : random_(seed) {}

  static std::vector<media_item> media() { return {picture(4, 2), clip(3, 2.0, {2, 2, 2})}; }

  chat_prompt chat() {
    chat_prompt chat;
    for (auto turns = below(6); turns > 0; --turns) chat.messages.push_back(message());
    if (below(3) == 0) chat.tools.push_back(bytes());
    chat.add_vision_id = below(2) == 0;
    return chat;
  }

 private:
  uint64_t below(uint64_t bound) { return random_() % bound; }

  std::string bytes() {
    std::string out;
    for (auto left = below(30); left > 0; --left) out.push_back(static_cast<char>(below(256)));
    return out;
  }

  chat_message message() {
    chat_message message;
    message.role = static_cast<chat_role>(below(4));
    for (auto parts = below(4); parts > 0; --parts) message.content.push_back(part());
    if (below(2) == 0) message.tool_calls.push_back({bytes(), bytes()});
    if (below(2) == 0) message.reasoning_content = bytes();
    return message;
  }

  content_part part() {
    if (below(2) == 0) return text_part{bytes()};
    return below(2) == 0 ? media_part{0, false} : media_part{1, true};
  }

  std::mt19937 random_;
};

int64_t count(const plan::prompt& prompt, int32_t id) {
  return std::count(prompt.token_ids.begin(), prompt.token_ids.end(), id);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(prompt_reference)

BOOST_AUTO_TEST_CASE(tokens_and_positions_equal) {
  for_each_case([](const checkpoint& model, const testing::reference_case& example) {
    const auto prompt = model.build(chat_of(example), media_of(example));
    BOOST_TEST(prompt.token_ids == example.prompt_ids, boost::test_tools::per_element());
    BOOST_TEST(prompt.spans.empty() == example.position_ids.empty());
    for (size_t axis = 0; axis < example.position_ids.size(); ++axis)
      BOOST_TEST(prompt.positions[axis] == example.position_ids[axis],
                 boost::test_tools::per_element());
    if (example.position_ids.empty()) BOOST_TEST(prompt.rope_delta == 0);
  });
}

BOOST_AUTO_TEST_CASE(generated_tokens_decode_to_the_text) {
  for_each_case([](const checkpoint& model, const testing::reference_case& example) {
    BOOST_TEST(model.tokenizer.decode(example.generated_ids, true) == example.generated_text);
  });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(prompt_builder)

BOOST_AUTO_TEST_CASE(a_picture_is_one_span_between_its_marks) {
  // 256 x 256 pixels and "Hi": the positions of the worked example in the model's documentation.
  const auto prompt =
      tiny().build(one_user_message({media_part{0, false}, text_part{"."}}), {picture(16, 16)});
  BOOST_REQUIRE_EQUAL(prompt.spans.size(), 1u);
  const auto& span = prompt.spans[0];
  BOOST_TEST(span.first_token == 4);
  BOOST_TEST(span.num_tokens == 64);
  BOOST_TEST(span.first_row == 0);
  BOOST_TEST(span.grid_height == 8);
  BOOST_TEST(span.grid_width == 8);
  BOOST_TEST(prompt.token_ids.size() == 75u);
  BOOST_TEST(prompt.token_ids[3] == tiny().config.model.vision_start_token_id);
  BOOST_TEST(prompt.token_ids[68] == tiny().config.model.vision_end_token_id);
  BOOST_TEST(prompt.rope_delta == 19 - 75);
  BOOST_TEST(prompt.positions[0][4] == 4);
  BOOST_TEST(prompt.positions[0][67] == 4);
  BOOST_TEST(prompt.positions[1][67] == 11);
  BOOST_TEST(prompt.positions[2][67] == 11);
  for (const auto& axis : prompt.positions) {
    BOOST_TEST(axis[68] == 12);
    BOOST_TEST(axis.back() == 18);
  }
}

BOOST_AUTO_TEST_CASE(a_clip_is_a_span_per_group_behind_its_time) {
  const auto prompt = tiny().build(one_user_message({text_part{"x"}, media_part{0, true}}),
                                   {clip(5, 2.0, {3, 4, 2})});
  BOOST_REQUIRE_EQUAL(prompt.spans.size(), 3u);
  for (int32_t group = 0; group < 3; ++group) {
    const auto& span = prompt.spans[static_cast<size_t>(group)];
    BOOST_TEST(span.num_tokens == 2);
    BOOST_TEST(span.first_row == 2 * group);
    BOOST_TEST(span.media_index == 0);
  }
  const std::string pads = "<|vision_start|><|video_pad|><|video_pad|><|vision_end|>";
  BOOST_TEST(tiny().tokenizer.decode(prompt.token_ids, false) ==
             "<|im_start|>user\nx<0.2 seconds>" + pads + "<1.2 seconds>" + pads + "<2.0 seconds>" +
                 pads + "<|im_end|>\n<|im_start|>assistant\n");
}

BOOST_AUTO_TEST_CASE(times_are_printed_as_printf_does) {
  // 0.25 and 0.75 lie halfway: the even digit is taken. 1/3 * 0.5 = 0.1666...
  const auto first_time = [](double sample_fps) {
    const auto prompt =
        tiny().build(one_user_message({media_part{0, true}}), {clip(2, sample_fps, {1, 2, 2})});
    const std::string text = tiny().tokenizer.decode(prompt.token_ids, false);
    const size_t open = text.find('<', 1);
    return text.substr(text.find("user\n") + 5,
                       text.find(" seconds", open) - text.find("user\n") - 5);
  };
  BOOST_TEST(first_time(2.0) == "<0.2");
  BOOST_TEST(first_time(2.0 / 3) == "<0.8");
  BOOST_TEST(first_time(3.0) == "<0.2");
  BOOST_TEST(first_time(0.001) == "<500.0");
}

BOOST_AUTO_TEST_CASE(text_runs_through_from_template_to_user) {
  // The newline of "user\n" and the user's own are one piece of the split.
  const auto prompt = tiny().build(one_user_message({text_part{"\n\nx"}}), {});
  std::vector<int32_t> expected;
  tiny().tokenizer.encode_with_special("<|im_start|>user\n\n\nx<|im_end|>\n<|im_start|>assistant\n",
                                       expected);
  BOOST_TEST(prompt.token_ids == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(user_text_adds_no_special_token_and_moves_no_span) {
  std::string forged;
  for (const auto& token : tiny().tokenizer.added().all()) forged += token.text;
  const std::vector<media_item> media = {picture(4, 4)};
  const auto clean = tiny().build(one_user_message({text_part{"x"}, media_part{0, false}}), media);
  const auto attacked =
      tiny().build(one_user_message({text_part{forged}, media_part{0, false}}), media);
  for (const auto& token : tiny().tokenizer.added().all())
    BOOST_TEST(count(attacked, token.id) == count(clean, token.id));
  BOOST_REQUIRE_EQUAL(attacked.spans.size(), 1u);
  const auto first = static_cast<size_t>(attacked.spans[0].first_token);
  BOOST_TEST(attacked.token_ids[first] == tiny().config.model.image_token_id);
  BOOST_TEST(attacked.token_ids[first - 1] == tiny().config.model.vision_start_token_id);
}

BOOST_AUTO_TEST_CASE(any_bytes_in_any_turn_make_a_prompt) {
  chat_maker maker(1);
  for (int32_t round = 0; round < 1000; ++round) {
    const auto kind = round % 2 == 0 ? template_kind::instruct : template_kind::thinking;
    const auto prompt =
        build_prompt(maker.chat(), kind, maker.media(), tiny().tokenizer, tiny().config);
    int64_t visual_tokens = 0;
    for (const auto& span : prompt.spans) visual_tokens += span.num_tokens;
    BOOST_TEST(visual_tokens == count(prompt, tiny().config.model.image_token_id) +
                                    count(prompt, tiny().config.model.video_token_id));
    BOOST_TEST(prompt.positions[2].size() == prompt.token_ids.size());
  }
}

BOOST_AUTO_TEST_CASE(thousands_of_pictures_bind_by_place) {
  std::vector<content_part> content;
  std::vector<media_item> media;
  for (int32_t i = 0; i < 5000; ++i) {
    content.emplace_back(media_part{4999 - i, false});
    media.push_back(picture(2, 2 + 2 * (i % 3)));
  }
  const auto prompt = tiny().build(one_user_message(content), media);
  BOOST_REQUIRE_EQUAL(prompt.spans.size(), 5000u);
  for (size_t i = 0; i < 5000; ++i) {
    BOOST_TEST(prompt.spans[i].media_index == 4999 - static_cast<int32_t>(i));
    BOOST_TEST(prompt.spans[i].num_tokens == 1 + (4999 - static_cast<int32_t>(i)) % 3);
  }
}

BOOST_AUTO_TEST_CASE(media_that_are_not_there_are_refused) {
  const auto build = [](media_part part, std::vector<media_item> media) {
    return tiny().build(one_user_message({part}), media);
  };
  BOOST_CHECK_THROW(build({0, false}, {}), std::invalid_argument);
  BOOST_CHECK_THROW(build({1, false}, {picture(2, 2)}), std::invalid_argument);
  BOOST_CHECK_THROW(build({-1, false}, {picture(2, 2)}), std::invalid_argument);
  BOOST_CHECK_THROW(build({0, true}, {picture(2, 2)}), std::invalid_argument);
  BOOST_CHECK_THROW(build({0, false}, {clip(2, 2, {1, 2, 2})}), std::invalid_argument);
  BOOST_CHECK_THROW(build({0, true}, {clip(5, 2, {2, 2, 2})}), std::invalid_argument);
}

BOOST_AUTO_TEST_CASE(a_prompt_beyond_32_bits_is_refused_before_its_memory_is_taken) {
  const std::vector<content_part> content(3, media_part{0, false});
  BOOST_CHECK_THROW(tiny().build(one_user_message(content), {picture(92680, 92680)}),
                    std::length_error);
}

BOOST_AUTO_TEST_CASE(a_tokenizer_of_another_model_is_refused) {
  auto config = tiny().config;
  config.model.image_token_id += 1;
  BOOST_CHECK_EXCEPTION(
      build_prompt({}, template_kind::instruct, {}, tiny().tokenizer, config), config::error,
      [](const config::error& error) {
        return std::string(error.what()).find("id of <|image_pad|> is 560, expected 561") !=
               std::string::npos;
      });
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(positions)

BOOST_AUTO_TEST_CASE(follow_the_published_example) {
  // 4 text, a picture of 2 x 3 merged patches, 5 text.
  plan::prompt prompt;
  prompt.token_ids.resize(15);
  prompt.spans = {{4, 6, 0, 0, 2, 3, {}}};
  plan::assign_positions(prompt);
  const std::vector<int32_t> t = {0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 7, 8, 9, 10, 11};
  const std::vector<int32_t> h = {0, 1, 2, 3, 4, 4, 4, 5, 5, 5, 7, 8, 9, 10, 11};
  const std::vector<int32_t> w = {0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9, 10, 11};
  BOOST_TEST(prompt.positions[0] == t, boost::test_tools::per_element());
  BOOST_TEST(prompt.positions[1] == h, boost::test_tools::per_element());
  BOOST_TEST(prompt.positions[2] == w, boost::test_tools::per_element());
  BOOST_TEST(prompt.rope_delta == -3);
}

BOOST_AUTO_TEST_CASE(of_text_and_of_nothing_are_plain) {
  plan::prompt prompt;
  plan::assign_positions(prompt);
  BOOST_TEST(prompt.positions[0].empty());
  BOOST_TEST(prompt.rope_delta == 0);
  prompt.token_ids.resize(3);
  plan::assign_positions(prompt);
  plan::assign_positions(prompt);  // starts anew
  for (const auto& axis : prompt.positions)
    BOOST_TEST(axis == (std::vector<int32_t>{0, 1, 2}), boost::test_tools::per_element());
  BOOST_TEST(prompt.rope_delta == 0);
}

BOOST_AUTO_TEST_SUITE_END()
