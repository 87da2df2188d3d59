#include "actors/media_digest.hpp"

#include "config/ensure.hpp"

#include <openssl/evp.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>

namespace troupe::actors {
namespace {

class sha256 {
 public:
  sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    config::ensure(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1,
                   "SHA-256 cannot be initialised");
  }

  void bytes(const void* first, size_t count) {
    config::ensure(EVP_DigestUpdate(context_.get(), first, count) == 1, "SHA-256 cannot be updated");
  }
  template <class T>
  void value(T x) {
    static_assert(std::is_arithmetic_v<T>);
    bytes(&x, sizeof x);
  }
  /// Length first, so that no two sequences of texts have one digest.
  void text(const std::string& x) {
    value(static_cast<uint64_t>(x.size()));
    bytes(x.data(), x.size());
  }

  plan::media_digest finish() {
    plan::media_digest digest{};
    config::ensure(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1,
                   "SHA-256 cannot be finished");
    return digest;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

}  // namespace

plan::media_digest digest_pixels(const model::patch_rows& patches, const std::string& identity) {
  sha256 hash;
  hash.text(identity);
  hash.value(patches.grid.t);
  hash.value(patches.grid.height);
  hash.value(patches.grid.width);
  hash.bytes(patches.pixels.data(), patches.pixels.size());
  return hash.finish();
}

plan::media_digest digest_encoded(const model::media_item& item) {
  sha256 hash;
  hash.value(static_cast<uint8_t>(item.video));
  hash.value(static_cast<uint64_t>(item.frames.size()));
  for (const auto& frame : item.frames) hash.text(*frame);
  return hash.finish();
}

size_t media_digest_hash::operator()(const plan::media_digest& digest) const noexcept {
  uint64_t head = 0;
  std::memcpy(&head, digest.data(), sizeof head);
  return static_cast<size_t>(head);
}

}  // namespace troupe::actors
