#pragma once

#include "config/ensure.hpp"
#include "config/json_fields.hpp"
#include "config/setting.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// How each kind of setting is read from text or TOML and written as TOML.
namespace troupe::config {

/// "4096", "128k", "32M", "2GiB": k, M and G are powers of 1024.
std::optional<int64_t> parse_count(std::string_view text);
/// "30s", "500ms", "10m"; a bare number is seconds.
std::optional<std::chrono::milliseconds> parse_duration(std::string_view text);
std::string show_duration(std::chrono::milliseconds value);
/// As a TOML string.
std::string toml_string(std::string_view text);
std::string toml_list(const std::vector<std::string>& texts);

std::optional<int64_t> read_count(const setting_value& value);
std::optional<double> read_number(const setting_value& value);
std::optional<bool> read_boolean(const setting_value& value);
std::optional<std::chrono::milliseconds> read_duration(const setting_value& value);
std::optional<std::string> read_text(const setting_value& value);
/// Text is a list separated by commas.
std::optional<std::vector<std::string>> read_list(const setting_value& value);

/// Whether a setting may be "auto", and how that is kept: as 0, or as -1 where 0 says something else.
enum class or_auto : uint8_t { no, yes, yes_beside_zero };

/// Adds the settings of one section of engine_config to the table.
template <class Section>
class setting_section {
 public:
  setting_section(std::vector<setting>& table, std::string name, Section engine_config::*section)
      : table_(table), name_(std::move(name)), section_(section) {}

  using names = std::vector<std::string>;

  template <class Integer>
  void count(const char* name, Integer Section::*member, range<int64_t> bounds, or_auto automatic,
             names flags, std::string help) {
    const bool may_be_auto = automatic != or_auto::no;
    const int64_t kept_for_auto = automatic == or_auto::yes_beside_zero ? -1 : 0;
    auto& added = add(name, std::move(flags), std::move(help));
    added.assign = [=, section = section_](
                       engine_config& config,
                       const setting_value& value) -> std::optional<std::string> {
      const bool is_auto = may_be_auto && read_text(value) == "auto";
      const auto number = is_auto ? kept_for_auto : read_count(value);
      const bool inside = number && *number >= bounds.least && *number <= bounds.most;
      if (!is_auto && !inside)
        return fmt::format("{}an integer from {} to {}", may_be_auto ? "\"auto\" or " : "",
                           bounds.least, bounds.most);
      config.*section.*member = static_cast<Integer>(*number);
      return std::nullopt;
    };
    added.show = [=, section = section_](const engine_config& config) {
      const auto number = config.*section.*member;
      const bool is_auto = may_be_auto && static_cast<int64_t>(number) == kept_for_auto;
      return is_auto ? toml_string("auto") : fmt::format("{}", number);
    };
  }

  void share(const char* name, double Section::*member, range<double> bounds, or_auto automatic,
             names flags, std::string help) {
    const bool may_be_auto = automatic == or_auto::yes;
    auto& added = add(name, std::move(flags), std::move(help));
    added.assign = [=, section = section_](
                       engine_config& config,
                       const setting_value& value) -> std::optional<std::string> {
      const bool is_auto = may_be_auto && read_text(value) == "auto";
      const auto number = is_auto ? 0.0 : read_number(value);
      if (!is_auto && !(number && *number >= bounds.least && *number <= bounds.most))
        return fmt::format("{}a number from {} to {}", may_be_auto ? "\"auto\" or " : "",
                           bounds.least, bounds.most);
      config.*section.*member = *number;
      return std::nullopt;
    };
    added.show = [=, section = section_](const engine_config& config) {
      const double number = config.*section.*member;
      return may_be_auto && number == 0 ? toml_string("auto") : fmt::format("{:#}", number);
    };
  }

  void boolean(const char* name, bool Section::*member, names flags, std::string help,
               names off_flags = {}) {
    auto& added = add(name, std::move(flags), std::move(help));
    added.description.boolean = true;
    added.description.off_flags = std::move(off_flags);
    added.assign = [=, section = section_](
                       engine_config& config,
                       const setting_value& value) -> std::optional<std::string> {
      const auto flag = read_boolean(value);
      if (!flag) return "true or false";
      config.*section.*member = *flag;
      return std::nullopt;
    };
    added.show = [=, section = section_](const engine_config& config) {
      return fmt::format("{}", config.*section.*member);
    };
  }

  void duration(const char* name, std::chrono::milliseconds Section::*member,
                range<std::chrono::milliseconds> bounds, names flags, std::string help) {
    auto& added = add(name, std::move(flags), std::move(help));
    added.assign = [=, section = section_](
                       engine_config& config,
                       const setting_value& value) -> std::optional<std::string> {
      const auto time = read_duration(value);
      if (!time || *time < bounds.least || *time > bounds.most)
        return fmt::format("a duration from {} to {}", show_duration(bounds.least),
                           show_duration(bounds.most));
      config.*section.*member = *time;
      return std::nullopt;
    };
    added.show = [=, section = section_](const engine_config& config) {
      return toml_string(show_duration(config.*section.*member));
    };
  }

  void text(const char* name, std::string Section::*member, setting_role role, names flags,
            std::string help) {
    auto& added = add(name, std::move(flags), std::move(help));
    added.role = role;
    added.assign = [=, section = section_](
                       engine_config& config,
                       const setting_value& value) -> std::optional<std::string> {
      const auto text = read_text(value);
      if (!text || text->find('\0') != std::string::npos) return "a string";
      config.*section.*member = *text;
      return std::nullopt;
    };
    added.show = [=, section = section_](const engine_config& config) {
      return toml_string(config.*section.*member);
    };
  }

  void texts(const char* name, std::vector<std::string> Section::*member, setting_role role,
             names flags, std::string help) {
    auto& added = add(name, std::move(flags), std::move(help));
    added.role = role;
    added.assign = [=, section = section_](
                       engine_config& config,
                       const setting_value& value) -> std::optional<std::string> {
      auto texts = read_list(value);
      if (!texts || std::find(texts->begin(), texts->end(), "") != texts->end())
        return "a list of strings, none of them empty";
      config.*section.*member = std::move(*texts);
      return std::nullopt;
    };
    added.show = [=, section = section_](const engine_config& config) {
      return toml_list(config.*section.*member);
    };
  }

  /// `words` may name a value more than once; the first is the one that is shown.
  template <class Value>
  void choice(const char* name, Value Section::*member,
              std::vector<std::pair<std::string, Value>> words, names flags, std::string help) {
    auto& added = add(name, std::move(flags), std::move(help));
    added.assign = [=, section = section_](
                       engine_config& config,
                       const setting_value& value) -> std::optional<std::string> {
      const auto text = read_text(value);
      std::string known;
      for (const auto& [word, meaning] : words) {
        if (text == word) {
          config.*section.*member = meaning;
          return std::nullopt;
        }
        known += fmt::format("{}\"{}\"", known.empty() ? "" : ", ", word);
      }
      return "one of " + known;
    };
    added.show = [=, section = section_](const engine_config& config) {
      for (const auto& [word, meaning] : words)
        if (config.*section.*member == meaning) return toml_string(word);
      broken_invariant("a setting has a value without a word", std::source_location::current());
    };
  }

 private:
  setting& add(const char* name, names flags, std::string help);

  std::vector<setting>& table_;
  std::string name_;
  Section engine_config::*section_;
};

/// TROUPE_ and the first flag spelling: `--max-num-seqs` is TROUPE_MAX_NUM_SEQS.
std::string environment_name(const std::string& flag);

template <class Section>
setting& setting_section<Section>::add(const char* name, names flags, std::string help) {
  setting added;
  added.description.key = name_ + "." + name;
  added.description.environment = environment_name(flags.front());
  added.description.flags = std::move(flags);
  added.description.help = std::move(help);
  return table_.emplace_back(std::move(added));
}

}  // namespace troupe::config
