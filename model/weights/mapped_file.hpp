#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <utility>

namespace troupe::model {

/// A file mapped read-only from its first to its last byte. Pages are read on demand: call
/// `read_ahead` before using them, so that a failing disk or a shortened file is an error and not a
/// signal. What is needed once, elsewhere, is copied by `read`: its pages are not mapped for that.
class mapped_file {
 public:
  /// Throws config::error if the file cannot be opened or is empty.
  explicit mapped_file(const std::filesystem::path& path);
  ~mapped_file();
  mapped_file(mapped_file&& other) noexcept;
  mapped_file& operator=(mapped_file&&) = delete;

  const std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  bool holds(const std::byte* address) const { return address >= data_ && address < data_ + bytes_; }

  /// Copies `bytes` from `first`, which lies in the mapping, to `target`. May be called by several
  /// threads at once. Throws config::error if the file behind it cannot be read.
  void read(const std::byte* first, int64_t bytes, std::byte* target) const;

 private:
  /// Owner of a descriptor.
  struct open_file {
    explicit open_file(int opened) : number(opened) {}
    open_file(open_file&& other) noexcept : number(std::exchange(other.number, -1)) {}
    open_file& operator=(open_file&&) = delete;
    ~open_file();
    int number;
  };

  open_file file_;
  const std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// Brings mapped pages into memory. Throws config::error if the file behind them cannot be read.
void read_ahead(const std::byte* data, int64_t bytes);

}  // namespace troupe::model
