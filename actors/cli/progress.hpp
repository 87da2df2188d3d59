#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace troupe::cli {

/// "1.5 GB", "340 MB", "12 kB": decimal units, two significant places.
std::string format_bytes(int64_t bytes);

/// "3.2 s", "2 min 05 s".
std::string format_seconds(double seconds);

/// A progress bar on a terminal (bytes, rate, remaining time); plain lines, at most one every five
/// seconds, anywhere else. Not thread-safe.
class progress_bar {
 public:
  using clock = std::chrono::steady_clock;

  explicit progress_bar(std::FILE* out);

  /// Shows `done` of `total` units of `phase`; a new phase begins a new bar. `bytes` says whether
  /// the units are bytes (then with a rate) or items.
  void show(const std::string& phase, int64_t done, int64_t total, bool bytes);
  /// Ends the bar's line, if one is open.
  void finish();

 private:
  std::string render(int64_t done, int64_t total, bool bytes) const;

  std::FILE* out_;
  bool terminal_;
  std::string phase_;
  clock::time_point phase_begin_;
  clock::time_point last_line_;
  bool open_line_ = false;
};

}  // namespace troupe::cli
