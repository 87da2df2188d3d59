#include "model/weights/model_weights.hpp"

#include "config/error.hpp"
#include "gpu/bfloat16.hpp"
#include "model/weights/mapped_file.hpp"
#include "model/weights/weight_layout.hpp"
#include "tests/support/safetensors_file.hpp"
#include "tests/support/temporary_folder.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>
#include <string>

namespace {

namespace fs = std::filesystem;
namespace config = troupe::config;
namespace gpu = troupe::gpu;
namespace model = troupe::model;
using troupe::testing::safetensors_file;
using troupe::testing::temporary_folder;

const fs::path fixtures = TROUPE_FIXTURES;
const model::load_progress no_progress;

config::model_config config_of(const char* fixture) {
  return config::read_checkpoint_config(fixtures / fixture).model;
}

using folder_pointer = std::shared_ptr<const model::safetensors_folder>;

folder_pointer open_folder(const fs::path& path) {
  return std::make_shared<const model::safetensors_folder>(path);
}

/// A checkpoint's tensors as a test may change them.
struct raw_tensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};
using raw_tensors = std::map<std::string, raw_tensor>;

raw_tensors read_fixture(const char* name) {
  raw_tensors result;
  const auto folder = open_folder(fixtures / name);
  for (const auto& [key, tensor] : folder->tensors())
    result[key] = {
        "BF16", tensor.shape,
        std::string(reinterpret_cast<const char*>(tensor.data), static_cast<size_t>(tensor.bytes))};
  return result;
}

folder_pointer open_tensors(const temporary_folder& folder, const raw_tensors& tensors,
                            size_t misalignment = 0) {
  safetensors_file file;
  for (const auto& [name, tensor] : tensors)
    file.add(name, tensor.dtype, tensor.shape, tensor.bytes);
  folder.write("model.safetensors", file.bytes(misalignment));
  return open_folder(folder.path());
}

std::vector<std::string> faults_of(const raw_tensors& tensors, const config::model_config& config) {
  const temporary_folder folder;
  const auto opened = open_tensors(folder, tensors);
  try {
    model::check_tensors(*opened, config);
  } catch (const config::error& fault) {
    return fault.faults();
  }
  return {};
}

bool any_contains(const std::vector<std::string>& faults, const std::string& text) {
  return std::any_of(faults.begin(), faults.end(),
                     [&](const auto& fault) { return fault.find(text) != std::string::npos; });
}

/// The matrices [rows, columns] of `bytes`, each transposed.
std::string transposed(const std::string& bytes, int64_t matrices, int64_t rows, int64_t columns) {
  std::string result(bytes.size(), '\0');
  constexpr int64_t size = 2;
  for (int64_t m = 0; m < matrices; ++m)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        std::copy_n(&bytes[static_cast<size_t>(((m * rows + r) * columns + c) * size)], size,
                    &result[static_cast<size_t>(((m * columns + c) * rows + r) * size)]);
  return result;
}

/// A tensor as rows of elements, so that tests can cut and join it.
struct rows_of_bytes {
  std::vector<std::string> rows;
  bool operator==(const rows_of_bytes&) const = default;
};

rows_of_bytes rows_of(const model::host_tensor& tensor) {
  rows_of_bytes result;
  const auto loaded = tensor.load();
  const auto& view = loaded.view;
  const auto row_bytes = static_cast<size_t>(view.width() * gpu::size_of(view.type));
  for (int64_t row = 0; row < view.rows(); ++row)
    result.rows.emplace_back(view.as<char>() + row * view.row_stride * gpu::size_of(view.type),
                             row_bytes);
  return result;
}

/// Where a tensor lies that needs no copy.
const std::byte* data_at(const model::host_tensor& tensor) {
  return tensor.load().view.data;
}

rows_of_bytes slice(const rows_of_bytes& all, int64_t first, int64_t count) {
  return {{all.rows.begin() + first, all.rows.begin() + first + count}};
}

rows_of_bytes stacked(const std::vector<rows_of_bytes>& parts) {
  rows_of_bytes result;
  for (const auto& part : parts)
    result.rows.insert(result.rows.end(), part.rows.begin(), part.rows.end());
  return result;
}

rows_of_bytes side_by_side(const std::vector<rows_of_bytes>& parts) {
  auto result = parts.front();
  for (size_t part = 1; part < parts.size(); ++part)
    for (size_t row = 0; row < result.rows.size(); ++row) result.rows[row] += parts[part].rows[row];
  return result;
}

/// The values of every tensor of a text model, in a fixed order.
std::vector<rows_of_bytes> all_rows(const model::text_weights& weights) {
  std::vector<rows_of_bytes> result;
  const auto add = [&](const model::host_tensor& tensor) { result.push_back(rows_of(tensor)); };
  add(weights.embedding);
  for (const auto& layer : weights.layers) {
    for (const auto* tensor :
         {&layer.input_norm, &layer.post_attention_norm, &layer.attention.qkv,
          &layer.attention.output, &layer.attention.q_norm, &layer.attention.k_norm})
      add(*tensor);
    if (layer.dense.gate_up.rank() > 0) {
      add(layer.dense.gate_up);
      add(layer.dense.down);
    } else {
      add(layer.experts.router);
      for (const auto& expert : layer.experts.gate_up) add(expert);
      for (const auto& expert : layer.experts.down) add(expert);
    }
  }
  add(weights.final_norm);
  add(weights.lm_head);
  return result;
}

void load_all(const model::vision_weights& weights) {
  const auto load = [](const model::affine& pair) {
    pair.weight.load();
    pair.bias.load();
  };
  const auto load_merger = [&](const model::merger_weights& merger) {
    for (const auto* pair : {&merger.norm, &merger.fc1, &merger.fc2}) load(*pair);
  };
  load(weights.patch_embed);
  weights.position_embedding.load();
  for (const auto& block : weights.blocks)
    for (const auto* pair :
         {&block.norm1, &block.qkv, &block.proj, &block.norm2, &block.fc1, &block.fc2})
      load(*pair);
  load_merger(weights.merger);
  for (const auto& merger : weights.deepstack_mergers) load_merger(merger);
}

/// One layer's shares on all ranks, and how they must fit together.
struct layer_shares {
  const config::text_config& text;
  const model::decoder_layer_weights& whole;
  std::vector<const model::decoder_layer_weights*> ranks;

  template <class Select>
  std::vector<rows_of_bytes> of_ranks(Select select) const {
    std::vector<rows_of_bytes> parts;
    for (const auto* rank : ranks) parts.push_back(rows_of(select(*rank)));
    return parts;
  }

  void check_attention() const {
    const auto size = static_cast<int64_t>(ranks.size());
    const int64_t q = text.q_width() / size;
    const int64_t heads = std::max<int64_t>(1, text.num_key_value_heads / size);
    const int64_t kv = heads * text.head_dim;
    const auto all = rows_of(whole.attention.qkv);
    const auto parts = of_ranks([](const auto& layer) { return layer.attention.qkv; });
    for (int64_t rank = 0; rank < size; ++rank) {
      const auto& part = parts[static_cast<size_t>(rank)];
      const int64_t first_kv = rank * text.num_key_value_heads / size * text.head_dim;
      BOOST_TEST((slice(part, 0, q) == slice(all, rank * q, q)));
      BOOST_TEST((slice(part, q, kv) == slice(all, text.q_width() + first_kv, kv)));
      BOOST_TEST(
          (slice(part, q + kv, kv) == slice(all, text.q_width() + text.kv_width() + first_kv, kv)));
      BOOST_TEST(static_cast<int64_t>(part.rows.size()) == q + 2 * kv);
    }
    BOOST_TEST((side_by_side(of_ranks([](const auto& layer) { return layer.attention.output; })) ==
                rows_of(whole.attention.output)));
  }

  template <class Select>
  void check_gate_up(Select select) const {
    std::vector<rows_of_bytes> gates;
    std::vector<rows_of_bytes> ups;
    for (const auto& part : of_ranks(select)) {
      const auto width = static_cast<int64_t>(part.rows.size() / 2);
      gates.push_back(slice(part, 0, width));
      ups.push_back(slice(part, width, width));
    }
    BOOST_TEST((stacked({stacked(gates), stacked(ups)}) == rows_of(select(whole))));
  }

  template <class Select>
  void check_down(Select select) const {
    BOOST_TEST((side_by_side(of_ranks(select)) == rows_of(select(whole))));
  }
};

using make_weights = std::function<model::text_weights(int32_t tp_rank, int32_t tp_size)>;

void check_shares(const config::model_config& config, int32_t tp_size, const make_weights& make) {
  const auto whole = make(0, 1);
  std::vector<model::text_weights> ranks;
  for (int32_t rank = 0; rank < tp_size; ++rank) ranks.push_back(make(rank, tp_size));
  std::vector<rows_of_bytes> heads;
  for (const auto& rank : ranks) {
    heads.push_back(rows_of(rank.lm_head));
    BOOST_TEST((rows_of(rank.embedding) == rows_of(whole.embedding)));
    BOOST_TEST((rows_of(rank.final_norm) == rows_of(whole.final_norm)));
  }
  BOOST_TEST((stacked(heads) == rows_of(whole.lm_head)));
  for (size_t index = 0; index < whole.layers.size(); ++index) {
    layer_shares shares{config.text, whole.layers[index], {}};
    for (const auto& rank : ranks) shares.ranks.push_back(&rank.layers[index]);
    shares.check_attention();
    if (!config.text.experts.sparse(static_cast<int32_t>(index))) {
      shares.check_gate_up([](const auto& layer) { return layer.dense.gate_up; });
      shares.check_down([](const auto& layer) { return layer.dense.down; });
    }
    for (size_t expert = 0; expert < whole.layers[index].experts.gate_up.size(); ++expert) {
      shares.check_gate_up([=](const auto& layer) { return layer.experts.gate_up[expert]; });
      shares.check_down([=](const auto& layer) { return layer.experts.down[expert]; });
    }
  }
}

/// The fixture's stacked experts, which are output-major, in the layout of the released files.
raw_tensors input_major(raw_tensors tensors, const config::text_config& text) {
  const int64_t experts = text.experts.num_experts;
  const int64_t width = text.experts.moe_intermediate_size;
  for (auto& [name, tensor] : tensors) {
    const bool gate_up = name.ends_with("experts.gate_up_proj");
    if (!gate_up && !name.ends_with("experts.down_proj")) continue;
    const int64_t out = gate_up ? 2 * width : text.hidden_size;
    const int64_t in = gate_up ? text.hidden_size : width;
    tensor = {"BF16", {experts, in, out}, transposed(tensor.bytes, experts, out, in)};
  }
  return tensors;
}

/// The same with one tensor per expert and projection.
raw_tensors one_by_one(const raw_tensors& tensors, const config::text_config& text) {
  const int64_t width = text.experts.moe_intermediate_size;
  const int64_t hidden = text.hidden_size;
  const auto matrix_bytes = static_cast<size_t>(width * hidden * 2);
  raw_tensors result;
  for (const auto& [name, tensor] : tensors) {
    const auto place = name.find("gate_up_proj") != std::string::npos
                           ? name.find("gate_up_proj")
                           : name.find("experts.down_proj");
    if (place == std::string::npos) {
      result[name] = tensor;
      continue;
    }
    const auto experts = name.substr(0, name.rfind('.') + 1);
    size_t offset = 0;
    for (int32_t e = 0; e < text.experts.num_experts; ++e) {
      const auto take = [&](const char* projection, std::vector<int64_t> shape) {
        result[experts + std::to_string(e) + projection] = {
            "BF16", std::move(shape), tensor.bytes.substr(offset, matrix_bytes)};
        offset += matrix_bytes;
      };
      if (name.ends_with("gate_up_proj")) {
        take(".gate_proj.weight", {width, hidden});
        take(".up_proj.weight", {width, hidden});
      } else {
        take(".down_proj.weight", {hidden, width});
      }
    }
  }
  return result;
}

model::text_weights load_text(const folder_pointer& folder, const config::model_config& config,
                              int32_t tp_rank = 0, int32_t tp_size = 1) {
  return model::load_text_weights(folder, config, tp_rank, tp_size, no_progress);
}

constexpr auto layer_0 = "model.language_model.layers.0.";

}  // namespace

BOOST_AUTO_TEST_SUITE(weights)

BOOST_AUTO_TEST_CASE(released_shapes_have_the_released_sizes) {
  struct {
    const char* name;
    int64_t parameters, tensors;
  } const cases[] = {{"2b", 2'127'532'032, 625},       {"4b", 4'437'815'808, 713},
                     {"8b", 8'767'123'696, 750},       {"32b", 33'357'390'064, 1058},
                     {"30b-a3b", 31'070'754'032, 882}, {"235b-a22b", 235'670'022'896, 1388}};
  for (const auto& expected : cases) {
    const auto config = config::named_model_config(expected.name);
    int64_t parameters = 0;
    int64_t tensors = 0;
    for (const auto& tensor : model::checkpoint_tensors(config)) {
      parameters += tensor.rows() * tensor.columns();
      // Released files stack the experts: two tensors in every layer.
      const bool stacked_too =
          tensor.expert &&
          (tensor.expert->index > 0 || tensor.expert->projection == model::expert_projection::up);
      tensors += stacked_too ? 0 : 1;
    }
    BOOST_TEST(parameters == expected.parameters, expected.name);
    BOOST_TEST(tensors == expected.tensors, expected.name);
  }
}

BOOST_AUTO_TEST_CASE(fixtures_are_complete) {
  for (const auto* fixture : {"tiny", "dense72", "moe"})
    BOOST_CHECK_NO_THROW(
        model::check_tensors(*open_folder(fixtures / fixture), config_of(fixture)));
}

BOOST_AUTO_TEST_CASE(what_lies_together_is_not_copied) {
  const auto config = config_of("tiny");
  const auto folder = open_folder(fixtures / "tiny");
  const auto data_of = [&](const std::string& name) { return folder->tensors().at(name).data; };
  const auto weights = load_text(folder, config);
  BOOST_TEST(data_at(weights.embedding) == data_of(model::embedding_name));
  BOOST_TEST(data_at(weights.lm_head) == data_at(weights.embedding));
  const auto& layer = weights.layers[0];
  const auto prefix = std::string(layer_0);
  BOOST_TEST(data_at(layer.dense.down) == data_of(prefix + "mlp.down_proj.weight"));
  BOOST_TEST(data_at(layer.attention.k_norm) == data_of(prefix + "self_attn.k_norm.weight"));
  // gate_proj and up_proj are neighbours in the file; q_proj, k_proj and v_proj are not.
  BOOST_TEST(data_at(layer.dense.gate_up) == data_of(prefix + "mlp.gate_proj.weight"));
  BOOST_TEST((rows_of(layer.attention.qkv) ==
              stacked({rows_of(folder->tensors().at(prefix + "self_attn.q_proj.weight").view()),
                       rows_of(folder->tensors().at(prefix + "self_attn.k_proj.weight").view()),
                       rows_of(folder->tensors().at(prefix + "self_attn.v_proj.weight").view())})));
  const auto half = load_text(folder, config, 1, 2);
  BOOST_TEST(data_at(half.lm_head) == data_at(half.embedding) + 320 * 128 * 2);
}

BOOST_AUTO_TEST_CASE(weights_outlive_the_folder) {
  auto folder = open_folder(fixtures / "tiny");
  const auto expected = rows_of(folder->tensors().at(model::embedding_name).view());
  const auto weights = load_text(std::exchange(folder, nullptr), config_of("tiny"));
  BOOST_TEST((rows_of(weights.embedding) == expected));
}

BOOST_AUTO_TEST_CASE(vision_tower) {
  for (const auto* fixture : {"tiny", "dense72"}) {
    const auto config = config_of(fixture);
    const auto folder = open_folder(fixtures / fixture);
    const auto weights = model::load_vision_weights(folder, config, no_progress);
    const auto& embed = weights.patch_embed.weight;
    BOOST_TEST(embed.rank() == 2);
    BOOST_TEST(embed.width() == config.vision.patch_width());
    BOOST_TEST(data_at(embed) == folder->tensors().at("model.visual.patch_embed.proj.weight").data);
    BOOST_TEST(weights.patch_embed.bias.rank() == 1);
    BOOST_TEST(weights.blocks.size() == static_cast<size_t>(config.vision.depth));
    BOOST_TEST(weights.blocks[1].qkv.weight.rows() == 3 * config.vision.hidden_size);
    BOOST_TEST(weights.merger.norm.weight.width() == config.vision.hidden_size);
    BOOST_TEST(weights.deepstack_mergers.size() == 3u);
    BOOST_TEST(weights.deepstack_mergers[2].norm.bias.width() == 4 * config.vision.hidden_size);
  }
}

BOOST_AUTO_TEST_CASE(shares_recombine_to_the_whole) {
  const auto check = [](const char* fixture, int32_t tp_size) {
    BOOST_TEST_CONTEXT(fixture << " on " << tp_size << " ranks") {
      const auto config = config_of(fixture);
      const auto folder = open_folder(fixtures / fixture);
      check_shares(config, tp_size, [&](int32_t rank, int32_t size) {
        return load_text(folder, config, rank, size);
      });
    }
  };
  check("tiny", 2);
  check("tiny", 4);  // two key-value heads: each on two ranks
  check("dense72", 2);
  check("moe", 2);
  BOOST_CHECK_THROW(load_text(open_folder(fixtures / "moe"), config_of("moe"), 0, 4),
                    config::error);
}

BOOST_AUTO_TEST_CASE(expert_layouts_mean_the_same) {
  const auto config = config_of("moe");
  // The hard case: 2 * width = hidden, so that gate_up_proj has the same shape in both layouts.
  BOOST_REQUIRE(2 * config.text.experts.moe_intermediate_size == config.text.hidden_size);
  const auto output_major = read_fixture("moe");
  for (int32_t tp_size : {1, 2}) {
    const auto rank = tp_size - 1;
    const auto expected = all_rows(load_text(open_folder(fixtures / "moe"), config, rank, tp_size));
    for (const auto& tensors :
         {input_major(output_major, config.text), one_by_one(output_major, config.text)}) {
      const temporary_folder folder;
      const auto opened = open_tensors(folder, tensors);
      BOOST_CHECK_NO_THROW(model::check_tensors(*opened, config));
      BOOST_TEST((all_rows(load_text(opened, config, rank, tp_size)) == expected));
    }
  }
}

BOOST_AUTO_TEST_CASE(transposed_experts_in_float32) {
  auto config = config::named_model_config("tiny");
  config.text.num_hidden_layers = 1;
  config.text.hidden_size = config.vision.out_hidden_size = 6;
  config.text.experts.num_experts = 2;
  config.text.experts.num_experts_per_tok = 1;
  config.text.experts.moe_intermediate_size = 4;
  raw_tensors tensors;
  for (const auto& tensor : model::checkpoint_tensors(config))
    if (!tensor.expert)
      tensors[tensor.name] = {
          "F32", tensor.shape,
          std::string(static_cast<size_t>(4 * tensor.rows() * tensor.columns()), 0)};
  // Element (expert, input, output) of gate_up_proj is 100 * expert + 10 * input + output.
  std::vector<float> values;
  for (int e = 0; e < 2; ++e)
    for (int in = 0; in < 6; ++in)
      for (int out = 0; out < 8; ++out)
        values.push_back(static_cast<float>(100 * e + 10 * in + out));
  const auto* bytes = reinterpret_cast<const char*>(values.data());
  const auto prefix = std::string(layer_0) + "mlp.experts.";
  tensors[prefix + "gate_up_proj"] = {"F32", {2, 6, 8}, std::string(bytes, values.size() * 4)};
  tensors[prefix + "down_proj"] = {"F32", {2, 4, 6}, std::string(2 * 4 * 6 * 4, 0)};
  const temporary_folder folder;
  const auto opened = open_tensors(folder, tensors);
  BOOST_CHECK_NO_THROW(model::check_tensors(*opened, config));
  const auto weights = load_text(opened, config, 1, 2);
  const auto loaded = weights.layers[0].experts.gate_up[1].load();
  const auto& gate_up = loaded.view;
  BOOST_TEST((gate_up.type == gpu::dtype::f32));
  BOOST_TEST(gate_up.rows() == 4);  // outputs 2 and 3 of gate, then of up
  BOOST_TEST(gate_up.as<float>()[0 * 6 + 5] == 152.0F);
  BOOST_TEST(gate_up.as<float>()[1 * 6 + 0] == 103.0F);
  BOOST_TEST(gate_up.as<float>()[2 * 6 + 5] == 156.0F);
  BOOST_TEST(gate_up.as<float>()[3 * 6 + 4] == 147.0F);
}

BOOST_AUTO_TEST_CASE(files_whose_data_is_not_aligned) {
  const auto config = config_of("tiny");
  const temporary_folder folder;
  const auto opened = open_tensors(folder, read_fixture("tiny"), 1);
  BOOST_TEST(reinterpret_cast<uintptr_t>(opened->tensors().begin()->second.data) % 2 == 1u);
  const auto weights = load_text(opened, config);
  const auto embedding = weights.embedding.load();
  BOOST_TEST(reinterpret_cast<uintptr_t>(embedding.view.data) % 2 == 0u);
  BOOST_TEST((all_rows(weights) == all_rows(load_text(open_folder(fixtures / "tiny"), config))));
}

BOOST_AUTO_TEST_CASE(older_prefixes) {
  const auto config = config_of("dense72");
  const auto expected = all_rows(load_text(open_folder(fixtures / "dense72"), config));
  for (const std::string text_prefix : {"model.", "language_model.model."}) {
    raw_tensors renamed;
    for (const auto& [name, tensor] : read_fixture("dense72")) {
      const std::string language = "model.language_model.";
      const bool text = name.starts_with(language);
      const bool vision = name.starts_with("model.visual.");
      renamed[text     ? text_prefix + name.substr(language.size())
              : vision ? name.substr(6)
                       : name] = tensor;
    }
    const temporary_folder folder;
    const auto opened = open_tensors(folder, renamed);
    BOOST_CHECK_NO_THROW(model::check_tensors(*opened, config));
    BOOST_TEST((all_rows(load_text(opened, config)) == expected));
  }
}

BOOST_AUTO_TEST_CASE(every_tensor_is_accounted_for) {
  const auto config = config_of("tiny");
  const auto q_norm = std::string(layer_0) + "self_attn.q_norm.weight";
  auto tensors = read_fixture("tiny");
  tensors.erase(q_norm);
  tensors["model.language_model.rotary.inv_freq"] = {"F32", {1}, "1234"};
  tensors["model.visual.pos_embed.weight"].shape = {128, 256};
  tensors["model.language_model.norm.weight"] = {"I32", {128}, std::string(512, 0)};
  tensors["visual.merger.norm.bias"] = tensors["model.visual.merger.norm.bias"];
  const auto faults = faults_of(tensors, config);
  BOOST_TEST(faults.size() == 5u);
  BOOST_TEST(any_contains(faults, "tensor " + q_norm + " is missing"));
  BOOST_TEST(any_contains(faults, "tensor model.language_model.rotary.inv_freq is unexpected"));
  BOOST_TEST(any_contains(faults,
                          "model.safetensors: tensor model.visual.pos_embed.weight: shape is "
                          "[128, 256], expected [256, 128]"));
  BOOST_TEST(any_contains(faults, "tensor model.language_model.norm.weight: holds integers"));
  BOOST_TEST(any_contains(
      faults,
      "tensors model.visual.merger.norm.bias and visual.merger.norm.bias are the same one"));
  const temporary_folder folder;
  BOOST_CHECK_THROW(load_text(open_tensors(folder, tensors), config), config::error);
}

BOOST_AUTO_TEST_CASE(faults_of_stacked_experts_come_once) {
  const auto config = config_of("moe");
  const auto experts = std::string(layer_0) + "mlp.experts.";
  auto tensors = read_fixture("moe");
  tensors.erase(experts + "down_proj");
  tensors["model.language_model.layers.1.mlp.experts.down_proj"].shape = {8, 32, 256};
  const auto faults = faults_of(tensors, config);
  BOOST_TEST(faults.size() == 2u);
  BOOST_TEST(any_contains(faults, "tensor " + experts + "down_proj is missing"));
  BOOST_TEST(
      any_contains(faults, "down_proj: shapes are [8, 128, 128] and [8, 32, 256], expected"));
  tensors = read_fixture("moe");
  tensors.erase(experts + "down_proj");
  tensors.erase(experts + "gate_up_proj");
  BOOST_TEST(any_contains(faults_of(tensors, config), "experts.7.down_proj.weight is missing"));
}

BOOST_AUTO_TEST_CASE(one_expert_too_many_or_too_few) {
  const auto config = config_of("moe");
  auto tensors = one_by_one(read_fixture("moe"), config.text);
  const auto experts = std::string(layer_0) + "mlp.experts.";
  const auto node = tensors.extract(experts + "7.up_proj.weight");
  tensors[experts + "8.up_proj.weight"] = node.mapped();
  const auto faults = faults_of(tensors, config);
  BOOST_TEST(faults.size() == 2u);
  BOOST_TEST(any_contains(faults, "7.up_proj.weight is missing"));
  BOOST_TEST(any_contains(faults, "8.up_proj.weight is unexpected"));
}

BOOST_AUTO_TEST_CASE(a_tied_head_may_be_repeated_but_not_differ) {
  const auto config = config_of("tiny");
  auto tensors = read_fixture("tiny");
  tensors[model::lm_head_name] = tensors[model::embedding_name];
  BOOST_TEST(faults_of(tensors, config).empty());
  tensors[model::lm_head_name].bytes[1000] ^= 1;
  BOOST_TEST(
      any_contains(faults_of(tensors, config), "lm_head.weight: differs from the embedding"));
  auto untied = config_of("dense72");
  auto without_head = read_fixture("dense72");
  without_head.erase(model::lm_head_name);
  BOOST_TEST(any_contains(faults_of(without_head, untied), "tensor lm_head.weight is missing"));
}

BOOST_AUTO_TEST_CASE(stacked_parts_must_have_one_dtype) {
  const auto config = config_of("tiny");
  auto tensors = read_fixture("tiny");
  auto& up = tensors[std::string(layer_0) + "mlp.up_proj.weight"];
  up = {"F32", up.shape, up.bytes + up.bytes};
  const temporary_folder folder;
  const auto opened = open_tensors(folder, tensors);
  BOOST_CHECK_EXCEPTION(load_text(opened, config), config::error, [](const auto& fault) {
    return std::string(fault.what()).find("different dtypes") != std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(progress_counts_every_byte_of_the_share) {
  const auto config = config_of("moe");
  const auto folder = open_folder(fixtures / "moe");
  int64_t last = 0;
  int64_t total = 0;
  const auto remember = [&](int64_t done_bytes, int64_t total_bytes) {
    BOOST_TEST(done_bytes > last);
    last = done_bytes;
    total = total_bytes;
  };
  all_rows(model::load_text_weights(folder, config, 0, 1, remember));
  BOOST_TEST(last == total);
  const auto text_bytes = total;
  last = 0;
  load_all(model::load_vision_weights(folder, config, remember));
  BOOST_TEST(last == total);
  BOOST_TEST(text_bytes + total == folder->total_bytes());
}

BOOST_AUTO_TEST_CASE(a_file_that_got_shorter_is_an_error_whether_it_is_read_or_mapped) {
  const temporary_folder folder;
  const auto opened = open_tensors(folder, read_fixture("tiny"));
  const auto weights = model::load_text_weights(opened, config_of("tiny"), 0, 1, no_progress);
  fs::resize_file(folder.path() / "model.safetensors", 4096);
  const auto& matrix = weights.layers.back().attention.qkv;
  std::vector<std::byte> copy(static_cast<size_t>(matrix.bytes()));
  const auto says_so = [](const config::error& fault) {
    return std::string(fault.what()).find("weights cannot be read from their file") == 0;
  };
  BOOST_CHECK_EXCEPTION(matrix.copy_to(copy.data()), config::error, says_so);
  const auto& [name, tensor] = *opened->tensors().rbegin();
  BOOST_CHECK_EXCEPTION(model::read_ahead(tensor.data, tensor.bytes), config::error, says_so);
}

BOOST_AUTO_TEST_CASE(random_weights_do_not_depend_on_the_split) {
  for (const auto& config : {config::named_model_config("tiny"), config_of("moe")})
    check_shares(config, 2, [&](int32_t rank, int32_t size) {
      return model::random_text_weights(config, 7, rank, size);
    });
  auto odd = config::named_model_config("tiny");  // shares that begin inside a word of four values
  odd.text.intermediate_size = 2 * 33;
  check_shares(odd, 2, [&](int32_t rank, int32_t size) {
    return model::random_text_weights(odd, 7, rank, size);
  });
}

BOOST_AUTO_TEST_CASE(random_weights_follow_their_seed) {
  const auto config = config::named_model_config("tiny");
  const auto values = [&](uint64_t seed) {
    return all_rows(model::random_text_weights(config, seed, 0, 1));
  };
  BOOST_TEST((values(1) == values(1)));
  BOOST_TEST((values(1) != values(2)));
  const auto first = model::random_vision_weights(config, 1);
  BOOST_TEST((rows_of(first.blocks[0].fc1.weight) != rows_of(first.blocks[1].fc1.weight)));
}

BOOST_AUTO_TEST_CASE(random_weights_keep_activations_in_size) {
  const auto config = config::named_model_config("tiny");
  const auto weights = model::random_text_weights(config, 3, 0, 1);
  for (const auto& tensor : {weights.final_norm, weights.layers[2].attention.q_norm}) {
    const auto norm = tensor.load();
    for (int64_t i = 0; i < norm.view.elements(); ++i) {
      const float value = gpu::to_float(norm.view.as<gpu::bfloat16>()[i]);
      BOOST_TEST((value >= 1.0F && value < 1.25F));
    }
  }
  for (const auto& tensor : {weights.embedding, weights.layers[0].attention.output}) {
    const auto matrix = tensor.load();
    double sum = 0;
    double squares = 0;
    for (int64_t i = 0; i < matrix.view.elements(); ++i) {
      const double value = gpu::to_float(matrix.view.as<gpu::bfloat16>()[i]);
      sum += value;
      squares += value * value;
    }
    const auto count = static_cast<double>(matrix.view.elements());
    const double expected = 1 / std::sqrt(static_cast<double>(matrix.view.width()));
    const double deviation = std::sqrt(squares / count);
    // A power of two nearest the aim: up to half an octave off. The mean is within five of its
    // errors.
    BOOST_TEST((deviation > 0.7 * expected && deviation < 1.45 * expected));
    BOOST_TEST(std::abs(sum / count) < 5 * deviation / std::sqrt(count));
  }
}

BOOST_AUTO_TEST_SUITE_END()
