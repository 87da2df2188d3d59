#include "actors/cli/progress.hpp"

#include "actors/cli/elapsed.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

namespace troupe::cli {
namespace {

constexpr int bar_cells = 28;
constexpr std::chrono::seconds plain_interval{5};

std::string bar(double share) {
  const int full = static_cast<int>(share * bar_cells);
  std::string cells;
  for (int i = 0; i < bar_cells; ++i) cells += i < full ? "█" : "░";
  return cells;
}

}  // namespace

std::string format_bytes(int64_t bytes) {
  static constexpr const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < std::size(units); ++unit) value /= 1000;
  const int decimals = unit == 0 || value >= 100 ? 0 : 1;
  return fmt::format("{:.{}f} {}", value, decimals, units[unit]);
}

std::string format_seconds(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  return fmt::format("{} min {:02} s", whole / 60, whole % 60);
}

progress_bar::progress_bar(std::FILE* out) : out_(out), terminal_(isatty(fileno(out)) != 0) {}

std::string progress_bar::render(int64_t done, int64_t total, bool bytes) const {
  const double share =
      total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 1;
  const double elapsed = seconds_since(phase_begin_);
  std::string text = fmt::format("{:3.0f} %  ", share * 100);
  if (bytes)
    text += fmt::format("{} of {}, {:.2f} GB/s", format_bytes(done), format_bytes(total),
                        elapsed > 0 ? static_cast<double>(done) / 1e9 / elapsed : 0.0);
  else
    text += fmt::format("{} of {}", done, total);
  if (share > 0 && share < 1)
    text += fmt::format(", {} left", format_seconds(elapsed / share * (1 - share)));
  return terminal_ ? fmt::format("{}  {}", bar(share), text) : text;
}

void progress_bar::show(const std::string& phase, int64_t done, int64_t total, bool bytes) {
  const auto now = clock::now();
  if (phase != phase_) {
    finish();
    phase_ = phase;
    phase_begin_ = now;
    last_line_ = now;
  }
  if (terminal_) {
    fmt::print(out_, "\r\033[K{:<18} {}", phase_, render(done, total, bytes));
    open_line_ = true;
  } else if (now - last_line_ >= plain_interval) {
    fmt::print(out_, "{}: {}\n", phase_, render(done, total, bytes));
    last_line_ = now;
  }
  std::fflush(out_);
}

void progress_bar::finish() {
  if (open_line_) fmt::print(out_, "\n");
  open_line_ = false;
  std::fflush(out_);
}

}  // namespace troupe::cli
