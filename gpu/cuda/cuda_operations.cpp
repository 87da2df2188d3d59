#include "gpu/cuda/cuda_operations.hpp"

#include "config/ensure.hpp"
#include "gpu/cuda/event.hpp"
#include "gpu/cuda/kernels/attention_paged.hpp"
#include "gpu/cuda/kernels/attention_segments.hpp"
#include "gpu/cuda/kernels/exchange.hpp"
#include "gpu/cuda/kernels/experts.hpp"
#include "gpu/cuda/kernels/rotary.hpp"
#include "gpu/cuda/kernels/rows.hpp"
#include "gpu/cuda/kernels/sampler.hpp"
#include "gpu/cuda/status.hpp"
#include "gpu/host_meeting.hpp"
#include "gpu/described.hpp"
#include "gpu/operands.hpp"

#include <algorithm>
#include <utility>

namespace troupe::gpu::cuda {
namespace {

/// A graph on the device. Shares what its kernels use.
class graph_executable final : public executable {
 public:
  graph_executable(std::shared_ptr<context> used, cudaGraph_t graph) : used_(std::move(used)) {
    // Graphs of background streams keep their low priority.
    const cudaError_t status =
        cudaGraphInstantiate(&instance_, graph, cudaGraphInstantiateFlagUseNodePriority);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    check(cudaGraphUpload(instance_, used_->work.get()), "cudaGraphUpload");
  }
  graph_executable(const graph_executable&) = delete;
  graph_executable& operator=(const graph_executable&) = delete;
  ~graph_executable() override { cudaGraphExecDestroy(instance_); }

  void launch() override { check(cudaGraphLaunch(instance_, used_->work.get()), "cudaGraphLaunch"); }

 private:
  std::shared_ptr<context> used_;
  cudaGraphExec_t instance_ = nullptr;
};

/// An event on the stream.
class stream_milestone final : public milestone {
 public:
  explicit stream_milestone(cudaStream_t on) { event_.record(on); }

  bool passed() override { return event_.passed(); }
  void hold_back(cudaStream_t stream) const { event_.hold_back(stream); }

 private:
  event event_{event_timing::off};
};

launch_context make_launches(const cuda_options& options, const stream& work) {
  int sms = 0;
  check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, options.device),
        "cudaDeviceGetAttribute");
  const int32_t ranks = std::max(options.ranks_on_device, 1);
  if (ranks == 1) return {work.get(), true, sms, sms};
  // Those that wait leave room for what a late rank has to run first, clusters of CTAs among it.
  constexpr int32_t share_for_exchanges = 4;
  return {work.get(), false, sms / ranks, std::max(1, sms / ranks / share_for_exchanges)};
}

void append_leases(std::vector<arena_lease>& leases, const std::vector<arena>& arenas) {
  for (const auto& memory : arenas) leases.push_back(memory.lease());
}

/// All weights of a group, which `prepare_linears` placed side by side, as one view [count, out, in].
tensor_view group_view(const weight_store& weights, const std::vector<linear_weight>& group) {
  const tensor_view first = weights.weight(group.front().index);
  const int64_t bytes = first.span_bytes();
  for (size_t i = 0; i < group.size(); ++i)
    config::ensure(weights.weight(group[i].index).data == first.data + static_cast<int64_t>(i) * bytes,
                   "experts were not prepared as one group");
  return make_view(first.data, first.type, static_cast<int64_t>(group.size()), first.rows(),
                   first.width());
}

}  // namespace

context::context(const cuda_options& options)
    : work(options.background),
      shares_device(options.ranks_on_device > 1),
      launches(make_launches(options, work)),
      library(work.get()) {}

std::vector<arena_lease> context::leases() const {
  std::vector<arena_lease> all{library.workspace()};
  append_leases(all, weights.arenas());
  for (const scratch* memory : {&attention, &experts})
    append_leases(all, memory->arenas());
  return all;
}

cuda_operations::cuda_operations(const cuda_options& options)
    : context_(std::make_shared<context>(options)) {}

// Memory.
std::shared_ptr<std::byte> cuda_operations::host_staging(int64_t bytes) {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, static_cast<size_t>(bytes), cudaHostAllocDefault), "cudaHostAlloc");
  return {static_cast<std::byte*>(memory), [](std::byte* freed) { cudaFreeHost(freed); }};
}

void cuda_operations::upload(tensor_view destination, const void* source, int64_t bytes) {
  config::ensure(!capturing(), "an upload inside a capture");
  check(cudaMemcpyAsync(destination.data, source, static_cast<size_t>(bytes),
                        cudaMemcpyHostToDevice, context_->work.get()),
        "upload");
}

void cuda_operations::download(void* destination, tensor_view source, int64_t bytes) {
  config::ensure(!capturing(), "a download inside a capture");
  // A copy that waits for this rank's kernels could hold up the copies of the peers they wait for.
  if (context_->shares_device) synchronize();
  check(cudaMemcpyAsync(destination, source.data, static_cast<size_t>(bytes),
                        cudaMemcpyDeviceToHost, context_->work.get()),
        "download");
}

std::vector<ledger_entry> cuda_operations::ledger() const {
  std::vector<ledger_entry> entries = context_->weights.ledger();
  const auto append = [&](const arena& memory) {
    for (auto entry : memory.ledger()) entries.push_back(std::move(entry));
  };
  append(context_->library.memory());
  for (const scratch* memory : {&context_->attention, &context_->experts})
    for (const auto& part : memory->arenas()) append(part);
  return entries;
}

// Weights.
linear_weight cuda_operations::prepare_linear(const std::string& name, const host_matrix& weight,
                                              const host_matrix& bias) {
  config::ensure(!capturing(), "weight {} is prepared inside a capture", name);
  described::expect_linear_weight(name, weight, bias);
  return {context_->weights.add(name, weight, bias), weight.width(), weight.rows()};
}

std::vector<linear_weight> cuda_operations::prepare_linears(
    const std::string& name, const std::vector<host_matrix>& weights) {
  config::ensure(!capturing(), "weights {} are prepared inside a capture", name);
  for (const auto& weight : weights) described::expect_linear_weight(name, weight, {});
  std::vector<linear_weight> group;
  for (const int32_t index : context_->weights.add_group(name, weights))
    group.push_back({index, weights.front().width(), weights.front().rows()});
  return group;
}

void cuda_operations::load(tensor_view destination, const host_matrix& source) {
  config::ensure(!capturing(), "a weight is loaded inside a capture");
  context_->weights.load(destination, source);
}

// Graphs.
void cuda_operations::begin_capture(std::vector<arena_lease> arenas) {
  config::ensure(!capturing(), "a capture begins inside a capture");
  for (auto& lease : context_->leases()) arenas.push_back(std::move(lease));
  recording_.emplace(std::move(arenas));
  check(cudaStreamBeginCapture(context_->work.get(), cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture");
}

captured_graph cuda_operations::end_capture(std::string name) {
  config::ensure(capturing(), "capture {} ends, but none began", name);
  cudaGraph_t graph = nullptr;
  const cudaError_t status = cudaStreamEndCapture(context_->work.get(), &graph);
  manifest baked = std::move(*recording_);
  recording_.reset();
  check(status, "cudaStreamEndCapture");
  return {std::move(name), std::move(baked), std::make_unique<graph_executable>(context_, graph)};
}

void cuda_operations::synchronize() {
  context_->weights.synchronize();
  check(cudaStreamSynchronize(context_->work.get()), "cudaStreamSynchronize");
}

std::unique_ptr<milestone> cuda_operations::mark() {
  config::ensure(!capturing(), "a milestone inside a capture");
  return std::make_unique<stream_milestone>(context_->work.get());
}

void cuda_operations::wait_for(const milestone& earlier) {
  config::ensure(!capturing(), "a wait for a milestone inside a capture");
  // Any other kind is of a backend that has done what it was given.
  if (const auto* marked = dynamic_cast<const stream_milestone*>(&earlier))
    marked->hold_back(context_->work.get());
}

void cuda_operations::describe(baked_operation description) {
  if (capturing()) recording_->append(std::move(description));
}

std::byte* cuda_operations::take_scratch(scratch& memory, int64_t bytes) {
  return memory.take(bytes, !capturing());
}

template <class Launch>
void cuda_operations::among_peers(const lane_view& lane, Launch launch) {
  if (!context_->shares_device || capturing() || lane.size == 1) return launch();
  synchronize();
  meet_hosts(lane);
  launch();
  // The first launch of a kernel loads its code once the device is idle, and holds up the launches of
  // peers meanwhile: none may follow while this one waits for them.
  synchronize();
}

skinny_linear_arguments cuda_operations::skinny(const tensor_view& output, const tensor_view& input,
                                                const linear_weight& weight) const {
  return {output, input.slice_rows(0, output.rows()), context_->weights.weight(weight.index),
          context_->weights.bias(weight.index)};
}

// Linear.
void cuda_operations::linear(tensor_view output, tensor_view input, const linear_weight& weight,
                             live_count rows) {
  const skinny_linear_arguments work = skinny(output, input, weight);
  describe(described::linear(output, input, weight, work.weight, work.bias, rows));
  if (takes_skinny_linear(work))
    launch_skinny_linear(work, context_->launches);
  else
    context_->library.run({output, work.input, work.weight, work.bias}, capturing());
}

bool cuda_operations::library_serves(const tensor_view& output, const tensor_view& input,
                                     const linear_weight& weight) const {
  return !takes_skinny_linear(skinny(output, input, weight));
}

void cuda_operations::gelu_linear(tensor_view output, tensor_view input,
                                  const linear_weight& weight, gelu_kind kind, live_count rows) {
  // The library's epilogue is the tanh form.
  if (kind != gelu_kind::tanh || !library_serves(output, input, weight))
    return operations::gelu_linear(output, input, weight, kind, rows);
  const skinny_linear_arguments work = skinny(output, input, weight);
  auto description = described::linear(output, input, weight, work.weight, work.bias, rows);
  description.name = "gelu_linear";
  describe(std::move(description));
  context_->library.run(
      {output, work.input, work.weight, work.bias, product_epilogue::gelu_tanh}, capturing());
}

void cuda_operations::linear_add(tensor_view x, tensor_view branch, tensor_view input,
                                 const linear_weight& weight, live_count rows) {
  if (!library_serves(x, input, weight))
    return operations::linear_add(x, branch, input, weight, rows);
  const skinny_linear_arguments work = skinny(x, input, weight);
  auto description = described::linear(x, input, weight, work.weight, work.bias, rows);
  description.name = "linear_add";
  description.operands.push_back(updates(x));
  describe(std::move(description));
  context_->library.run({x, work.input, work.weight, work.bias, product_epilogue::accumulate},
                        capturing());
}

void cuda_operations::gated_linear(tensor_view output, tensor_view gate_up, tensor_view input,
                                   const linear_weight& weight, live_count rows) {
  skinny_linear_arguments work = skinny(output, input, weight);
  work.gated = true;
  describe(described::gated_linear(output, gate_up, input, weight, work.weight, work.bias, rows));
  if (takes_skinny_linear(work)) return launch_skinny_linear(work, context_->launches);
  const tensor_view product = gate_up.slice_rows(0, output.rows());
  context_->library.run({product, work.input, work.weight, work.bias}, capturing());
  launch_elementwise({row_function::silu_and_mul, output, product, rows.value},
                     context_->launches);
}

// Text.
void cuda_operations::embed(tensor_view output, tensor_view resolved_ids, tensor_view token_ids,
                            tensor_view sampled, tensor_view table, const visual_slot& slot,
                            live_count tokens) {
  describe(described::embed(output, resolved_ids, token_ids, sampled, table, slot, tokens));
  launch_embed({output, resolved_ids, token_ids, sampled, table, slot.pool.at(0), slot.row_map,
                tokens.value},
               context_->launches);
}

void cuda_operations::rms_norm(tensor_view output, tensor_view input, tensor_view weight,
                               float epsilon, live_count rows) {
  describe(described::rms_norm(output, input, weight, epsilon, rows));
  launch_rms_norm({output, input, weight, {}, epsilon, rows.value}, context_->launches);
}

void cuda_operations::qk_norm_rope_cache_write(tensor_view qkv, tensor_view q_weight,
                                               tensor_view k_weight, float epsilon,
                                               tensor_view positions, const text_rotary& rotary,
                                               tensor_view slot_mapping, const paged_kv& cache,
                                               live_count tokens) {
  describe(described::qk_norm_rope_cache_write(qkv, q_weight, k_weight, epsilon, positions, rotary,
                                               slot_mapping, cache, tokens));
  launch_text_rope({qkv, q_weight, k_weight, positions, epsilon, rotary, slot_mapping, cache,
                    tokens.value},
                   context_->launches);
}

paged_attention_arguments cuda_operations::attention_over(const tensor_view& output,
                                                          const tensor_view& qkv,
                                                          const paged_kv& cache,
                                                          const sequence_batch& batch,
                                                          live_count tokens) {
  paged_attention_arguments arguments;
  arguments.type = output.type;
  arguments.output = output.data;
  arguments.output_stride = output.row_stride;
  arguments.qkv = qkv.data;
  arguments.qkv_stride = qkv.row_stride;
  arguments.cache = cache.blocks.data;
  arguments.num_q_heads = static_cast<int32_t>(described::query_heads(qkv, cache));
  arguments.num_kv_heads = cache.num_kv_heads;
  arguments.head_dim = static_cast<int32_t>(cache.blocks.width());
  arguments.block_size = cache.block_size;
  arguments.query_start = batch.query_start.as<const int32_t>();
  arguments.context_lengths = batch.context_lengths.as<const int32_t>();
  arguments.block_tables = batch.block_tables.as<const int32_t>();
  arguments.block_tables_stride = batch.block_tables.row_stride;
  arguments.sequences = batch.sequences.value;
  arguments.tokens = tokens.value;
  arguments.max_tokens = static_cast<int32_t>(output.rows());
  // A sequence has at least one token.
  arguments.max_sequences = static_cast<int32_t>(
      std::min(batch.context_lengths.elements(), output.rows()));
  arguments.scratch = take_scratch(
      context_->attention,
      paged_attention_scratch_bytes(arguments.num_q_heads, arguments.num_kv_heads,
                                    arguments.head_dim, arguments.max_sequences));
  return arguments;
}

void cuda_operations::paged_attention(tensor_view output, tensor_view qkv, const paged_kv& cache,
                                      const sequence_batch& batch, live_count tokens) {
  describe(described::paged_attention(output, qkv, cache, batch, tokens));
  launch_paged_attention(attention_over(output, qkv, cache, batch, tokens), context_->launches);
}

void cuda_operations::norm_rope_attention(tensor_view output, tensor_view qkv,
                                          const head_rotation& heads, const paged_kv& cache,
                                          const sequence_batch& batch, live_count tokens) {
  auto description = described::norm_rope_attention(output, qkv, heads, cache, batch, tokens);
  const paged_attention_arguments attention = attention_over(output, qkv, cache, batch, tokens);
  if (!takes_new_heads(attention))
    return operations::norm_rope_attention(output, qkv, heads, cache, batch, tokens);
  describe(std::move(description));
  launch_new_heads_attention(attention,
                             {heads.q_weight.data, heads.k_weight.data, heads.epsilon,
                              heads.positions.as<const int32_t>(),
                              static_cast<int32_t>(heads.positions.row_stride),
                              heads.rotary.inverse_frequency.as<const float>(),
                              heads.rotary.axis.as<const int32_t>(), heads.rotary.attention_factor,
                              heads.slot_mapping.as<const int32_t>(), cache.blocks.data},
                             context_->launches);
}

void cuda_operations::all_reduce_add_norm(tensor_view normed, tensor_view residual,
                                          tensor_view partial, tensor_view norm_weight,
                                          float epsilon, const visual_slot& slot,
                                          int32_t deepstack_level, const lane_view& lane,
                                          live_count rows) {
  describe(described::all_reduce_add_norm(normed, residual, partial, norm_weight, epsilon, slot,
                                          deepstack_level, lane, rows));
  const tensor_view level = deepstack_level < 0 ? tensor_view{} : slot.pool.at(deepstack_level);
  among_peers(lane, [&] {
    launch_all_reduce_add_norm({normed, residual, partial, norm_weight, level, slot.row_map,
                                epsilon, lane, rows.value},
                               context_->launches);
  });
}

void cuda_operations::mixture_of_experts(tensor_view output, tensor_view input,
                                         tensor_view router_logits, int32_t top_k,
                                         const std::vector<linear_weight>& gate_up,
                                         const std::vector<linear_weight>& down, live_count rows) {
  const tensor_view all_gate_up = group_view(context_->weights, gate_up);
  const tensor_view all_down = group_view(context_->weights, down);
  describe(described::mixture_of_experts(output, input, router_logits, top_k, gate_up, down,
                                         {all_gate_up, all_down}, rows));
  mixture_of_experts_arguments arguments{output,   input, router_logits, all_gate_up,
                                         all_down, top_k, rows.value,    nullptr};
  arguments.scratch =
      take_scratch(context_->experts, mixture_of_experts_scratch_bytes(shape_of(arguments)));
  launch_mixture_of_experts(arguments, context_->launches);
}

void cuda_operations::gather_rows(tensor_view output, tensor_view input, tensor_view row_index,
                                  live_count rows) {
  describe(described::gather_rows(output, input, row_index, rows));
  launch_gather_rows({output, input, row_index, rows.value}, context_->launches);
}

void cuda_operations::all_gather_columns(tensor_view output, tensor_view part,
                                         const lane_view& lane, live_count rows) {
  describe(described::all_gather_columns(output, part, lane, rows));
  among_peers(lane, [&] {
    launch_all_gather_columns({output, part, lane, rows.value}, context_->launches);
  });
}

void cuda_operations::sample(const sampling_output& output, tensor_view logits,
                             tensor_view settings, tensor_view adjustments,
                             live_count num_adjustments, tensor_view resolved_ids,
                             tensor_view token_mask, live_count rows) {
  describe(described::sample(output, logits, settings, adjustments, num_adjustments, resolved_ids,
                             token_mask, rows));
  launch_sample({output.tokens, output.logprobs, output.top_tokens, output.top_logprobs, logits,
                 settings, adjustments, resolved_ids, token_mask, num_adjustments.value, rows.value},
                context_->launches);
}

// Vision.
void cuda_operations::layer_norm(tensor_view output, tensor_view input, tensor_view weight,
                                 tensor_view bias, float epsilon, live_count rows) {
  describe(described::layer_norm(output, input, weight, bias, epsilon, rows));
  launch_layer_norm({output, input, weight, bias, epsilon, rows.value}, context_->launches);
}

void cuda_operations::add_position_embedding(tensor_view x, tensor_view table, int32_t side,
                                             tensor_view coordinates, live_count patches) {
  describe(described::add_position_embedding(x, table, side, coordinates, patches));
  launch_position_embedding({x, table, coordinates, side, patches.value}, context_->launches);
}

void cuda_operations::vision_rope(tensor_view qkv, int32_t num_heads, tensor_view coordinates,
                                  float theta, live_count patches) {
  describe(described::vision_rope(qkv, num_heads, coordinates, theta, patches));
  launch_vision_rope({qkv, coordinates, num_heads, theta, patches.value}, context_->launches);
}

void cuda_operations::segment_attention(tensor_view output, tensor_view qkv, int32_t num_heads,
                                        tensor_view segment_start, live_count segments,
                                        live_count patches) {
  describe(described::segment_attention(output, qkv, num_heads, segment_start, segments, patches));
  segment_attention_arguments arguments;
  arguments.type = output.type;
  arguments.output = output.data;
  arguments.output_stride = output.row_stride;
  arguments.qkv = qkv.data;
  arguments.qkv_stride = qkv.row_stride;
  arguments.num_heads = num_heads;
  arguments.head_dim = static_cast<int32_t>(described::vision_head_dim(qkv, num_heads));
  arguments.segment_start = segment_start.as<const int32_t>();
  arguments.segments = segments.value;
  arguments.patches = patches.value;
  arguments.max_segments = static_cast<int32_t>(segment_start.elements()) - 1;
  arguments.max_patches = static_cast<int32_t>(output.rows());
  launch_segment_attention(arguments, context_->launches);
}

void cuda_operations::gelu(tensor_view output, tensor_view input, gelu_kind kind,
                           live_count rows) {
  describe(described::gelu(output, input, kind, rows));
  const auto function =
      kind == gelu_kind::tanh ? row_function::gelu_tanh : row_function::gelu_erf;
  launch_elementwise({function, output, input, rows.value}, context_->launches);
}

void cuda_operations::add(tensor_view x, tensor_view y, live_count rows) {
  describe(described::add(x, y, rows));
  launch_elementwise({row_function::add, x, y, rows.value}, context_->launches);
}

void cuda_operations::scatter_rows(tensor_view pool_level, tensor_view input,
                                   tensor_view destination, live_count rows) {
  describe(described::scatter_rows(pool_level, input, destination, rows));
  launch_scatter_rows({pool_level, input, destination, rows.value}, context_->launches);
}

}  // namespace troupe::gpu::cuda
