#pragma once

#include "actors/engine_messages.hpp"
#include "actors/media_digest.hpp"
#include "config/model_config.hpp"

#include <caf/typed_event_based_actor.hpp>

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

namespace troupe::actors {

/// Pixel digests of encoded pictures that were decoded before; forgets the oldest use first. Shared by the
/// workers of an encoder: the one piece of state that detached actors have in common, so it has a lock.
class known_digests {
 public:
  explicit known_digests(size_t capacity) : capacity_(capacity) {}

  std::optional<plan::media_digest> find(const plan::media_digest& encoded);
  void insert(const plan::media_digest& encoded, const plan::media_digest& pixels);

 private:
  struct entry {
    plan::media_digest encoded{};
    plan::media_digest pixels{};
  };
  const size_t capacity_;
  std::mutex mutex_;
  std::list<entry> order_;  // used longest ago first
  std::unordered_map<plan::media_digest, std::list<entry>::iterator, media_digest_hash> entries_;
};

struct media_worker_options {
  std::shared_ptr<const config::checkpoint_config> checkpoint;
  gpu::dtype activation = gpu::dtype::bf16;  // of the pixels: what the tower takes
  std::string identity;            // of processor settings and weights, part of every digest
  int64_t max_pixels = 0;          // of one picture
  int64_t max_frame_patches = 0;   // of one picture or temporal group: what the tower can run
  std::shared_ptr<known_digests> known;
};

/// Decodes, resizes and patchifies: pure computation that may take a while. Spawned detached.
media_worker_actor::behavior_type media_worker(media_worker_actor::pointer self,
                                               media_worker_options options);

}  // namespace troupe::actors
