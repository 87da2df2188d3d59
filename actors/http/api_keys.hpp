#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::http {

/// The keys that open the server. Only digests are kept, and comparison takes the same time
/// whatever the presented key shares with a real one.
class api_keys {
 public:
  explicit api_keys(const std::vector<std::string>& keys);

  bool required() const { return !digests_.empty(); }
  /// Whether the value of an Authorization header, `Bearer KEY`, holds one of the keys.
  bool accept(std::string_view authorization) const;

 private:
  using key_digest = std::array<unsigned char, 32>;
  static key_digest digest_of(std::string_view key);

  std::vector<key_digest> digests_;
};

}  // namespace troupe::http
