#include "model/step_fingerprint.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <fmt/format.h>

#include <algorithm>

namespace troupe::model {
namespace {

constexpr int64_t staging_bytes = int64_t{4} << 20;

}  // namespace

std::string difference(const step_fingerprint& found, const step_fingerprint& expected) {
  for (size_t row = 0; row < expected.tokens.size(); ++row) {
    if (found.tokens[row] != expected.tokens[row])
      return fmt::format("row {} of {} sampled token {}, expected {}", row, expected.tokens.size(),
                         found.tokens[row], expected.tokens[row]);
    if (found.logits[row] != expected.logits[row])
      return fmt::format("row {} of {} has other logits and the same token {}", row,
                         expected.tokens.size(), expected.tokens[row]);
  }
  if (found.residual != expected.residual) return "the residual stream has other bits";
  return {};
}

fingerprint_reader::fingerprint_reader(gpu::operations& backend)
    : staging_(backend.host_staging(staging_bytes)) {}

gpu::digest128 fingerprint_reader::digest(gpu::operations& backend, const gpu::tensor_view& view,
                                          int64_t rows) {
  const int64_t bytes = rows * view.width() * gpu::size_of(view.type);
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  for (int64_t done = 0; done < bytes; done += staging_bytes) {
    const int64_t piece = std::min(staging_bytes, bytes - done);
    backend.download(staging_.get(), gpu::make_view(view.data + done, gpu::dtype::u8, piece),
                     piece);
    backend.synchronize();
    XXH3_128bits_update(&state, staging_.get(), static_cast<size_t>(piece));
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(&state);
  return {hash.low64, hash.high64};
}

}  // namespace troupe::model
