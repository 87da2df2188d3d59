#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace troupe::config {

constexpr auto model_config_file = "config.json";
constexpr auto preprocessor_config_file = "preprocessor_config.json";
constexpr auto video_preprocessor_config_file = "video_preprocessor_config.json";
constexpr auto generation_config_file = "generation_config.json";

/// The file `name` of a checkpoint folder. Throws config::error unless `name` is a plain file name,
/// the file exists and is a regular file, and its links, if any, end in the folder itself or in the
/// blobs folder of a hub cache that the folder is a snapshot of (`snapshots/<revision>/` next to
/// `blobs/`).
std::filesystem::path checkpoint_file(const std::filesystem::path& folder, std::string_view name);

/// Whether `folder` has an entry `name`, usable or not.
bool has_checkpoint_file(const std::filesystem::path& folder, std::string_view name);

/// The whole text of `checkpoint_file(folder, name)`. Throws config::error, also when it is longer
/// than `bytes_max`.
std::string read_checkpoint_file(const std::filesystem::path& folder, std::string_view name,
                                 int64_t bytes_max);

}  // namespace troupe::config
