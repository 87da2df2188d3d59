#include "config/load.hpp"

#include "config/error.hpp"
#include "config/setting.hpp"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <numeric>
#include <sstream>

namespace troupe::config {

namespace fs = std::filesystem;

namespace {

constexpr uintmax_t file_bytes_max = 1 << 20;

const setting* find_key(std::string_view key) {
  for (const auto& setting : settings())
    if (setting.description.key == key) return &setting;
  return nullptr;
}

/// A setting by its key or one of its flag spellings.
const setting* find_flag(const std::string& flag) {
  for (const auto& setting : settings()) {
    const auto& flags = setting.description.flags;
    if (setting.description.key == flag ||
        std::find(flags.begin(), flags.end(), flag) != flags.end())
      return &setting;
  }
  return nullptr;
}

bool is_section(const std::string& name) {
  return std::any_of(settings().begin(), settings().end(), [&](const setting& setting) {
    return setting.description.key.starts_with(name + ".");
  });
}

/// A key that was probably meant: near in spelling, or the same without its section.
std::optional<std::string> suggestion(const std::string& key) {
  std::vector<std::string> known;
  for (const auto& setting : settings()) {
    known.push_back(setting.description.key);
    if (known.back().ends_with("." + key)) return known.back();
  }
  return nearest(key, known);
}

bool is_list(const setting& setting) {
  return setting.role == setting_role::list || setting.role == setting_role::secret;
}

/// What a message may show of a value.
std::string shown(const setting& setting, const setting_value& value) {
  if (setting.role == setting_role::secret) return "a hidden value";
  struct {
    std::string operator()(std::monostate) const { return "a table, a date or a mixed list"; }
    std::string operator()(const std::string& text) const { return fmt::format("\"{}\"", text); }
    std::string operator()(bool flag) const { return fmt::format("{}", flag); }
    std::string operator()(int64_t number) const { return fmt::format("{}", number); }
    std::string operator()(double number) const { return fmt::format("{}", number); }
    std::string operator()(const std::vector<std::string>&) const { return "a list"; }
  } const show;
  return std::visit(show, value);
}

std::string read_text_file(const fs::path& path) {
  std::error_code code;
  const auto bytes = fs::file_size(path, code);
  if (code) throw error(fmt::format("{}: cannot be opened ({})", path.string(), code.message()));
  if (bytes > file_bytes_max)
    throw error(
        fmt::format("{}: has {} bytes, expected at most {}", path.string(), bytes, file_bytes_max));
  std::ifstream file(path, std::ios::binary);
  std::string text(bytes, '\0');
  if (!file.read(text.data(), static_cast<std::streamsize>(bytes)))
    throw error(fmt::format("{}: cannot be read", path.string()));
  return text;
}

std::string place_of(const fs::path& path, const toml::source_region& source) {
  return fmt::format("{}:{}:{}", path.string(), source.begin.line, source.begin.column);
}

toml::table parse_toml(const fs::path& path) {
  try {
    return toml::parse(read_text_file(path), path.string());
  } catch (const toml::parse_error& fault) {
    throw error(fmt::format("{}: {}", place_of(path, fault.source()), fault.description()));
  }
}

setting_value value_of(const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return number->get();
  if (const auto* number = node.as_floating_point()) return number->get();
  if (const auto* flag = node.as_boolean()) return flag->get();
  const auto* list = node.as_array();
  if (!list || !(list->empty() || list->is_homogeneous<std::string>())) return {};
  std::vector<std::string> texts;
  for (const auto& element : *list) texts.push_back(element.as_string()->get());
  return texts;
}

/// `path` seen from `base`, absolute, without a trailing slash.
std::string absolute_path(const fs::path& base, const std::string& path) {
  const auto whole = fs::absolute(base / path).lexically_normal();
  return (whole.has_filename() ? whole : whole.parent_path()).string();
}

/// The configuration while sources are merged into it, the strongest last.
class merger {
 public:
  void take_defaults() {
    for (const auto& setting : settings()) result_.origin[setting.description.key] = "default";
  }

  void take_file(const fs::path& path) {
    try {
      take_table(parse_toml(path), path);
    } catch (const error& fault) {
      faults_.insert(faults_.end(), fault.faults().begin(), fault.faults().end());
    }
  }

  void take_environment(const std::function<const char*(const char*)>& environment) {
    for (const auto& setting : settings()) {
      const auto& name = setting.description.environment;
      const auto* text = environment(name.c_str());
      if (text && *text) assign(setting, std::string(text), "environment " + name);
    }
  }

  void take_flags(const std::vector<std::pair<std::string, std::string>>& flags) {
    std::map<const setting*, std::string> lists;  // gather what each of their flags says
    for (const auto& [flag, text] : flags) {
      const auto* setting = find_flag(flag);
      if (!setting)
        faults_.push_back(fmt::format("flag {}: is unknown", flag));
      else if (!is_list(*setting))
        assign(*setting, text, flag_origin(*setting));
      else
        lists[setting] += (lists[setting].empty() ? "" : ",") + text;
    }
    for (const auto& [setting, text] : lists) assign(*setting, text, flag_origin(*setting));
  }

  /// Keys from the file that the settings name, then what no single setting can tell.
  loaded_config finish() {
    read_api_keys_file();
    check_combinations();
    throw_if_any(std::move(faults_));
    return std::move(result_);
  }

 private:
  static std::string flag_origin(const setting& setting) {
    return "flag " + setting.description.flags.front();
  }

  /// A key of the file outside the sections, or in one of them.
  struct file_entry {
    std::string key;  // dotted
    toml::source_region place;
    const toml::node* node = nullptr;
  };

  /// A table is sorted by key: faults are told in the order of the file.
  static std::vector<file_entry> entries_in_order(const toml::table& root) {
    std::vector<file_entry> entries;
    for (const auto& [name, node] : root) {
      const std::string key(name.str());
      const auto* section = is_section(key) ? node.as_table() : nullptr;
      if (section == nullptr) {
        entries.push_back({key, name.source(), &node});
        continue;
      }
      for (const auto& [member, value] : *section)
        entries.push_back({key + "." + std::string(member.str()), member.source(), &value});
    }
    std::stable_sort(entries.begin(), entries.end(),
                     [](const auto& a, const auto& b) { return a.place.begin < b.place.begin; });
    return entries;
  }

  void take_table(const toml::table& root, const fs::path& file) {
    for (const auto& [key, source, node] : entries_in_order(root)) {
      const auto place = place_of(file, source);
      if (const auto* setting = find_key(key))
        assign(*setting, value_of(*node), place_of(file, node->source()), file.parent_path());
      else if (is_section(key))
        faults_.push_back(fmt::format("{}: {}: found a value, expected a table", place, key));
      else
        report_unknown(key, place);
    }
  }

  void report_unknown(const std::string& key, const std::string& place) {
    const auto close = suggestion(key);
    const auto hint = close ? fmt::format(", did you mean {}?", *close) : std::string();
    faults_.push_back(fmt::format("{}: unknown key {}{}", place, key, hint));
  }

  /// `base` is the folder that relative paths start from.
  void assign(const setting& setting, setting_value value, const std::string& origin,
              const fs::path& base = {}) {
    const auto& key = setting.description.key;
    auto* text = std::get_if<std::string>(&value);
    if (setting.role == setting_role::path && text && !text->empty())
      *text = absolute_path(base, *text);
    if (const auto expected = setting.assign(result_.value, value))
      faults_.push_back(fmt::format("{}: {}: found {}, expected {}", origin, key,
                                    shown(setting, value), *expected));
    else
      result_.origin[key] = origin;
  }

  void read_api_keys_file() {
    auto& http = result_.value.http;
    if (http.api_keys_file.empty()) return;
    try {
      std::istringstream lines(read_text_file(http.api_keys_file));
      size_t found = 0;
      for (std::string line; std::getline(lines, line);) {
        if (line.ends_with('\r')) line.pop_back();
        if (line.empty() || line.starts_with('#')) continue;
        http.api_keys.push_back(line);
        ++found;
      }
      if (found == 0) throw error(fmt::format("{}: holds no key", http.api_keys_file));
    } catch (const error& fault) {
      faults_.push_back(fmt::format("{}: http.api_keys_file: {}",
                                    result_.origin["http.api_keys_file"], fault.what()));
    }
  }

  void check_combinations() {
    const auto& limits = result_.value.limits;
    if (limits.max_num_batched_tokens != 0 && limits.max_num_batched_tokens < limits.max_num_seqs)
      faults_.push_back(fmt::format(
          "{}: limits.max_num_batched_tokens: found {}, expected at least limits.max_num_seqs = {} "
          "(one token each)",
          result_.origin["limits.max_num_batched_tokens"], limits.max_num_batched_tokens,
          limits.max_num_seqs));
    const auto& vision = result_.value.vision;
    if (vision.max_pixels != 0 && vision.max_pixels < vision.min_pixels)
      faults_.push_back(
          fmt::format("{}: vision.max_pixels: found {}, expected at least vision.min_pixels = {}",
                      result_.origin["vision.max_pixels"], vision.max_pixels, vision.min_pixels));
  }

  loaded_config result_;
  std::vector<std::string> faults_;
};

/// Insertions, deletions, replacements and swaps of neighbours between two words.
/// Source: Damerau 1964 (restricted to one edit per place).
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

}  // namespace

loaded_config load(const setting_sources& sources) {
  merger merger;
  merger.take_defaults();
  if (sources.file) merger.take_file(*sources.file);
  if (sources.environment) merger.take_environment(sources.environment);
  merger.take_flags(sources.flags);
  return merger.finish();
}

std::string print(const loaded_config& config) {
  std::string out;
  std::string section;
  for (const auto& setting : settings()) {
    const auto& key = setting.description.key;
    const auto dot = key.find('.');
    if (key.substr(0, dot) != section) {
      section = key.substr(0, dot);
      out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", section);
    }
    const auto name = key.substr(dot + 1);
    const bool secret = setting.role == setting_role::secret;
    const auto line = secret ? fmt::format("# {} is not shown", name)
                             : fmt::format("{} = {}", name, setting.show(config.value));
    constexpr int origin_column = 40;
    out += fmt::format("{:<{}} # {}\n", line, origin_column, config.origin.at(key));
  }
  return out;
}

std::optional<std::string> nearest(const std::string& word, const std::vector<std::string>& known) {
  std::optional<std::string> best;
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
  for (const auto& candidate : known) {
    const auto distance = edit_distance(word, candidate);
    if (distance >= best_distance) continue;
    best = candidate;
    best_distance = distance;
  }
  return best;
}

}  // namespace troupe::config
