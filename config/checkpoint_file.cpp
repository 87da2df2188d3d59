#include "config/checkpoint_file.hpp"

#include "config/error.hpp"

#include <fmt/format.h>

#include <fstream>
#include <system_error>

namespace troupe::config {

namespace fs = std::filesystem;

namespace {

bool is_plain_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

/// The only folder outside a checkpoint that its links may lead to; empty if it is no hub snapshot.
fs::path hub_blobs_folder(const fs::path& folder) {
  if (folder.parent_path().filename() != "snapshots") return {};
  return folder.parent_path().parent_path() / "blobs";
}

}  // namespace

fs::path checkpoint_file(const fs::path& folder, std::string_view name) {
  if (!is_plain_name(name))
    throw error(fmt::format("{}: '{}' is not a plain file name", folder.string(), name));
  const auto path = folder / name;
  std::error_code code;
  const auto target = fs::canonical(path, code);
  if (code) throw error(fmt::format("{}: cannot be opened ({})", path.string(), code.message()));
  const auto home = fs::canonical(folder);
  if (target.parent_path() != home && target.parent_path() != hub_blobs_folder(home))
    throw error(fmt::format("{}: is a link to {}, expected a file in the checkpoint folder",
                            path.string(), target.string()));
  if (!fs::is_regular_file(target, code))
    throw error(fmt::format("{}: is not a regular file", path.string()));
  return target;
}

bool has_checkpoint_file(const fs::path& folder, std::string_view name) {
  std::error_code code;
  return fs::symlink_status(folder / name, code).type() != fs::file_type::not_found;
}

std::string read_checkpoint_file(const fs::path& folder, std::string_view name, int64_t bytes_max) {
  const auto path = checkpoint_file(folder, name);
  const auto shown = (folder / name).string();
  const auto bytes = static_cast<int64_t>(fs::file_size(path));
  if (bytes > bytes_max)
    throw error(fmt::format("{}: has {} bytes, expected at most {}", shown, bytes, bytes_max));
  std::ifstream file(path, std::ios::binary);
  std::string text(static_cast<size_t>(bytes), '\0');
  if (!file.read(text.data(), bytes)) throw error(fmt::format("{}: cannot be read", shown));
  return text;
}

}  // namespace troupe::config
