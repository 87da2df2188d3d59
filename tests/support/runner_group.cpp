#include "support/runner_group.hpp"

#include "config/ensure.hpp"
#include "gpu/backend.hpp"
#include "gpu/cuda_backend.hpp"
#include "support/reference_set.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

namespace troupe::testing {
namespace {

std::unique_ptr<gpu::operations> make_backend(const group_options& options, int32_t rank = 0) {
  return options.backend ? options.backend() : gpu::make_operations(options.backend_options(rank));
}

transport::group_placement placement_of(const group_options& options) {
  transport::group_placement where{gpu::shared_memory_on(options.device), {}};
  for (int32_t rank = 0; rank < options.tp_size; ++rank)
    where.devices.push_back(options.backend_options(rank).cuda_device);
  return where;
}

model::visual_pool make_pool(const config::model_config& model, const group_options& options,
                             int32_t rows) {
  gpu::use_device(options.backend_options());
  return {model, options.activation, rows, gpu::shared_memory_on(options.device)};
}

std::shared_ptr<const model::safetensors_folder> open_weights(const group_options& options) {
  return std::make_shared<const model::safetensors_folder>(fixtures() / options.checkpoint);
}

// Tells CTest that the test was skipped.
constexpr int skipped_status = 77;

void no_progress(int64_t, int64_t) {}

}  // namespace

gpu::device_kind tested_device() {
  const char* name = std::getenv("TROUPE_TEST_DEVICE");
  if (name == nullptr || std::string(name) != "cuda") return gpu::device_kind::cpu;
  if (gpu::cuda_devices().empty()) {
    std::puts("skipped: this machine has no CUDA device");
    std::fflush(stdout);
    std::quick_exit(skipped_status);
  }
  return gpu::device_kind::cuda;
}

plan::plan_limits reference_limits(const config::model_config& model) {
  plan::plan_limits limits;
  limits.max_num_seqs = 20;
  limits.max_num_batched_tokens = 256;
  limits.block_size = 16;
  limits.max_model_len = 512;
  limits.max_blocks_per_sequence = 32;
  limits.num_blocks = 400;
  limits.visual_pool_rows = 1024;
  limits.max_adjustments = 64;
  limits.vocab_size = model.text.vocab_size;
  limits.token_buckets = plan::make_token_buckets(limits.max_num_batched_tokens);
  return limits;
}

namespace {

plan::plan_limits limits_for(const group_options& options, const config::model_config& model) {
  plan::plan_limits limits = reference_limits(model);
  if (options.token_buckets.empty()) return limits;
  limits.token_buckets = options.token_buckets;
  limits.max_num_batched_tokens = limits.token_buckets.back();
  return limits;
}

}  // namespace

gpu::backend_options group_options::backend_options(int32_t rank) const {
  gpu::backend_options options;
  options.device = device;
  options.cuda_device = rank % num_devices;
  options.ranks_on_device = (tp_size + num_devices - 1) / num_devices;
  return options;
}

runner_group::runner_group(const group_options& options)
    : options_(options),
      checkpoint_(config::read_checkpoint_config(fixtures() / options.checkpoint)),
      limits_(limits_for(options, checkpoint_.model)),
      symmetric_(options.tp_size,
                 {model::model_runner::lane(checkpoint_.model, limits_, options.tp_size)},
                 placement_of(options)),
      pool_(std::make_unique<model::visual_pool>(
          make_pool(checkpoint_.model, options, limits_.visual_pool_rows))) {
  for (int32_t rank = 0; rank < options.tp_size; ++rank) {
    ranks_.push_back(std::make_unique<rank_state>());
    start_rank(rank, options);
  }
  // Warming runs the collectives, so all ranks must be in it at once.
  std::vector<std::future<gpu::digest128>> captures;
  for (auto& rank : ranks_)
    captures.push_back(rank->thread.submit(
        [&runner = rank->runner] { return runner->capture([](int32_t, int32_t) {}); }));
  for (auto& capture : captures) capture.wait();
  for (auto& capture : captures) digests_.push_back(capture.get());
  start_encoder(options);
}

runner_group::~runner_group() {
  for (auto& rank : ranks_) rank->thread.call([&] { rank->runner.reset(); });
  encoder_thread_.call([&] {
    encoder_.reset();
    copier_.reset();
  });
}

model::visual_pool runner_group::map_pool(const group_options& options) const {
  return model::visual_pool::map(checkpoint_.model, options.activation, limits_.visual_pool_rows,
                                 gpu::shared_memory_on(options.device), pool_->file_descriptor());
}

void runner_group::start_rank(int32_t rank, const group_options& options, bool alone) {
  auto& own = *ranks_[static_cast<size_t>(rank)];
  own.thread.call([&] {
    const auto& model = checkpoint_.model;
    gpu::use_device(options.backend_options(rank));
    auto weights =
        model::load_text_weights(open_weights(options), model, rank, options.tp_size, no_progress);
    auto symmetric = std::make_unique<transport::symmetric_arena>(
        rank, symmetric_.file_descriptors(), symmetric_.lanes(), options.timeout,
        gpu::shared_memory_on(options.device));
    own.runner = std::make_unique<model::model_runner>(
        make_backend(options, rank), model, limits_, std::move(weights), std::move(symmetric),
        map_pool(options), model::runner_options{options.activation, options.eager, 1, {}, alone});
  });
}

void runner_group::begin_anew(uint64_t epoch, const std::vector<int32_t>& replaced) {
  for (const int32_t rank : replaced) {
    auto& own = *ranks_[static_cast<size_t>(rank)];
    own.thread.call([&] { own.runner.reset(); });
    start_rank(rank, options_, true);
    on_rank(rank, [](model::model_runner& runner) { runner.capture([](int32_t, int32_t) {}); });
  }
  symmetric_ = transport::symmetric_memory(tp_size(), symmetric_.lanes(), placement_of(options_));
  for (int32_t rank = 0; rank < tp_size(); ++rank)
    digests_[static_cast<size_t>(rank)] = on_rank(rank, [&](model::model_runner& runner) {
      return runner.join(symmetric_.file_descriptors(), epoch);
    });
}

void runner_group::start_encoder(const group_options& options) {
  encoder_thread_.call([&] {
    const auto& model = checkpoint_.model;
    copier_ = gpu::make_operations(options.backend_options());
    encoder_ = std::make_unique<model::vision_runner>(
        make_backend(options), model,
        model::load_vision_weights(open_weights(options), model, no_progress), map_pool(options),
        model::vision_options{options.activation, options.eager, options.max_patches, max_segments,
                              options.max_slice_flops});
    encoder_->capture([](int32_t, int32_t) {});
  });
}

std::future<plan::step_result> runner_group::run_on(int32_t rank, const plan::step_plan& plan) {
  auto& own = *ranks_[static_cast<size_t>(rank)];
  return own.thread.submit([&runner = own.runner, plan] { return runner->run(plan); });
}

plan::step_result runner_group::run(const plan::step_plan& plan) {
  std::vector<std::future<plan::step_result>> answers;
  for (size_t rank = 0; rank < ranks_.size(); ++rank)
    answers.push_back(run_on(static_cast<int32_t>(rank), plan));
  for (auto& answer : answers) answer.wait();
  plan::step_result first = answers[0].get();
  for (size_t rank = 1; rank < answers.size(); ++rank) {
    const plan::step_result other = answers[rank].get();
    config::ensure(other.content == first.content && other.tokens == first.tokens &&
                       other.logprobs == first.logprobs,
                   "rank {} does not agree with rank 0 on step {}", rank, first.step);
  }
  return first;
}

model::step_verification runner_group::verify(const plan::step_plan& plan) {
  std::vector<std::future<model::step_verification>> answers;
  for (auto& rank : ranks_)
    answers.push_back(
        rank->thread.submit([&runner = rank->runner, &plan] { return runner->verify(plan); }));
  for (auto& answer : answers) answer.wait();
  model::step_verification first = answers[0].get();
  for (size_t rank = 1; rank < answers.size(); ++rank) {
    const model::step_verification other = answers[rank].get();
    config::ensure(other.result.tokens == first.result.tokens,
                   "rank {} does not agree with rank 0 on verified step {}", rank, plan.step);
    if (first.difference.empty()) first.difference = other.difference;
  }
  return first;
}

void runner_group::encode(const std::vector<model::encode_item>& items) {
  encoder_thread_.call([&] { encoder_->encode(items); });
}

std::vector<model::step_fingerprint> runner_group::fingerprints(const plan::step_plan& plan) {
  std::vector<model::step_fingerprint> all;
  for (int32_t rank = 0; rank < tp_size(); ++rank)
    all.push_back(
        on_rank(rank, [&](model::model_runner& runner) { return runner.fingerprint(plan); }));
  return all;
}

std::vector<std::byte> runner_group::read_bytes(const gpu::tensor_view& view) {
  std::vector<std::byte> bytes(static_cast<size_t>(view.span_bytes()));
  encoder_thread_.call([&] {
    copier_->download(bytes.data(), view, view.span_bytes());
    copier_->synchronize();
  });
  return bytes;
}

void runner_group::write_bytes(const gpu::tensor_view& view, const std::vector<std::byte>& bytes) {
  encoder_thread_.call([&] {
    copier_->upload(view, bytes.data(), std::ssize(bytes));
    copier_->synchronize();
  });
}

std::vector<float> runner_group::read(const gpu::tensor_view& view) {
  std::vector<float> values(static_cast<size_t>(view.elements()));
  encoder_thread_.call([&] {
    copier_->download(values.data(), view, view.span_bytes());
    copier_->synchronize();
  });
  return values;
}

void runner_group::write(const gpu::tensor_view& view, const std::vector<float>& values) {
  encoder_thread_.call([&] {
    copier_->upload(view, values.data(), view.span_bytes());
    copier_->synchronize();
  });
}

std::vector<float> runner_group::logits(int32_t row) {
  return on_rank(0, [&](model::model_runner& runner) { return runner.logits(row); });
}

}  // namespace troupe::testing
