#include "model/plan/prompt.hpp"

#include "config/ensure.hpp"

#include <algorithm>

namespace troupe::plan {
namespace {

/// Fills the three axes from left to right.
class position_writer {
 public:
  explicit position_writer(prompt& target) : positions_(target.positions) {
    for (auto& axis : positions_) {
      axis.clear();
      axis.reserve(target.token_ids.size());
    }
  }

  size_t written() const { return positions_[0].size(); }
  int32_t next_position() const { return next_; }

  void text_until(size_t token_index) {
    while (written() < token_index) {
      append(next_, next_, next_);
      ++next_;
    }
  }

  void grid(int32_t height, int32_t width) {
    for (int32_t row = 0; row < height; ++row)
      for (int32_t column = 0; column < width; ++column) append(next_, next_ + row, next_ + column);
    next_ += std::max(height, width);
  }

 private:
  void append(int32_t t, int32_t h, int32_t w) {
    positions_[0].push_back(t);
    positions_[1].push_back(h);
    positions_[2].push_back(w);
  }

  std::array<std::vector<int32_t>, 3>& positions_;
  int32_t next_ = 0;
};

}  // namespace

void assign_positions(prompt& prompt) {
  position_writer writer(prompt);
  for (const auto& span : prompt.spans) {
    config::ensure(span.num_tokens == span.grid_height * span.grid_width,
                   "visual span has {} tokens, expected {} x {}", span.num_tokens, span.grid_height,
                   span.grid_width);
    const auto first = static_cast<size_t>(span.first_token);
    config::ensure(first >= writer.written(), "visual span starts at token {}, expected {} or more",
                   first, writer.written());
    writer.text_until(first);
    writer.grid(span.grid_height, span.grid_width);
  }
  config::ensure(writer.written() <= prompt.token_ids.size(),
                 "visual spans end at token {} of a prompt of {}", writer.written(),
                 prompt.token_ids.size());
  writer.text_until(prompt.token_ids.size());
  prompt.rope_delta = writer.next_position() - static_cast<int32_t>(prompt.token_ids.size());
}

}  // namespace troupe::plan
