#include "model/weights/weight_layout.hpp"

#include "config/ensure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <string_view>

namespace troupe::model {

namespace {

/// A run of rows, columns or heads.
struct span_of {
  int64_t first;
  int64_t count;

  span_of times(int64_t width) const { return {first * width, count * width}; }
};

/// The parts of one tensor-parallel rank.
struct rank_share {
  int64_t rank;
  int64_t size;

  span_of of(int64_t total) const { return {rank * (total / size), total / size}; }

  /// With fewer key-value heads than ranks, neighbouring ranks hold the same head.
  span_of of_kv_heads(int64_t total) const {
    return total >= size ? of(total) : span_of{rank * total / size, 1};
  }
};

weight_piece whole(tensor_spec tensor) {
  const auto rows = tensor.rows();
  const auto columns = tensor.columns();
  return {std::move(tensor), 0, rows, 0, columns};
}

weight_piece rows_of(tensor_spec tensor, span_of rows) {
  auto piece = whole(std::move(tensor));
  piece.first_row = rows.first;
  piece.num_rows = rows.count;
  return piece;
}

weight_piece columns_of(tensor_spec tensor, span_of columns) {
  auto piece = whole(std::move(tensor));
  piece.first_column = columns.first;
  piece.num_columns = columns.count;
  return piece;
}

class text_gatherer {
 public:
  text_gatherer(weight_source& source, const config::text_config& text, rank_share share)
      : source_(source), text_(text), share_(share) {}

  decoder_layer_weights layer(int32_t index) {
    prefix_ = fmt::format("model.language_model.layers.{}.", index);
    decoder_layer_weights layer;
    layer.input_norm = vector("input_layernorm.weight", text_.hidden_size);
    layer.post_attention_norm = vector("post_attention_layernorm.weight", text_.hidden_size);
    layer.attention = attention();
    if (text_.experts.sparse(index))
      layer.experts = experts();
    else
      layer.dense = dense_mlp();
    return layer;
  }

 private:
  tensor_spec spec(std::string_view name, std::vector<int64_t> shape) const {
    return {fmt::format("{}{}", prefix_, name), std::move(shape), std::nullopt};
  }

  host_tensor vector(std::string_view name, int64_t length) {
    return source_.gather({whole(spec(name, {length}))});
  }

  attention_weights attention() {
    const int64_t hidden = text_.hidden_size;
    const auto q = share_.of(text_.num_attention_heads).times(text_.head_dim);
    const auto kv = share_.of_kv_heads(text_.num_key_value_heads).times(text_.head_dim);
    attention_weights weights;
    weights.qkv =
        source_.gather({rows_of(spec("self_attn.q_proj.weight", {text_.q_width(), hidden}), q),
                        rows_of(spec("self_attn.k_proj.weight", {text_.kv_width(), hidden}), kv),
                        rows_of(spec("self_attn.v_proj.weight", {text_.kv_width(), hidden}), kv)});
    weights.output =
        source_.gather({columns_of(spec("self_attn.o_proj.weight", {hidden, text_.q_width()}), q)});
    weights.q_norm = vector("self_attn.q_norm.weight", text_.head_dim);
    weights.k_norm = vector("self_attn.k_norm.weight", text_.head_dim);
    return weights;
  }

  dense_mlp_weights dense_mlp() {
    const int64_t hidden = text_.hidden_size;
    const int64_t width = text_.intermediate_size;
    const auto part = share_.of(width);
    return {source_.gather({rows_of(spec("mlp.gate_proj.weight", {width, hidden}), part),
                            rows_of(spec("mlp.up_proj.weight", {width, hidden}), part)}),
            source_.gather({columns_of(spec("mlp.down_proj.weight", {hidden, width}), part)})};
  }

  expert_mlp_weights experts() {
    const int64_t hidden = text_.hidden_size;
    const int64_t width = text_.experts.moe_intermediate_size;
    const auto part = share_.of(width);
    expert_mlp_weights weights;
    weights.router =
        source_.gather({whole(spec("mlp.gate.weight", {text_.experts.num_experts, hidden}))});
    for (int32_t expert = 0; expert < text_.experts.num_experts; ++expert) {
      weights.gate_up.push_back(source_.gather(
          {rows_of(expert_spec(expert, expert_projection::gate, {width, hidden}), part),
           rows_of(expert_spec(expert, expert_projection::up, {width, hidden}), part)}));
      weights.down.push_back(source_.gather(
          {columns_of(expert_spec(expert, expert_projection::down, {hidden, width}), part)}));
    }
    return weights;
  }

  tensor_spec expert_spec(int32_t expert, expert_projection projection,
                          std::vector<int64_t> shape) const {
    constexpr std::string_view names[] = {"gate_proj", "up_proj", "down_proj"};
    const auto experts = prefix_ + "mlp.experts.";
    auto name =
        fmt::format("{}{}.{}.weight", experts, expert, names[static_cast<size_t>(projection)]);
    return {std::move(name), std::move(shape), expert_matrix{experts, expert, projection}};
  }

  weight_source& source_;
  const config::text_config& text_;
  rank_share share_;
  std::string prefix_;
};

class vision_gatherer {
 public:
  vision_gatherer(weight_source& source, const config::vision_config& vision)
      : source_(source), vision_(vision) {}

  vision_weights gather() {
    const int64_t hidden = vision_.hidden_size;
    vision_weights weights;
    weights.patch_embed =
        pair("patch_embed.proj", {hidden, vision_.in_channels, vision_.temporal_patch_size,
                                  vision_.patch_size, vision_.patch_size});
    weights.position_embedding =
        tensor("pos_embed.weight", {vision_.num_position_embeddings, hidden});
    for (int32_t index = 0; index < vision_.depth; ++index)
      weights.blocks.push_back(block(fmt::format("blocks.{}.", index)));
    // The main merger normalises a patch, the deepstack mergers what they have merged.
    weights.merger = merger("merger.", hidden);
    for (int32_t level = 0; level < vision_.num_deepstack_levels(); ++level)
      weights.deepstack_mergers.push_back(
          merger(fmt::format("deepstack_merger_list.{}.", level), merged_width()));
    return weights;
  }

 private:
  int64_t merged_width() const { return int64_t{vision_.merge_unit()} * vision_.hidden_size; }

  host_tensor tensor(const std::string& name, std::vector<int64_t> shape) {
    return source_.gather({whole({"model.visual." + name, std::move(shape), std::nullopt})});
  }

  /// Weight and bias; the bias is as long as the weight's first dimension.
  affine pair(const std::string& name, std::vector<int64_t> shape) {
    const auto length = shape[0];
    return {tensor(name + ".weight", std::move(shape)), tensor(name + ".bias", {length})};
  }

  vision_block_weights block(const std::string& prefix) {
    const int64_t hidden = vision_.hidden_size;
    const int64_t width = vision_.intermediate_size;
    vision_block_weights weights;
    weights.norm1 = pair(prefix + "norm1", {hidden});
    weights.qkv = pair(prefix + "attn.qkv", {3 * hidden, hidden});
    weights.proj = pair(prefix + "attn.proj", {hidden, hidden});
    weights.norm2 = pair(prefix + "norm2", {hidden});
    weights.fc1 = pair(prefix + "mlp.linear_fc1", {width, hidden});
    weights.fc2 = pair(prefix + "mlp.linear_fc2", {hidden, width});
    return weights;
  }

  merger_weights merger(const std::string& prefix, int64_t norm_width) {
    return {pair(prefix + "norm", {norm_width}),
            pair(prefix + "linear_fc1", {merged_width(), merged_width()}),
            pair(prefix + "linear_fc2", {vision_.out_hidden_size, merged_width()})};
  }

  weight_source& source_;
  const config::vision_config& vision_;
};

}  // namespace

int64_t tensor_spec::columns() const {
  return std::accumulate(shape.begin() + 1, shape.end(), int64_t{1}, std::multiplies<>());
}

text_weights gather_text_weights(weight_source& source, const config::model_config& model,
                                 int32_t tp_rank, int32_t tp_size) {
  config::ensure(tp_rank >= 0 && tp_rank < tp_size, "tensor parallel rank {} of {}", tp_rank,
                 tp_size);
  const auto& text = model.text;
  const rank_share share{tp_rank, tp_size};
  const int64_t hidden = text.hidden_size;
  const auto vocabulary = share.of(text.vocab_size);
  text_weights weights;
  weights.embedding =
      source.gather({whole({embedding_name, {text.vocab_size, hidden}, std::nullopt})});
  text_gatherer gatherer(source, text, share);
  for (int32_t layer = 0; layer < text.num_hidden_layers; ++layer)
    weights.layers.push_back(gatherer.layer(layer));
  weights.final_norm =
      source.gather({whole({"model.language_model.norm.weight", {hidden}, std::nullopt})});
  if (model.tie_word_embeddings)
    weights.lm_head = weights.embedding.slice_rows(vocabulary.first, vocabulary.count);
  else
    weights.lm_head = source.gather(
        {rows_of({lm_head_name, {text.vocab_size, hidden}, std::nullopt}, vocabulary)});
  return weights;
}

vision_weights gather_vision_weights(weight_source& source, const config::model_config& model) {
  return vision_gatherer(source, model.vision).gather();
}

host_tensor piece_recorder::gather(const std::vector<weight_piece>& pieces) {
  pieces_.insert(pieces_.end(), pieces.begin(), pieces.end());
  return {};
}

std::vector<tensor_spec> checkpoint_tensors(const config::model_config& model) {
  piece_recorder recorder;
  gather_text_weights(recorder, model, 0, 1);
  gather_vision_weights(recorder, model);
  std::vector<tensor_spec> tensors;
  for (const auto& piece : recorder.pieces()) tensors.push_back(piece.tensor);
  return tensors;
}

}  // namespace troupe::model
