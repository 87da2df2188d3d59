#pragma once

#include "model/plan/prompt.hpp"
#include "model/vision/image_processor.hpp"
#include "model/vision/media.hpp"

#include <string>

namespace troupe::actors {

/// SHA-256 of a picture's or clip's processed pixels, its grid and `identity` (processor settings and
/// weights): items with equal digests have equal visual rows. The key of rows, prefix cache and journal.
plan::media_digest digest_pixels(const model::patch_rows& patches, const std::string& identity);

/// SHA-256 of the encoded bytes of all frames and of what decides how they are decoded. Items with equal
/// encoded digests have equal pixel digests (the reverse does not hold), so a picture that comes again, as
/// in every turn of a conversation, need not be decoded to be recognised.
plan::media_digest digest_encoded(const model::media_item& item);

/// First 64 bits, for hash tables: the bytes are uniformly distributed already.
struct media_digest_hash {
  size_t operator()(const plan::media_digest& digest) const noexcept;
};

}  // namespace troupe::actors
