#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace troupe::model {

/// A file mapped read-only from its first to its last byte. Pages are read on demand: call
/// `read_ahead` before using them, so that a failing disk or a shortened file is an error and not a
/// signal.
class mapped_file {
 public:
  /// Throws config::error if the file cannot be opened or is empty.
  explicit mapped_file(const std::filesystem::path& path);
  ~mapped_file();
  mapped_file(mapped_file&& other) noexcept;
  mapped_file& operator=(mapped_file&&) = delete;

  const std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  const std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// Brings mapped pages into memory. Throws config::error if the file behind them cannot be read.
void read_ahead(const std::byte* data, int64_t bytes);

}  // namespace troupe::model
