#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace troupe::config {

/// A file, flag or setting that cannot be used. Carries every fault found, not only the first;
/// `what()` joins them with newlines. Each fault says what was found and what was expected, and
/// starts with its place (`file:line:column`, flag or environment name) where it has one.
class error : public std::runtime_error {
 public:
  explicit error(std::string fault) : error(std::vector<std::string>{std::move(fault)}) {}
  explicit error(std::vector<std::string> faults)
      : std::runtime_error(join(faults)), faults_(std::move(faults)) {}

  const std::vector<std::string>& faults() const noexcept { return faults_; }

 private:
  static std::string join(const std::vector<std::string>& faults) {
    std::string text;
    for (const auto& fault : faults) text += (text.empty() ? "" : "\n") + fault;
    return text;
  }

  std::vector<std::string> faults_;
};

/// Throws all `faults` as one error, if there are any. Of more than `shown_max` only so many are
/// kept, and a last line that counts the others.
inline void throw_if_any(std::vector<std::string> faults, size_t shown_max = 100) {
  if (faults.empty()) return;
  if (faults.size() > shown_max) {
    const auto hidden = faults.size() - shown_max;
    faults.resize(shown_max);
    faults.push_back("and " + std::to_string(hidden) + " more");
  }
  throw error(std::move(faults));
}

}  // namespace troupe::config
