#include "actors/http/chat_request.hpp"
#include "actors/http/text_request.hpp"
#include "config/json.hpp"
#include "fuzz/fuzz_input.hpp"

#include <cmath>

using namespace troupe;

namespace {

/// Small limits, so that short inputs reach them.
http::api_limits small_limits() {
  http::api_limits limits;
  limits.served_names = {"model", "other"};
  limits.max_model_len = 512;
  limits.num_token_ids = 1000;
  limits.num_messages_max = 8;
  limits.num_parts_max = 8;
  limits.num_tools_max = 3;
  limits.num_images_max = 3;
  limits.num_frames_max = 4;
  limits.image_bytes_max = 2048;
  limits.image_pixels_max = 64 * 64;
  limits.request_pixels_max = 2 * 64 * 64;
  auto& preprocessor = limits.preprocessor;
  preprocessor.image_min_pixels = preprocessor.video_min_pixels = 1024;
  preprocessor.image_max_pixels = preprocessor.video_max_pixels = 65536;
  preprocessor.mean = preprocessor.std = {0.5f, 0.5f, 0.5f};
  return limits;
}

const http::api_limits limits = small_limits();

void check(const http::generation_options& options) {
  fuzz::expect(options.num_choices >= 1 && options.num_choices <= limits.num_choices_max,
               "choices are within their limit");
  fuzz::expect(options.sampling.max_tokens >= 0, "max_tokens is not negative");
  fuzz::expect(std::isfinite(options.sampling.temperature) && options.sampling.temperature >= 0,
               "the temperature is a number");
  fuzz::expect(options.stop.size() <= limits.num_stop_texts_max,
               "stop texts are within their limit");
}

void check(const http::chat_request& request) {
  check(request.options);
  int64_t pixels = 0;
  for (const auto& item : request.media) {
    pixels += item.pixels;
    fuzz::expect(item.grid.t > 0 && item.grid.height > 0 && item.grid.width > 0,
                 "a grid is never empty");
    fuzz::expect(!item.frames.empty(), "media have bytes");
  }
  fuzz::expect(pixels <= limits.request_pixels_max, "pixels are within their limit");
  for (const auto& message : request.chat.messages)
    for (const auto& part : message.content)
      if (const auto* media = std::get_if<model::media_part>(&part))
        fuzz::expect(media->media_index >= 0 &&
                         media->media_index < static_cast<int32_t>(request.media.size()),
                     "a media part names an item");
}

void check(const http::text_request& request) {
  check(request.options);
  fuzz::expect(!request.prompts.empty(), "a text request has a prompt");
}

void check(const http::tokenize_request& request) {
  if (const auto* chat = std::get_if<http::chat_request>(&request.input)) check(*chat);
}

void check(const http::detokenize_request& request) {
  for (const int32_t id : request.ids)
    fuzz::expect(id >= 0 && id < limits.num_token_ids, "token ids are within the vocabulary");
}

void check(const http::api_error& error) {
  fuzz::expect(error.status >= 400 && error.status < 500, "a bad request is the client's fault");
  fuzz::expect(!error.message.empty(), "an error says what is wrong");
  const auto body = config::parse_json(http::error_body(error));
  fuzz::expect(body.find("error").has_value(), "an error's body is an error object");
}

template <class Request>
void check_either(const std::variant<Request, http::api_error>& parsed) {
  std::visit([](const auto& result) { check(result); }, parsed);
}

}  // namespace

/// One body, given to every route that takes JSON.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto body = fuzz::as_text(data, size);
  check_either(http::parse_chat_request(body, limits));
  check_either(http::parse_text_request(body, limits));
  check_either(http::parse_tokenize_request(body, limits));
  check_either(http::parse_detokenize_request(body, limits));
  return 0;
}
