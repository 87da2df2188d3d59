#pragma once

#include "actors/http/api_limits.hpp"
#include "config/json.hpp"
#include "model/tokenizer/chat.hpp"
#include "model/vision/media.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace troupe::http {

/// Collects the pictures and clips of one request and charges each to the request's limits from its
/// header alone: nothing is decoded here.
class media_reader {
 public:
  explicit media_reader(const api_limits& limits) : limits_(limits) {}

  /// A content part of type `type` that names media; nullopt for any other type. `path` is the
  /// part's. Throws request_fault.
  std::optional<model::media_part> read_part(const config::json_value& part, std::string_view type,
                                             const std::string& path);

  std::vector<model::media_item> take() { return std::move(items_); }

 private:
  model::media_part add_image(const config::json_value& part, const std::string& path);
  model::media_part add_video(const config::json_value& part, const std::string& path);
  model::media_part add(model::media_item item, const std::string& path);

  const api_limits& limits_;
  std::vector<model::media_item> items_;
  int32_t num_images_ = 0;
  int32_t num_frames_ = 0;
  int64_t pixels_ = 0;
};

}  // namespace troupe::http
