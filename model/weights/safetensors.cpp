#include "model/weights/safetensors.hpp"

#include "config/checkpoint_file.hpp"
#include "config/ensure.hpp"
#include "config/error.hpp"
#include "config/json_fields.hpp"
#include "model/weights/mapped_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

namespace troupe::model {

namespace {

// A released header has 92 KB; one tensor per expert of the largest model makes it 6 MB. What we
// build from a header stays within a small multiple of it.
constexpr int64_t header_bytes_max = int64_t{32} << 20;
constexpr int64_t index_bytes_max = int64_t{32} << 20;
constexpr size_t rank_max = 8;
constexpr int64_t length_field_bytes = 8;

constexpr auto single_file = "model.safetensors";
constexpr auto index_file = "model.safetensors.index.json";

struct named_dtype {
  std::string_view name;
  gpu::dtype type;
};
constexpr named_dtype dtypes[] = {{"BF16", gpu::dtype::bf16},
                                  {"F32", gpu::dtype::f32},
                                  {"I32", gpu::dtype::i32},
                                  {"I64", gpu::dtype::i64},
                                  {"U8", gpu::dtype::u8}};

std::optional<gpu::dtype> dtype_named(std::string_view name) {
  for (const auto& known : dtypes)
    if (known.name == name) return known.type;
  return std::nullopt;
}

/// The header of one file while it is checked: entries so far, faults so far.
struct header_reader {
  const std::string& origin;
  std::vector<std::string> faults;

  template <class... Args>
  void fail(std::string_view tensor, fmt::format_string<Args...> text, Args&&... args) {
    faults.push_back(fmt::format("{}: tensor {:.200}: {}", origin, tensor,
                                 fmt::format(text, std::forward<Args>(args)...)));
  }

  /// Integers from 0 up, at most `count_max` of them.
  std::optional<std::vector<int64_t>> read_counts(std::string_view tensor, std::string_view key,
                                                  const config::json_value& entry,
                                                  size_t count_max) {
    const auto list = entry.find(key);
    const bool sound = list && list->type() == config::json_value::kind::array;
    const auto elements = sound ? list->elements() : std::vector<config::json_value>();
    std::vector<int64_t> counts;
    for (const auto& element : elements)
      if (element.type() == config::json_value::kind::integer &&
          element.integer().value_or(-1) >= 0)
        counts.push_back(*element.integer());
    if (sound && counts.size() == elements.size() && counts.size() <= count_max) return counts;
    fail(tensor, "{} is not a list of at most {} integers from 0 to 2^63 - 1", key, count_max);
    return std::nullopt;
  }

  std::optional<gpu::dtype> read_dtype(std::string_view tensor, const config::json_value& entry) {
    const auto value = entry.find("dtype");
    const auto name = value ? value->string().value_or("") : "";
    const auto type = dtype_named(name);
    if (!type) fail(tensor, "dtype is '{:.16}', expected BF16, F32, I32, I64 or U8", name);
    return type;
  }

  /// shape times dtype must be the range's length, whatever the product overflows to.
  void check_bytes(const header_entry& entry) {
    int64_t expected = gpu::size_of(entry.type);
    bool overflow = false;
    for (const auto dimension : entry.shape)
      overflow |= __builtin_mul_overflow(expected, dimension, &expected);
    if (overflow)
      fail(entry.name, "shape {} has more than 2^63 bytes", entry.shape);
    else if (entry.end - entry.begin != expected)
      fail(entry.name, "data_offsets {} to {} hold {} bytes, expected {} for shape {}", entry.begin,
           entry.end, entry.end - entry.begin, expected, entry.shape);
  }

  std::optional<header_entry> read_entry(std::string_view name, const config::json_value& value) {
    for (const auto& [key, unused] : value.members())
      if (key != "dtype" && key != "shape" && key != "data_offsets")
        fail(name, "has an unknown field '{:.32}'", key);
    const auto type = read_dtype(name, value);
    const auto shape = read_counts(name, "shape", value, rank_max);
    const auto offsets = read_counts(name, "data_offsets", value, 2);
    if (!type || !shape || !offsets) return std::nullopt;
    if (offsets->size() != 2 || (*offsets)[0] > (*offsets)[1]) {
      fail(name, "data_offsets are {}, expected a begin and an end after it", *offsets);
      return std::nullopt;
    }
    header_entry entry{std::string(name), *type, *shape, (*offsets)[0], (*offsets)[1]};
    check_bytes(entry);
    return entry;
  }

  /// The ranges follow each other from the first to the last byte of the data.
  void check_coverage(const std::vector<header_entry>& by_offset, int64_t data_bytes) {
    int64_t covered = 0;
    for (const auto& entry : by_offset) {
      if (entry.begin != covered)
        fail(entry.name, "data begins at {}, expected {} where the tensor before it ends",
             entry.begin, covered);
      covered = entry.end;
    }
    if (covered != data_bytes)
      faults.push_back(fmt::format("{}: tensors end at byte {} of the data, the file at {}", origin,
                                   covered, data_bytes));
  }
};

void sort_by_offset(std::vector<header_entry>& entries) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
}

/// The length in the first bytes, checked against the file it must fit.
int64_t header_bytes_of(const mapped_file& file, const std::string& origin) {
  if (file.bytes() < length_field_bytes)
    throw config::error(
        fmt::format("{}: has {} bytes, expected a safetensors file", origin, file.bytes()));
  read_ahead(file.data(), length_field_bytes);
  uint64_t length = 0;
  std::memcpy(&length, file.data(), length_field_bytes);
  const auto available = std::min(file.bytes() - length_field_bytes, header_bytes_max);
  if (length == 0 || length > static_cast<uint64_t>(available))
    throw config::error(
        fmt::format("{}: header length is {}, expected 1 to {}", origin, length, available));
  return static_cast<int64_t>(length);
}

using shard_map = std::map<std::string, std::vector<std::string>, std::less<>>;

/// Shard file -> the tensors that the index expects in it.
shard_map read_index(const std::filesystem::path& folder) {
  const auto origin = (folder / index_file).string();
  const auto index = config::parse_json_file(
      config::read_checkpoint_file(folder, index_file, index_bytes_max), origin);
  const auto weight_map = index.find("weight_map");
  if (!weight_map || weight_map->members().empty())
    throw config::error(fmt::format("{}: weight_map is missing or empty", origin));
  std::vector<std::string> faults;
  shard_map shards;
  for (const auto& [tensor, file] : weight_map->members()) {
    const auto name = std::string(file.string().value_or(""));
    if (name.ends_with(".safetensors"))
      shards[name].emplace_back(tensor);
    else
      faults.push_back(fmt::format(
          "{}: weight_map.{:.200}: expected the name of a .safetensors file", origin, tensor));
  }
  config::throw_if_any(std::move(faults));
  return shards;
}

}  // namespace

gpu::tensor_view stored_tensor::view() const {
  auto* bytes_of_view = const_cast<std::byte*>(data);
  const int64_t first = shape.empty() ? 1 : shape[0];
  if (shape.size() <= 1) return gpu::make_view(bytes_of_view, type, first);
  int64_t joined = 1;
  for (size_t i = 1; i < shape.size(); ++i) joined *= shape[i];
  return gpu::make_view(bytes_of_view, type, first, joined);
}

std::vector<header_entry> parse_safetensors_header(std::string_view json, int64_t data_bytes,
                                                   const std::string& origin) {
  header_reader reader{origin, {}};
  std::vector<header_entry> entries;
  const auto header = config::parse_json_file(json, origin);
  if (header.type() != config::json_value::kind::object)
    throw config::error(fmt::format("{}: the header is not an object", origin));
  for (const auto& [name, value] : header.members()) {
    if (name == "__metadata__") continue;
    if (auto entry = reader.read_entry(name, value)) entries.push_back(std::move(*entry));
  }
  config::throw_if_any(std::move(reader.faults));
  sort_by_offset(entries);
  reader.faults.clear();
  reader.check_coverage(entries, data_bytes);
  config::throw_if_any(std::move(reader.faults));
  return entries;
}

struct safetensors_folder::state {
  std::vector<mapped_file> files;
  std::map<std::string, stored_tensor, std::less<>> tensors;
  int64_t total_bytes = 0;

  /// Maps one file and adds its tensors. `expected` are the names that the index puts there.
  void add_file(const std::filesystem::path& folder, const std::string& name,
                const std::vector<std::string>* expected) {
    const auto origin = (folder / name).string();
    mapped_file file(config::checkpoint_file(folder, name));
    const auto header_bytes = header_bytes_of(file, origin);
    read_ahead(file.data(), length_field_bytes + header_bytes);
    const auto* data = file.data() + length_field_bytes + header_bytes;
    const std::string_view json(reinterpret_cast<const char*>(file.data() + length_field_bytes),
                                static_cast<size_t>(header_bytes));
    const auto data_bytes = file.bytes() - length_field_bytes - header_bytes;
    const auto entries = parse_safetensors_header(json, data_bytes, origin);
    if (expected) check_shard(entries, *expected, origin);
    for (const auto& entry : entries)
      tensors[entry.name] = {
          entry.name, entry.type, entry.shape, data + entry.begin, entry.end - entry.begin, name};
    total_bytes += data_bytes;
    files.push_back(std::move(file));
  }

  /// A shard holds the tensors that the index says, no more and no less: then no name is in two
  /// shards.
  static void check_shard(const std::vector<header_entry>& entries,
                          const std::vector<std::string>& expected, const std::string& origin) {
    std::set<std::string_view> remaining(expected.begin(), expected.end());
    std::vector<std::string> faults;
    for (const auto& entry : entries)
      if (remaining.erase(entry.name) == 0)
        faults.push_back(fmt::format("{}: tensor {}: {} does not expect it here", origin,
                                     entry.name, index_file));
    for (const auto name : remaining)
      faults.push_back(
          fmt::format("{}: tensor {}: is missing, {} expects it here", origin, name, index_file));
    config::throw_if_any(std::move(faults));
  }
};

safetensors_folder::safetensors_folder(const std::filesystem::path& folder)
    : state_(std::make_unique<state>()) {
  if (config::has_checkpoint_file(folder, single_file)) {
    state_->add_file(folder, single_file, nullptr);
    return;
  }
  if (!config::has_checkpoint_file(folder, index_file))
    throw config::error(
        fmt::format("{}: has neither {} nor {}", folder.string(), single_file, index_file));
  std::vector<std::string> faults;
  for (const auto& [name, expected] : read_index(folder)) {
    try {
      state_->add_file(folder, name, &expected);
    } catch (const config::error& fault) {
      faults.insert(faults.end(), fault.faults().begin(), fault.faults().end());
    }
  }
  config::throw_if_any(std::move(faults));
}

safetensors_folder::~safetensors_folder() = default;
safetensors_folder::safetensors_folder(safetensors_folder&&) noexcept = default;

const std::map<std::string, stored_tensor, std::less<>>& safetensors_folder::tensors() const {
  return state_->tensors;
}

int64_t safetensors_folder::total_bytes() const {
  return state_->total_bytes;
}

void safetensors_folder::read(const std::byte* first, int64_t bytes, std::byte* target) const {
  const auto file = std::find_if(state_->files.begin(), state_->files.end(),
                                 [&](const mapped_file& mapped) { return mapped.holds(first); });
  config::ensure(file != state_->files.end(), "{} bytes that lie in no file of the checkpoint", bytes);
  file->read(first, bytes, target);
}

}  // namespace troupe::model
