#pragma once

#include "config/engine_config.hpp"
#include "config/json_fields.hpp"
#include "config/load.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace troupe::config {

/// A value as a source says it. Flags and the environment say text; TOML also says the others, and
/// things that no setting can be (tables, dates, mixed lists), which are the first alternative.
using setting_value =
    std::variant<std::monostate, std::string, bool, int64_t, double, std::vector<std::string>>;

/// How a setting takes part in merging and printing.
enum class setting_role : uint8_t {
  plain,
  list,    // repeated flags add to each other
  path,    // made absolute: relative to the file that says it, or to where the program runs
  secret,  // a list that is never printed
};

/// One setting: what it is called and how it is read and written.
struct setting {
  setting_description description;
  setting_role role = setting_role::plain;
  /// Changes the configuration, or says what was expected instead.
  std::function<std::optional<std::string>(engine_config&, const setting_value&)> assign;
  /// The value as TOML.
  std::function<std::string(const engine_config&)> show;
};

/// The one table of all settings, section by section.
const std::vector<setting>& settings();

}  // namespace troupe::config
