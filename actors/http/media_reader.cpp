#include "actors/http/media_reader.hpp"

#include "actors/http/data_url.hpp"
#include "actors/http/object_reader.hpp"
#include "model/vision/image.hpp"

#include <fmt/format.h>

#include <array>
#include <memory>
#include <utility>

namespace troupe::http {

namespace {

using config::json_value;

[[noreturn]] void fail_image(const model::image_error& error, const std::string& path) {
  using reason = model::image_error::reason;
  const auto message = fmt::format("{}: {}", path, error.what());
  switch (error.why()) {
    case reason::unsupported_format:
      fail_at(path, message, "unsupported_image_format", 415);
    case reason::too_large:
      fail_at(path, message, "image_too_large", 413);
    case reason::corrupt:
    case reason::bad_shape:
      break;
  }
  fail_at(path, message, "invalid_image");
}

/// Runs `make`, whose faults concern the media at `path`.
template <class Make>
auto checked(const std::string& path, Make make) {
  try {
    return make();
  } catch (const model::image_error& error) {
    fail_image(error, path);
  }
}

/// The encoded picture behind a URL. Its size is checked here, one by one: sums of sizes that a
/// header merely claims could overflow.
model::encoded_image read_picture(std::string_view url, const std::string& path,
                                  const api_limits& limits) {
  auto parsed = parse_data_url(url, limits.image_bytes_max);
  if (auto* error = std::get_if<api_error>(&parsed)) {
    error->param = path;
    throw request_fault(std::move(*error));
  }
  auto bytes = std::make_shared<const std::string>(std::move(std::get<std::string>(parsed)));
  const auto header = checked(path, [&] { return model::read_image_header(*bytes); });
  if (header.pixels() > limits.image_pixels_max)
    fail_at(path,
            fmt::format("{} has {} x {} pixels, at most {} are allowed", path, header.width,
                        header.height, limits.image_pixels_max),
            "image_too_large", 413);
  return bytes;
}

/// The URL of an image part: `{"url": ...}`, or a bare string as many clients send it.
std::pair<std::string_view, std::string> image_url(const json_value& part,
                                                   const std::string& path) {
  object_reader reader(part, path);
  const auto field = reader.value("image_url");
  if (!field) fail_at(path + ".image_url", path + ".image_url is missing");
  if (const auto bare = field->string()) return {*bare, path + ".image_url"};
  object_reader inner(*field, path + ".image_url");
  if (const auto detail = inner.string("detail");
      detail && *detail != "auto" && *detail != "low" && *detail != "high")
    inner.fail("detail", fmt::format("{} must be auto, low or high, found {}",
                                     inner.path_of("detail"), excerpt(*detail)));
  for (auto* object : {&reader, &inner})
    object->refuse({"min_pixels", "max_pixels"}, "unsupported_parameter");
  return {inner.required_string("url"), inner.path_of("url")};
}

/// Part types that name media this server does not take, and what to send instead.
constexpr std::array<std::pair<std::string_view, std::string_view>, 7> refused_types{{
    {"video_url", "send the frames as {\"type\":\"video\",\"video\":[data URLs]}"},
    {"input_video", "send the frames as {\"type\":\"video\",\"video\":[data URLs]}"},
    {"input_audio", "this model takes text, pictures and clips"},
    {"audio_url", "this model takes text, pictures and clips"},
    {"file", "this server takes text, pictures and clips"},
    {"image_embeds", "this server takes pictures, not tensors"},
    {"prompt_embeds", "this server takes text, not tensors"},
}};

}  // namespace

std::optional<model::media_part> media_reader::read_part(const json_value& part,
                                                         std::string_view type,
                                                         const std::string& path) {
  if (type == "image_url") return add_image(part, path);
  if (type == "video") return add_video(part, path);
  for (const auto& [refused, advice] : refused_types)
    if (type == refused)
      fail_at(path + ".type",
              fmt::format("content parts of type \"{}\" are not supported: {}", refused, advice),
              "unsupported_content");
  return std::nullopt;
}

model::media_part media_reader::add_image(const json_value& part, const std::string& path) {
  if (++num_images_ > limits_.num_images_max)
    fail_at(path, fmt::format("the request has more than {} pictures", limits_.num_images_max),
            "too_many_images");
  const auto [url, url_path] = image_url(part, path);
  const auto bytes = read_picture(url, url_path, limits_);
  return add(checked(url_path, [&] { return model::make_picture(bytes, limits_.preprocessor); }),
             url_path);
}

model::media_part media_reader::add_video(const json_value& part, const std::string& path) {
  object_reader reader(part, path);
  reader.refuse({"min_pixels", "max_pixels", "total_pixels"}, "unsupported_parameter");
  const auto urls =
      reader.array("video", static_cast<size_t>(limits_.num_frames_max - num_frames_));
  const auto frames_path = reader.path_of("video");
  if (!urls || urls->empty())
    fail_at(frames_path, frames_path + " must be an array of at least one data: URL");
  num_frames_ += static_cast<int32_t>(urls->size());
  const auto sample_fps = reader.real("sample_fps", {0.01, 1000}).value_or(2);
  std::vector<model::encoded_image> frames;
  for (size_t i = 0; i < urls->size(); ++i) {
    const auto frame_path = fmt::format("{}[{}]", frames_path, i);
    const auto url = checked_string((*urls)[i], frame_path);
    frames.push_back(read_picture(url, frame_path, limits_));
  }
  return add(
      checked(frames_path,
              [&] { return model::make_clip(frames, double{sample_fps}, limits_.preprocessor); }),
      frames_path);
}

model::media_part media_reader::add(model::media_item item, const std::string& path) {
  pixels_ += item.pixels;
  if (pixels_ > limits_.request_pixels_max)
    fail_at(path,
            fmt::format("{} brings the request to {} pixels, at most {} are allowed", path, pixels_,
                        limits_.request_pixels_max),
            "image_too_large", 413);
  const model::media_part part{static_cast<int32_t>(items_.size()), item.video};
  items_.push_back(std::move(item));
  return part;
}

}  // namespace troupe::http
