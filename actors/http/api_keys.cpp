#include "actors/http/api_keys.hpp"

#include <openssl/crypto.h>
#include <openssl/sha.h>

namespace troupe::http {

api_keys::api_keys(const std::vector<std::string>& keys) {
  for (const auto& key : keys) digests_.push_back(digest_of(key));
}

api_keys::key_digest api_keys::digest_of(std::string_view key) {
  key_digest digest{};
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

bool api_keys::accept(std::string_view authorization) const {
  constexpr std::string_view scheme = "bearer ";
  if (authorization.size() <= scheme.size()) return false;
  for (size_t i = 0; i < scheme.size(); ++i)
    if ((authorization[i] | 0x20) != scheme[i]) return false;
  const auto presented = digest_of(authorization.substr(scheme.size()));
  int different_everywhere = 1;
  for (const auto& digest : digests_)
    different_everywhere &=
        CRYPTO_memcmp(presented.data(), digest.data(), digest.size()) != 0 ? 1 : 0;
  return different_everywhere == 0;
}

}  // namespace troupe::http
