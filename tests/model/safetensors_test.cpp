#include "model/weights/safetensors.hpp"

#include "config/error.hpp"
#include "tests/support/safetensors_file.hpp"
#include "tests/support/temporary_folder.hpp"

#include <boost/test/unit_test.hpp>

#include <cstring>
#include <filesystem>
#include <functional>
#include <string>

namespace {

namespace fs = std::filesystem;
namespace model = troupe::model;
using troupe::testing::file_with_header;
using troupe::testing::safetensors_file;
using troupe::testing::temporary_folder;

std::vector<std::string> faults_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const troupe::config::error& fault) {
    return fault.faults();
  }
  return {};
}

std::vector<std::string> header_faults(const std::string& json, int64_t data_bytes) {
  return faults_of([&] { model::parse_safetensors_header(json, data_bytes, "w"); });
}

std::vector<std::string> folder_faults(const temporary_folder& folder) {
  return faults_of([&] { model::safetensors_folder opened(folder.path()); });
}

bool any_contains(const std::vector<std::string>& faults, const std::string& text) {
  return std::any_of(faults.begin(), faults.end(),
                     [&](const auto& fault) { return fault.find(text) != std::string::npos; });
}

/// A file of one bf16 vector per name, each as long as the name.
std::string file_of(const std::vector<std::string>& names) {
  safetensors_file file;
  for (const auto& name : names)
    file.add(name, "BF16", {static_cast<int64_t>(name.size())}, std::string(2 * name.size(), 'x'));
  return file.bytes();
}

constexpr auto index_name = "model.safetensors.index.json";

}  // namespace

BOOST_AUTO_TEST_SUITE(safetensors)

BOOST_AUTO_TEST_CASE(a_sound_header) {
  const auto entries = model::parse_safetensors_header(
      R"({"__metadata__":{"format":"pt"},
          "b":{"dtype":"F32","shape":[],"data_offsets":[12,16]},
          "a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},
          "none":{"dtype":"U8","shape":[0,5],"data_offsets":[12,12]}})",
      16, "w");
  BOOST_REQUIRE_EQUAL(entries.size(), 3u);
  BOOST_TEST(entries[0].name == "a");
  BOOST_TEST((entries[0].type == troupe::gpu::dtype::bf16));
  BOOST_TEST(entries[0].shape == (std::vector<int64_t>{2, 3}), boost::test_tools::per_element());
  BOOST_TEST(entries[1].name == "none");
  BOOST_TEST(entries[2].begin == 12);
}

BOOST_AUTO_TEST_CASE(broken_headers) {
  const std::string sound = R"("dtype":"BF16","shape":[2,3],"data_offsets":[0,12])";
  struct {
    std::string json;
    int64_t data_bytes;
    const char* fault;
  } const cases[] = {
      {"", 0, "w: no JSON found"},
      {"[]", 0, "the header is not an object"},
      {"{\"a\":{" + sound + "}", 12, "w: line 1"},
      {"{\"a\":{" + sound + "},\"a\":{" + sound + "}}", 12, "\"a\" twice"},
      {"{\"a\":" + std::string(200, '[') + std::string(200, ']') + "}", 12, "nested deeper"},
      {R"({"a":5})", 0, "tensor a: dtype is ''"},
      {R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}})", 4, "dtype is 'F16', expected"},
      {R"({"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}})", 4, "dtype is 'f32'"},
      {R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", 4, "dtype is ''"},
      {R"({"a":{"dtype":"BF16","data_offsets":[0,4]}})", 4, "shape is not a list"},
      {R"({"a":{"dtype":"BF16","shape":2,"data_offsets":[0,4]}})", 4, "shape is not a list"},
      {R"({"a":{"dtype":"BF16","shape":[-2],"data_offsets":[0,4]}})", 4, "shape is not a list"},
      {R"({"a":{"dtype":"BF16","shape":[2.0],"data_offsets":[0,4]}})", 4, "shape is not a list"},
      {R"({"a":{"dtype":"BF16","shape":[9223372036854775808],"data_offsets":[0,4]}})", 4,
       "shape is not a list"},
      {R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1,
       "at most 8 integers"},
      {R"({"a":{"dtype":"BF16","shape":[2]}})", 4, "data_offsets is not a list"},
      {R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[0]}})", 4,
       "expected a begin and an end"},
      {R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4,8]}})", 4, "at most 2 integers"},
      {R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[4,0]}})", 4,
       "expected a begin and an end"},
      {R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[-4,0]}})", 4,
       "data_offsets is not a list"},
      {R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,8]}})", 8, "hold 8 bytes, expected 4"},
      {R"({"a":{"dtype":"BF16","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       "more than 2^63 bytes"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0,
       "more than 2^63 bytes"},
      {R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4],"zip":1}})", 4,
       "has an unknown field 'zip'"},
      {R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]}})", 8, "begins at 4, expected 0"},
      {R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}})", 2,
       "tensors end at byte 4 of the data, the file at 2"},
      {R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}})", 6,
       "tensors end at byte 4 of the data, the file at 6"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
           "b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
       6, "tensor b: data begins at 2, expected 4"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
           "b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}})",
       9, "tensor b: data begins at 5, expected 4"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
           "b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       4, "tensor b: data begins at 0, expected 4"},
      {R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[9223372036854775807,9223372036854775807]}})",
       0, "begins at 9223372036854775807, expected 0"},
      {"{}", 1, "tensors end at byte 0 of the data, the file at 1"},
  };
  for (const auto& broken : cases) {
    const auto faults = header_faults(broken.json, broken.data_bytes);
    BOOST_TEST_CONTEXT(broken.json << " gave " << (faults.empty() ? "nothing" : faults[0]))
    BOOST_TEST(any_contains(faults, broken.fault), broken.fault);
  }
}

BOOST_AUTO_TEST_CASE(faults_come_together_and_stay_readable) {
  const auto two = header_faults(R"({"a":{"dtype":"X","shape":[1],"data_offsets":[0,1]},
                                     "b":{"dtype":"U8","shape":1,"data_offsets":[1,2]}})",
                                 2);
  BOOST_TEST(two.size() == 2u);
  std::string json = "{";
  for (int i = 0; i < 1000; ++i)
    json += "\"" + std::to_string(i) + R"(":{"dtype":"X","shape":[1],"data_offsets":[0,1]},)";
  json.back() = '}';
  const auto many = header_faults(json, 1);
  BOOST_TEST(many.size() == 101u);
  BOOST_TEST(many.back() == "and 900 more");
  const auto long_name = header_faults(
      "{\"" + std::string(100'000, 'n') + R"(":{"dtype":"X","shape":[1],"data_offsets":[0,1]}})",
      1);
  BOOST_TEST(long_name.at(0).size() < 400u);
}

BOOST_AUTO_TEST_CASE(broken_files) {
  const auto sound = file_of({"a", "bc"});
  const auto with_length = [&](uint64_t length) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    return bytes + sound.substr(8);
  };
  struct {
    std::string bytes;
    const char* fault;
  } const cases[] = {
      {"", "is empty"},
      {"short", "has 5 bytes, expected a safetensors file"},
      {with_length(0), "header length is 0, expected 1 to"},
      {with_length(uint64_t{1} << 63), "header length is 9223372036854775808, expected 1 to"},
      {with_length(UINT64_MAX), "header length is 18446744073709551615"},
      {with_length(sound.size() - 7), "header length is"},
      {with_length(sound.size() - 8), "model.safetensors: "},
      {with_length(1), "model.safetensors: "},
      {sound.substr(0, sound.size() - 1), "the file at 5"},
      {sound + "x", "the file at 7"},
      {"GGUF" + std::string(64, '\0'), "header length is"},
      {file_with_header(R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}})", "xy"),
       "the file at 2"},
  };
  for (const auto& broken : cases) {
    const temporary_folder folder;
    folder.write("model.safetensors", broken.bytes);
    const auto faults = folder_faults(folder);
    BOOST_TEST_CONTEXT((faults.empty() ? "nothing" : faults[0]))
    BOOST_TEST(any_contains(faults, broken.fault), broken.fault);
  }
}

BOOST_AUTO_TEST_CASE(every_cut_of_a_file_is_refused) {
  const auto sound = file_of({"a", "bc"});
  for (size_t size = 0; size < sound.size(); ++size) {
    const temporary_folder folder;
    folder.write("model.safetensors", sound.substr(0, size));
    BOOST_TEST(!folder_faults(folder).empty(), "cut at " << size);
  }
}

BOOST_AUTO_TEST_CASE(one_file) {
  safetensors_file file;
  file.add("matrix", "F32", {2, 3, 1}, std::string(24, 'm'));
  file.add("scalar", "I64", {}, std::string(8, 's'));
  const temporary_folder folder;
  folder.write("model.safetensors", file.bytes());
  model::safetensors_folder opened(folder.path());
  const model::safetensors_folder moved = std::move(opened);
  BOOST_TEST(moved.total_bytes() == 32);
  const auto& matrix = moved.tensors().at("matrix");
  BOOST_TEST(matrix.file == "model.safetensors");
  BOOST_TEST(matrix.bytes == 24);
  BOOST_TEST(std::string(reinterpret_cast<const char*>(matrix.data), 24) == std::string(24, 'm'));
  BOOST_TEST(matrix.view().rank == 2);
  BOOST_TEST(matrix.view().width() == 3);
  BOOST_TEST(moved.tensors().at("scalar").view().elements() == 1);
}

BOOST_AUTO_TEST_CASE(shards) {
  const temporary_folder folder;
  folder.write("s-1.safetensors", file_of({"a", "bc"}));
  folder.write("s-2.safetensors", file_of({"def"}));
  folder.write(index_name, R"({"metadata":{"total_size":12},
      "weight_map":{"a":"s-1.safetensors","bc":"s-1.safetensors","def":"s-2.safetensors"}})");
  const model::safetensors_folder opened(folder.path());
  BOOST_TEST(opened.tensors().size() == 3u);
  BOOST_TEST(opened.total_bytes() == 12);
  BOOST_TEST(opened.tensors().at("def").file == "s-2.safetensors");
}

BOOST_AUTO_TEST_CASE(broken_shards) {
  struct {
    const char *index, *fault;
  } const cases[] = {
      {"{}", "weight_map is missing or empty"},
      {R"({"weight_map":{}})", "weight_map is missing or empty"},
      {R"({"weight_map":[1]})", "weight_map is missing or empty"},
      {R"({"weight_map":{"a":5}})", "weight_map.a: expected the name of a .safetensors file"},
      {R"({"weight_map":{"a":"model.bin"}})", "weight_map.a: expected the name"},
      {R"({"weight_map":{"a":"../out.safetensors"}})",
       "'../out.safetensors' is not a plain file name"},
      {R"({"weight_map":{"a":"/tmp/out.safetensors"}})", "is not a plain file name"},
      {R"({"weight_map":{"a":"link.safetensors"}})", "is a link to"},
      {R"({"weight_map":{"a":"absent.safetensors"}})", "cannot be opened"},
      {R"({"weight_map":{"a":"s.safetensors"}})",
       "tensor bc: model.safetensors.index.json does not"},
      {R"({"weight_map":{"a":"s.safetensors","bc":"s.safetensors","z":"s.safetensors"}})",
       "tensor z: is missing"},
      {R"({"weight_map":{"a":"s.safetensors","bc":"s.safetensors","a2":"t.safetensors"}})",
       "tensor a: model.safetensors.index.json does not expect it here"},
  };
  const temporary_folder outside;
  outside.write("out.safetensors", file_of({"a"}));
  for (const auto& broken : cases) {
    const temporary_folder folder;
    folder.write("s.safetensors", file_of({"a", "bc"}));
    folder.write("t.safetensors", file_of({"a", "a2"}));
    fs::create_symlink(outside.path() / "out.safetensors", folder.path() / "link.safetensors");
    folder.write(index_name, broken.index);
    const auto faults = folder_faults(folder);
    BOOST_TEST_CONTEXT(broken.index << " gave " << (faults.empty() ? "nothing" : faults[0]))
    BOOST_TEST(any_contains(faults, broken.fault), broken.fault);
  }
}

BOOST_AUTO_TEST_CASE(folders_without_weights) {
  const temporary_folder folder;
  folder.write("pytorch_model.bin", "pickled code");
  BOOST_TEST(any_contains(folder_faults(folder), "has neither model.safetensors nor"));
}

BOOST_AUTO_TEST_SUITE_END()
