#include "config/error.hpp"
#include "fuzz/fuzz_input.hpp"
#include "model/weights/safetensors.hpp"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <vector>

using namespace troupe;

namespace {

void check(const std::vector<model::header_entry>& entries, int64_t data_bytes) {
  int64_t end = 0;
  std::set<std::string> names;
  for (const auto& entry : entries) {
    fuzz::expect(entry.begin == end && entry.end >= entry.begin,
                 "tensors follow each other without gaps");
    fuzz::expect(names.insert(entry.name).second, "names are unique");
    __int128 elements = std::ranges::count(entry.shape, 0) > 0 ? 0 : 1;
    for (const int64_t size : entry.shape) {
      fuzz::expect(size >= 0, "sizes are not negative");
      elements *= size;
      fuzz::expect(elements <= data_bytes, "elements fit the data");
    }
    fuzz::expect(elements * gpu::size_of(entry.type) == entry.end - entry.begin,
                 "shape and range agree");
    end = entry.end;
  }
  fuzz::expect(end == data_bytes, "the tensors cover the data");
}

}  // namespace

/// The size of the data is the first 8 bytes, the header the rest.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  int64_t data_bytes = 0;
  if (size < sizeof data_bytes) return 0;
  std::memcpy(&data_bytes, data, sizeof data_bytes);
  if (data_bytes < 0) return 0;
  const auto json = fuzz::as_text(data, size).substr(sizeof data_bytes);
  try {
    check(model::parse_safetensors_header(json, data_bytes, "input"), data_bytes);
  } catch (const config::error&) {
  }
  return 0;
}
