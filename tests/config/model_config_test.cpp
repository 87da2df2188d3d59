#include "config/model_config.hpp"

#include "config/checkpoint_file.hpp"
#include "config/error.hpp"
#include "tests/support/temporary_folder.hpp"

#include <boost/test/unit_test.hpp>

#include <filesystem>
#include <functional>
#include <string>

namespace {

namespace fs = std::filesystem;
namespace config = troupe::config;
using troupe::testing::temporary_folder;

const fs::path fixtures = TROUPE_FIXTURES;

std::string fixture_text(const char* model, const char* file) {
  return config::read_checkpoint_file(fixtures / model, file, 1 << 20);
}

/// `text` with the first `from` replaced by `to`; the fixture must contain it.
std::string edited(std::string text, const std::string& from, const std::string& to) {
  const auto place = text.find(from);
  BOOST_REQUIRE_MESSAGE(place != std::string::npos, "fixture lacks " << from);
  return text.replace(place, from.size(), to);
}

std::vector<std::string> faults_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const config::error& fault) {
    return fault.faults();
  }
  return {};
}

std::vector<std::string> config_faults(const std::string& json) {
  return faults_of([&] { config::parse_model_config(json, "config.json"); });
}

bool any_contains(const std::vector<std::string>& faults, const std::string& text) {
  for (const auto& fault : faults)
    if (fault.find(text) != std::string::npos) return true;
  return false;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(model_config)

BOOST_AUTO_TEST_CASE(the_bundled_checkpoint) {
  const auto checkpoint = config::read_checkpoint_config(fixtures / "tiny");
  const auto& text = checkpoint.model.text;
  BOOST_TEST(text.hidden_size == 128);
  BOOST_TEST(text.num_hidden_layers == 6);
  BOOST_TEST(text.q_width() == 512);
  BOOST_TEST(text.kv_width() == 256);
  BOOST_TEST(text.rope.rope_theta == 5e6);
  BOOST_TEST(text.rope.mrope_section == (std::array{24, 20, 20}), boost::test_tools::per_element());
  BOOST_TEST(!text.rope.yarn);
  BOOST_TEST(!text.experts.sparse(0));
  BOOST_TEST(checkpoint.model.vision.patch_width() == 1536);
  BOOST_TEST(checkpoint.model.tie_word_embeddings);
  BOOST_TEST(checkpoint.preprocessor.image_min_pixels == 9216);
  BOOST_TEST(checkpoint.preprocessor.video_max_pixels == 524288);
  BOOST_TEST(checkpoint.preprocessor.video_max_frames == 32);
  BOOST_TEST(checkpoint.preprocessor.factor() == 32);
  BOOST_TEST(checkpoint.generation.eos_token_ids == (std::vector{550, 548}),
             boost::test_tools::per_element());
  BOOST_TEST(!checkpoint.generation.temperature.has_value());
}

BOOST_AUTO_TEST_CASE(the_tiny_shape_is_the_bundled_checkpoint) {
  const auto checkpoint = config::read_checkpoint_config(fixtures / "tiny");
  BOOST_TEST((checkpoint.model == config::named_model_config("tiny")));
}

BOOST_AUTO_TEST_CASE(top_level_tie_decides) {
  // Both files say something else in text_config, or nothing.
  BOOST_TEST(!config::read_checkpoint_config(fixtures / "moe").model.tie_word_embeddings);
  BOOST_TEST(!config::read_checkpoint_config(fixtures / "dense72").model.tie_word_embeddings);
}

BOOST_AUTO_TEST_CASE(mixture_of_experts) {
  auto experts = config::read_checkpoint_config(fixtures / "moe").model.text.experts;
  BOOST_TEST(experts.num_experts == 8);
  BOOST_TEST(experts.num_experts_per_tok == 2);
  BOOST_TEST(experts.moe_intermediate_size == 64);
  BOOST_TEST(experts.sparse(0));
  experts.decoder_sparse_step = 2;
  experts.mlp_only_layers = {3};
  BOOST_TEST(!experts.sparse(0));
  BOOST_TEST(experts.sparse(1));
  BOOST_TEST(!experts.sparse(3));
  const auto renamed =
      edited(fixture_text("moe", "config.json"), "num_local_experts", "num_experts");
  BOOST_TEST((config::parse_model_config(renamed, "").text.experts.num_experts == 8));
}

BOOST_AUTO_TEST_CASE(rope_layout_of_transformers_4) {
  const auto json = edited(fixture_text("tiny", "config.json"), "\"rope_parameters\": {",
                           R"("rope_theta": 1000000, "rope_scaling": {"type": "mrope", "x": {)"
                           R"("a": 1}, )");
  const auto removed = edited(json, "\"rope_theta\": 5000000.0,", "");
  const auto model =
      config::parse_model_config(edited(removed, "\"rope_type\": \"default\"", "\"y\": 1"), "");
  BOOST_TEST(model.text.rope.rope_theta == 1e6);
  BOOST_TEST(model.text.rope.mrope_section[0] == 24);
}

BOOST_AUTO_TEST_CASE(yarn) {
  const auto json =
      edited(fixture_text("tiny", "config.json"), "\"rope_type\": \"default\"",
             R"("rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 262144)");
  const auto rope = config::parse_model_config(json, "").text.rope;
  BOOST_TEST(rope.yarn);
  BOOST_TEST(rope.yarn_factor == 3.0);
  BOOST_TEST(rope.original_max_position_embeddings == 262144);
}

BOOST_AUTO_TEST_CASE(every_missing_field_is_named) {
  const auto faults =
      config_faults(R"({"model_type":"qwen3_vl_moe","text_config":{},"vision_config":{}})");
  for (const auto* field : {"image_token_id",
                            "video_token_id",
                            "vision_start_token_id",
                            "vision_end_token_id",
                            "tie_word_embeddings",
                            "text_config.hidden_size",
                            "text_config.num_hidden_layers",
                            "text_config.num_attention_heads",
                            "text_config.num_key_value_heads",
                            "text_config.head_dim",
                            "text_config.intermediate_size",
                            "text_config.vocab_size",
                            "text_config.max_position_embeddings",
                            "text_config.rms_norm_eps",
                            "text_config.rope_theta",
                            "text_config.rope_parameters",
                            "text_config.num_local_experts",
                            "text_config.num_experts_per_tok",
                            "text_config.moe_intermediate_size",
                            "vision_config.depth",
                            "vision_config.hidden_size",
                            "vision_config.intermediate_size",
                            "vision_config.num_heads",
                            "vision_config.in_channels",
                            "vision_config.patch_size",
                            "vision_config.temporal_patch_size",
                            "vision_config.spatial_merge_size",
                            "vision_config.out_hidden_size",
                            "vision_config.num_position_embeddings",
                            "vision_config.deepstack_visual_indexes"})
    BOOST_TEST(any_contains(faults, std::string("config.json: ") + field + ": is missing"), field);
  BOOST_TEST(faults.size() == 30u);
}

BOOST_AUTO_TEST_CASE(impossible_fields_are_named) {
  const auto tiny = fixture_text("tiny", "config.json");
  struct {
    const char *from, *to, *fault;
  } const cases[] = {
      {"\"head_dim\": 128", "\"head_dim\": \"128\"",
       "text_config.head_dim: found \"128\", expected an integer from 2 to 1024"},
      {"\"head_dim\": 128", "\"head_dim\": 128.5", "text_config.head_dim: found 128.5"},
      {"\"head_dim\": 128", "\"head_dim\": 125",
       "text_config.head_dim: found 125, expected an even"},
      {"\"vocab_size\": 640", "\"vocab_size\": -1", "text_config.vocab_size: found -1"},
      {"\"vocab_size\": 640", "\"vocab_size\": 3000000000",
       "text_config.vocab_size: found 3000000000"},
      {"\"vocab_size\": 640", "\"vocab_size\": 500", "not distinct and below vocab_size = 500"},
      {"\"video_token_id\": 561", "\"video_token_id\": 560", "not distinct"},
      {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3",
       "text_config.num_attention_heads: found 4, expected a multiple"},
      {"\"mrope_interleaved\": true", "\"mrope_interleaved\": false",
       "mrope_interleaved: found false, expected true"},
      {"        24,", "        25,", "mrope_section: found [25, 20, 20]"},
      {"        24,", "", "mrope_section: found 2 numbers, expected 3"},
      {"\"rope_type\": \"default\"", "\"rope_type\": \"linear\"", "rope_type: found \"linear\""},
      {"\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"",
       "text_config.hidden_act: found \"gelu\""},
      {"\"attention_bias\": false", "\"attention_bias\": true",
       "text_config.attention_bias: found true"},
      {"\"qwen3_vl\"", "\"qwen2_vl\"", "model_type: found \"qwen2_vl\""},
      {"\"num_heads\": 2", "\"num_heads\": 3", "vision_config.num_heads: found 3"},
      {"\"num_position_embeddings\": 256", "\"num_position_embeddings\": 255", "a square number"},
      {"\"out_hidden_size\": 128", "\"out_hidden_size\": 64",
       "vision_config.out_hidden_size: found 64"},
      {"      1,", "      2,", "deepstack_visual_indexes: found [2, 2, 4]"},
      {"      4\n", "      6\n", "deepstack_visual_indexes: found [1, 2, 6]"},
      {"\"in_channels\": 3", "\"in_channels\": 4", "vision_config.in_channels: found 4"},
      {"\"text_config\": {", "\"text_config\": 5, \"x\": {",
       "text_config: found 5, expected an object"},
      {"\"dtype\"", "\"quantization_config\": {}, \"dtype\"", "quantization_config: quantised"},
  };
  for (const auto& broken : cases) {
    const auto faults = config_faults(edited(tiny, broken.from, broken.to));
    BOOST_TEST_CONTEXT(broken.to << " gave " << (faults.empty() ? "nothing" : faults[0]))
    BOOST_TEST(any_contains(faults, broken.fault), broken.fault);
  }
}

BOOST_AUTO_TEST_CASE(text_that_is_not_json) {
  BOOST_TEST(any_contains(config_faults("{"), "config.json: line 1"));
  BOOST_TEST(any_contains(config_faults("[]"), "config.json: the text: found a list"));
}

BOOST_AUTO_TEST_CASE(processor_without_a_video_file) {
  const auto image = fixture_text("tiny", "preprocessor_config.json");
  const auto processor = config::parse_preprocessor_config(image, "", "");
  BOOST_TEST(processor.video_min_pixels == 131072);
  BOOST_TEST(processor.video_max_pixels == 786432);
  BOOST_TEST(processor.video_max_frames == 768);
}

BOOST_AUTO_TEST_CASE(processor_faults_of_both_files) {
  const auto image =
      edited(fixture_text("tiny", "preprocessor_config.json"), "\"patch_size\": 16,", "");
  const auto video = edited(fixture_text("tiny", "video_preprocessor_config.json"),
                            "\"shortest_edge\": 4096", "\"shortest_edge\": 4096000");
  const auto faults =
      faults_of([&] { config::parse_preprocessor_config(image, video, "folder/"); });
  BOOST_TEST(any_contains(faults, "folder/preprocessor_config.json: patch_size: is missing"));
  BOOST_TEST(any_contains(
      faults,
      "folder/video_preprocessor_config.json: size.longest_edge: found 524288, expected at least"));
}

BOOST_AUTO_TEST_CASE(processor_steps_we_do_not_do) {
  const auto text = fixture_text("tiny", "preprocessor_config.json");
  for (const auto* step : {"\"do_resize\": false,", "\"resample\": 2,", "\"rescale_factor\": 0.5,",
                           "\"do_normalize\": false,"})
    BOOST_TEST(!faults_of([&] {
                  config::parse_preprocessor_config(
                      edited(text, "\"merge_size\"", std::string(step) + "\"merge_size\""), "", "");
                }).empty(),
               step);
  const auto spelt_out = edited(text, "\"merge_size\"",
                                R"("do_resize": true, "resample": 3, "do_pad": null,
                                   "rescale_factor": 0.00392156862745098, "merge_size")");
  BOOST_CHECK_NO_THROW(config::parse_preprocessor_config(spelt_out, "", ""));
}

BOOST_AUTO_TEST_CASE(generation_settings) {
  const auto generation = config::parse_generation_config(
      R"({"eos_token_id": 7, "do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20})",
      "");
  BOOST_TEST(generation.eos_token_ids == std::vector{7}, boost::test_tools::per_element());
  BOOST_TEST(generation.do_sample);
  BOOST_TEST(generation.temperature.value() == 0.7F);
  BOOST_TEST(generation.top_k.value() == 20);
  BOOST_TEST(!generation.repetition_penalty.has_value());
  BOOST_TEST(any_contains(faults_of([] { config::parse_generation_config("{}", "g.json"); }),
                          "g.json: eos_token_id: is missing"));
  BOOST_TEST(any_contains(faults_of([] {
                            config::parse_generation_config(R"({"eos_token_id": [1], "top_p": 0})",
                                                            "");
                          }),
                          "top_p: found 0"));
}

BOOST_AUTO_TEST_CASE(a_folder_with_faults_in_every_file) {
  const temporary_folder folder;
  for (const auto* file : {"config.json", "preprocessor_config.json", "generation_config.json"})
    folder.write(file, "{}");
  const auto faults = faults_of([&] { config::read_checkpoint_config(folder.path()); });
  for (const auto* file :
       {"/config.json: ", "/preprocessor_config.json: ", "/generation_config.json: "})
    BOOST_TEST(any_contains(faults, file), file);
  BOOST_TEST(any_contains(faults_of([] { config::read_checkpoint_config("/nonexistent"); }),
                          "is not a folder"));
}

BOOST_AUTO_TEST_CASE(files_that_must_agree) {
  const temporary_folder folder;
  for (const auto* file : {"config.json", "preprocessor_config.json", "generation_config.json"})
    folder.write(file, fixture_text("tiny", file));
  BOOST_CHECK_NO_THROW(config::read_checkpoint_config(folder.path()));
  folder.write("preprocessor_config.json", edited(fixture_text("tiny", "preprocessor_config.json"),
                                                  "\"merge_size\": 2", "\"merge_size\": 4"));
  folder.write("generation_config.json", R"({"eos_token_id": [640]})");
  const auto faults = faults_of([&] { config::read_checkpoint_config(folder.path()); });
  BOOST_TEST(any_contains(faults, "merge_size: found 4, expected 2 as in config.json"));
  BOOST_TEST(any_contains(faults, "eos_token_id: found 640, expected less than vocab_size = 640"));
}

BOOST_AUTO_TEST_CASE(checkpoint_files_stay_in_their_folder) {
  const temporary_folder root;
  root.write("outside.json", "{}");
  fs::create_directories(root.path() / "snapshots" / "abc");
  fs::create_directories(root.path() / "blobs");
  const auto folder = root.path() / "snapshots" / "abc";
  root.write("blobs/0123", "from the hub");
  root.write("snapshots/abc/plain.json", "plain");
  fs::create_symlink("../../blobs/0123", folder / "hub.json");
  fs::create_symlink("../../outside.json", folder / "escape.json");
  fs::create_directory(folder / "folder.json");

  const auto read = [&](const char* name, int64_t bytes_max) {
    return config::read_checkpoint_file(folder, name, bytes_max);
  };
  BOOST_TEST(read("plain.json", 5) == "plain");
  BOOST_TEST(read("hub.json", 100) == "from the hub");
  for (const auto* name :
       {"escape.json", "folder.json", "absent.json", "../../outside.json", "..", "", "/etc/passwd"})
    BOOST_CHECK_THROW(read(name, 100), config::error);
  BOOST_TEST(
      any_contains(faults_of([&] { read("plain.json", 4); }), "has 5 bytes, expected at most 4"));
  BOOST_TEST(config::has_checkpoint_file(folder, "plain.json"));
  BOOST_TEST(!config::has_checkpoint_file(folder, "absent.json"));
}

BOOST_AUTO_TEST_CASE(named_shapes) {
  for (const auto* name : {"tiny", "2b", "4b", "8b", "32b", "30b-a3b", "235b-a22b"}) {
    const auto model = config::named_model_config(name);
    BOOST_TEST(model.vision.out_hidden_size == model.text.hidden_size, name);
    BOOST_TEST(model.vision.num_deepstack_levels() == 3, name);
  }
  BOOST_TEST(any_contains(faults_of([] { config::named_model_config("7b"); }),
                          "'7b' is unknown, expected one of tiny, 2b"));
}

BOOST_AUTO_TEST_CASE(tensor_parallel_sizes) {
  const auto sizes_of = [](const config::model_config& model) {
    std::vector<int32_t> sizes;
    for (int32_t size = 1; size <= 128; ++size)
      if (config::tensor_parallel_faults(model, size).empty()) sizes.push_back(size);
    return sizes;
  };
  const auto check = [&](const char* name, const std::vector<int32_t>& expected) {
    BOOST_TEST_CONTEXT(name)
    BOOST_TEST(sizes_of(config::named_model_config(name)) == expected,
               boost::test_tools::per_element());
  };
  check("tiny", {1, 2, 4});
  check("2b", {1, 2, 4, 8, 16});
  check("8b", {1, 2, 4, 8, 16, 32});
  check("32b", {1, 2, 4, 8, 16, 32, 64});
  check("30b-a3b", {1, 2, 4, 8, 16, 32});
  const auto six_heads = config::read_checkpoint_config(fixtures / "dense72").model;
  const auto faults = config::tensor_parallel_faults(six_heads, 4);
  BOOST_TEST(
      any_contains(faults, "tensor parallel size 4 does not divide num_attention_heads = 6"));
  BOOST_TEST(!config::tensor_parallel_faults(six_heads, 0).empty());
}

BOOST_AUTO_TEST_SUITE_END()
