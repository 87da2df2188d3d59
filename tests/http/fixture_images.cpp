#include "tests/http/fixture_images.hpp"

#include <openssl/evp.h>

#include <fstream>
#include <iterator>
#include <stdexcept>

namespace troupe::tests {

std::string fixture_data_url(const std::string& name) {
  std::ifstream file(std::string(TROUPE_FIXTURES) + "/images/" + name, std::ios::binary);
  if (!file) throw std::runtime_error("no picture " + name);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::string encoded((bytes.size() + 2) / 3 * 4 + 1, '\0');
  EVP_EncodeBlock(reinterpret_cast<unsigned char*>(encoded.data()),
                  reinterpret_cast<const unsigned char*>(bytes.data()),
                  static_cast<int>(bytes.size()));
  encoded.pop_back();
  return "data:application/octet-stream;base64," + encoded;
}

}  // namespace troupe::tests
