#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::testing {

/// A file with this header, whatever it says.
inline std::string file_with_header(std::string_view json, std::string_view data) {
  const uint64_t length = json.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes.append(json).append(data);
}

/// A safetensors file made tensor by tensor.
class safetensors_file {
 public:
  void add(std::string_view name, std::string_view dtype, const std::vector<int64_t>& shape,
           std::string_view data) {
    header_ += fmt::format("{}\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                           header_.empty() ? "" : ",", name, dtype, fmt::join(shape, ","),
                           data_.size(), data_.size() + data.size());
    data_ += data;
  }

  /// The header is padded so that the data starts at a multiple of 8 bytes, plus `misalignment`.
  std::string bytes(size_t misalignment = 0) const {
    auto json = "{" + header_ + "}";
    while (json.size() % 8 != misalignment) json += ' ';
    return file_with_header(json, data_);
  }

 private:
  std::string header_;
  std::string data_;
};

}  // namespace troupe::testing
