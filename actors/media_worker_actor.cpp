#include "actors/media_worker_actor.hpp"

#include "actors/errors.hpp"
#include "model/vision/image.hpp"
#include "model/vision/image_processor.hpp"

#include <fmt/format.h>

#include <new>
#include <utility>

namespace troupe::actors {

std::optional<plan::media_digest> known_digests::find(const plan::media_digest& encoded) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(encoded);
  if (found == entries_.end()) return std::nullopt;
  order_.splice(order_.end(), order_, found->second);
  return found->second->pixels;
}

void known_digests::insert(const plan::media_digest& encoded, const plan::media_digest& pixels) {
  const std::lock_guard lock(mutex_);
  if (entries_.contains(encoded)) return;
  if (entries_.size() >= capacity_) {
    entries_.erase(order_.front().encoded);
    order_.pop_front();
  }
  entries_.emplace(encoded, order_.insert(order_.end(), {encoded, pixels}));
}

namespace {

model::patch_rows process(const model::media_item& item, const media_worker_options& options) {
  const auto& processor = options.checkpoint->preprocessor;
  if (!item.video)
    return model::process_image(model::decode_image(*item.frames.at(0), options.max_pixels),
                                processor, options.activation);
  std::vector<model::rgb_image> frames;
  frames.reserve(item.frames.size());
  for (const auto& frame : item.frames)
    frames.push_back(model::decode_image(*frame, options.max_pixels));
  return model::process_video(frames, processor, options.activation);
}

/// From the header alone, before any pixel is decoded.
std::optional<refusal> check_size(const model::patch_grid& grid, const media_worker_options& options) {
  const auto frame_patches = int64_t{grid.height} * grid.width;
  if (frame_patches <= options.max_frame_patches) return std::nullopt;
  return refusal{400, "invalid_image",
                 fmt::format("a picture has {} patches, at most {} are allowed", frame_patches,
                             options.max_frame_patches)};
}

std::optional<refusal> check_grid(const model::patch_grid& promised, const model::patch_grid& found) {
  if (found == promised) return std::nullopt;
  return refusal{400, "invalid_image",
                 fmt::format("a picture decodes to a grid of {}x{}x{}, its header promised {}x{}x{}",
                             found.t, found.height, found.width, promised.t, promised.height,
                             promised.width)};
}

media_processed work(const process_media& message, const media_worker_options& options) {
  const auto& item = message.request->media.at(static_cast<size_t>(message.media_index));
  if (auto refused = check_size(item.grid, options)) return {{}, nullptr, std::move(refused)};
  const auto encoded = digest_encoded(item);
  if (message.digest_only)
    if (const auto pixels = options.known->find(encoded)) return {*pixels, nullptr, std::nullopt};
  auto patches = std::make_shared<const model::patch_rows>(process(item, options));
  if (auto refused = check_grid(item.grid, patches->grid)) return {{}, nullptr, std::move(refused)};
  const auto pixels = digest_pixels(*patches, options.identity);
  options.known->insert(encoded, pixels);
  return {pixels, std::move(patches), std::nullopt};
}

caf::result<media_processed> try_work(const process_media& message,
                                      const media_worker_options& options) {
  return guarded<media_processed>([&]() -> media_processed {
    try {
      return work(message, options);
    } catch (const model::image_error& mistake) {
      return {{}, nullptr, refusal{400, "invalid_image", mistake.what()}};
    } catch (const std::bad_alloc&) {
      return {{}, nullptr, refusal{503, "engine_error", "no memory to decode a picture"}};
    }
  });
}

}  // namespace

media_worker_actor::behavior_type media_worker(media_worker_actor::pointer,
                                               media_worker_options options) {
  const auto shared = std::make_shared<const media_worker_options>(std::move(options));
  return {[shared](const process_media& message) { return try_work(message, *shared); }};
}

}  // namespace troupe::actors
