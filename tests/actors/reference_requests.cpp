#include "reference_requests.hpp"

#include "actors/system.hpp"
#include "model/vision/media.hpp"

#include <string>
#include <string_view>
#include <utility>

namespace troupe::testing {
namespace {

model::encoded_image read_picture(const std::string& path) {
  return std::make_shared<const std::string>(read_file(fixtures() / path));
}

model::chat_role role_of(const std::string& name) {
  if (name == "system") return model::chat_role::system;
  return name == "assistant" ? model::chat_role::assistant : model::chat_role::user;
}

/// Cuts a text at its <image> and <video> marks; media are numbered from `next_media` on.
std::vector<model::content_part> parts_of(std::string_view text, int32_t& next_media) {
  constexpr std::string_view image = "<image>";
  constexpr std::string_view video = "<video>";
  std::vector<model::content_part> parts;
  while (!text.empty()) {
    const size_t mark = std::min(text.find(image), text.find(video));
    if (mark > 0) parts.emplace_back(model::text_part{std::string(text.substr(0, mark))});
    if (mark == std::string_view::npos) break;
    const bool is_video = text.substr(mark).starts_with(video);
    parts.emplace_back(model::media_part{next_media++, is_video});
    text.remove_prefix(mark + image.size());  // both marks have one length
  }
  return parts;
}

}  // namespace

std::shared_ptr<actors::completion_request> request_of(const reference_case& example,
                                                       const config::preprocessor_config& config) {
  auto request = std::make_shared<actors::completion_request>();
  request->id = actors::next_request_id();
  int32_t next_media = 0;
  for (const auto& [role, text] : example.messages)
    request->chat.messages.push_back({role_of(role), parts_of(text, next_media), {}, {}});
  for (const auto& image : example.images)
    request->media.push_back(model::make_picture(read_picture(image), config));
  if (example.video) {
    std::vector<model::encoded_image> frames;
    for (const auto& frame : example.video->frames) frames.push_back(read_picture(frame));
    request->media.push_back(model::make_clip(std::move(frames), example.video->fps, config));
  }
  request->sampling.temperature = 0;
  request->sampling.max_tokens = static_cast<int32_t>(example.generated_ids.size());
  return request;
}

}  // namespace troupe::testing
