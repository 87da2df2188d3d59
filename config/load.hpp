#pragma once

#include "config/engine_config.hpp"

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace troupe::config {

/// What the outside world says, before it is merged. Later sources win:
/// default < file < environment < flag.
struct setting_sources {
  std::optional<std::filesystem::path> file;                 // TOML
  std::vector<std::pair<std::string, std::string>> flags;    // dotted key or flag spelling, value
  std::function<const char*(const char*)> environment;       // getenv; a test passes its own
};

/// A merged configuration and where each value came from, by dotted key
/// ("limits.max_num_seqs" -> "cluster.toml:12:16", "flag --max-num-seqs",
/// "environment TROUPE_MAX_NUM_SEQS" or "default").
struct loaded_config {
  engine_config value;
  std::map<std::string, std::string> origin;
};

/// Merges and checks. Throws config::error with all faults at once: syntax with file:line:column,
/// unknown keys with the nearest known one, wrong types, values outside their range, combinations
/// that cannot work.
loaded_config load(const setting_sources& sources);

/// The merged values as TOML, each line followed by its origin as a comment. Keys are masked.
std::string print(const loaded_config& config);

/// Every setting once: its dotted key, all flag spellings ("--tensor-parallel-size", "--tp"), its
/// environment name and one line of help. The command line is generated from this table.
struct setting_description {
  std::string key;
  std::vector<std::string> flags;
  std::vector<std::string> off_flags;  // of a boolean: spellings that mean false
  std::string environment;
  std::string help;
  bool boolean = false;
};
const std::vector<setting_description>& setting_descriptions();

/// The known word closest to `word` by edit distance, if it is close enough to be a typing mistake.
std::optional<std::string> nearest(const std::string& word, const std::vector<std::string>& known);

}  // namespace troupe::config
