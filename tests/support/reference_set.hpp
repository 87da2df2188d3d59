#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// The reference implementation's answers, as stored under tests/fixtures/ref-*.
namespace troupe::testing {

/// Bytes of a file; fails the process if it cannot be read.
std::string read_file(const std::filesystem::path& path);
/// tests/fixtures
std::filesystem::path fixtures();

struct reference_video {
  std::vector<std::string> frames;  // paths below fixtures()
  double fps = 0;
};

struct reference_case {
  std::string name;
  std::vector<std::pair<std::string, std::string>> messages;  // role, text with <image> or <video>
  std::vector<std::string> images;                            // paths below fixtures()
  std::optional<reference_video> video;
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t> generated_ids;
  std::string generated_text;
  std::vector<std::vector<int32_t>> position_ids;  // [3, prompt length], empty for text
  std::vector<std::array<int32_t, 3>> grid_thw;
};

struct reference_tensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

/// One of "ref-tiny", "ref-dense72", "ref-moe".
struct reference_set {
  explicit reference_set(const std::string& name);

  std::string name;
  std::vector<reference_case> cases;
  std::map<std::string, reference_tensor> tensors;  // "<case>.<stage>"
};

}  // namespace troupe::testing
