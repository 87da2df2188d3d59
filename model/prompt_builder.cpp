#include "model/prompt_builder.hpp"

#include "config/error.hpp"
#include "model/vision/image_processor.hpp"

#include <fmt/format.h>

#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace troupe::model {
namespace {

struct required_token {
  std::string_view text;
  std::optional<int32_t> id;  // as config.json says, if it does
};

/// Without these a prompt would spell its own structure in plain text.
void check_tokens(const tokenizer& tokenizer, const config::model_config& config) {
  const required_token required[] = {
      {"<|im_start|>", std::nullopt},
      {"<|im_end|>", std::nullopt},
      {"<|vision_start|>", config.vision_start_token_id},
      {"<|vision_end|>", config.vision_end_token_id},
      {"<|image_pad|>", config.image_token_id},
      {"<|video_pad|>", config.video_token_id},
  };
  std::vector<std::string> faults;
  for (const auto& [text, id] : required) {
    const auto found = tokenizer.added_token(text);
    if (!found)
      faults.push_back(fmt::format("tokenizer.json: has no added token {}", text));
    else if (id && *found != *id)
      faults.push_back(fmt::format("tokenizer.json: id of {} is {}, expected {} as in config.json",
                                   text, *found, *id));
  }
  if (!faults.empty()) throw config::error(std::move(faults));
}

/// Token indices are 32 bits wide.
void expect_countable(int64_t num_tokens) {
  constexpr int64_t tokens_max = std::numeric_limits<int32_t>::max();
  if (num_tokens > tokens_max)
    throw std::length_error(
        fmt::format("prompt has {} tokens, expected at most {}", num_tokens, tokens_max));
}

/// Writes the tokens of rendered pieces one after the other.
///
/// Template and user text that touch are encoded as one run, as the reference does with the
/// rendered string: the tokens of "user\n" and of a message that starts with a newline are not
/// those of the two alone. Added tokens, which end a run, are looked for in the template's text
/// only.
class prompt_writer {
 public:
  prompt_writer(const std::vector<media_item>& media, const tokenizer& tokenizer,
                const config::checkpoint_config& config)
      : media_(media), tokenizer_(tokenizer), config_(config) {}

  void operator()(const template_text& piece) {
    const std::string_view text = piece.text;
    size_t done = 0;
    while (const auto match = tokenizer_.added().find_in(text, done)) {
      run_ += text.substr(done, match->begin - done);
      token(match->id);
      done = match->end;
    }
    run_ += text.substr(done);
  }

  void operator()(const user_text& piece) { run_ += piece.text; }

  void operator()(const media_place& place) {
    const media_item& item = item_at(place);
    if (place.video) {
      clip(place.media_index, item);
    } else {
      visual_run(place.media_index, item.grid, 0, config_.model.image_token_id);
    }
  }

  /// Tokens of the items at `pieces`' media places. Throws as operator() would.
  int64_t count_visual_tokens(const std::vector<rendered_piece>& pieces) const {
    int64_t count = 0;
    for (const auto& piece : pieces) {
      const auto* place = std::get_if<media_place>(&piece);
      if (place == nullptr) continue;
      const patch_grid& grid = item_at(*place).grid;
      count += int64_t{grid.t} * grid.height * grid.width / config_.model.vision.merge_unit();
    }
    return count;
  }

  plan::prompt finish() {
    end_run();
    plan::assign_positions(prompt_);
    return std::move(prompt_);
  }

 private:
  const media_item& item_at(const media_place& place) const {
    const auto index = static_cast<size_t>(place.media_index);
    if (place.media_index < 0 || index >= media_.size())
      throw std::invalid_argument(fmt::format("media index is {}, expected 0 to {}",
                                              place.media_index,
                                              static_cast<int64_t>(media_.size()) - 1));
    if (media_[index].video != place.video)
      throw std::invalid_argument(fmt::format("media item {} is a {}, expected a {}", index,
                                              place.video ? "picture" : "clip",
                                              place.video ? "clip" : "picture"));
    return media_[index];
  }

  /// Each temporal group is a run of its own behind its time.
  void clip(int32_t media_index, const media_item& item) {
    const auto times = group_timestamps(static_cast<int32_t>(item.frames.size()), item.sample_fps,
                                        config_.preprocessor.temporal_patch_size);
    if (times.size() != static_cast<size_t>(item.grid.t))
      throw std::invalid_argument(fmt::format("clip {} has {} frames for {} temporal groups",
                                              media_index, item.frames.size(), item.grid.t));
    for (size_t group = 0; group < times.size(); ++group) {
      run_ += fmt::format("<{:.1f} seconds>", times[group]);
      visual_run(media_index, item.grid, static_cast<int32_t>(group), config_.model.video_token_id);
    }
  }

  void visual_run(int32_t media_index, const patch_grid& grid, int32_t group, int32_t pad_id) {
    const int32_t merge_size = config_.model.vision.spatial_merge_size;
    plan::visual_span span;
    span.media_index = media_index;
    span.grid_height = grid.height / merge_size;
    span.grid_width = grid.width / merge_size;
    span.num_tokens = span.grid_height * span.grid_width;
    span.first_row = group * span.num_tokens;
    token(config_.model.vision_start_token_id);
    span.first_token = static_cast<int32_t>(prompt_.token_ids.size());
    prompt_.token_ids.resize(prompt_.token_ids.size() + static_cast<size_t>(span.num_tokens),
                             pad_id);
    prompt_.spans.push_back(span);
    token(config_.model.vision_end_token_id);
  }

  void token(int32_t id) {
    end_run();
    prompt_.token_ids.push_back(id);
  }

  void end_run() {
    tokenizer_.encode_text(run_, prompt_.token_ids);
    expect_countable(static_cast<int64_t>(prompt_.token_ids.size()));
    run_.clear();
  }

  const std::vector<media_item>& media_;
  const tokenizer& tokenizer_;
  const config::checkpoint_config& config_;
  plan::prompt prompt_;
  std::string run_;  // text whose tokens are not written yet
};

}  // namespace

plan::prompt build_prompt(const chat_prompt& chat, template_kind kind,
                          const std::vector<media_item>& media, const tokenizer& tokenizer,
                          const config::checkpoint_config& config) {
  check_tokens(tokenizer, config.model);
  prompt_writer writer(media, tokenizer, config);
  const auto pieces = render_chat(chat, kind);
  expect_countable(writer.count_visual_tokens(pieces));  // before any memory is taken for them
  for (const auto& piece : pieces) std::visit(writer, piece);
  return writer.finish();
}

}  // namespace troupe::model
