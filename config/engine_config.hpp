#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace troupe::config {

enum class compute_dtype : uint8_t { float32, bfloat16 };

/// What a model runs on; automatic: GPUs if this build and this machine have some.
enum class device_choice : uint8_t { automatic, cpu, cuda };

/// Where a shard lives: a thread of the node's process or a process of its own; automatic: a process on GPUs,
/// since a CUDA context that met an illegal address ends with its process alone.
enum class isolation_mode : uint8_t { automatic, thread, process };

/// One value of every setting, after files, environment and flags were merged (config/load.hpp).
/// Sizes that are 0 are chosen at start from the model and the memory, and printed.
struct engine_config {
  struct model_settings {
    std::string path;                       // checkpoint folder
    std::vector<std::string> served_names;  // empty: the folder's name
    compute_dtype dtype = compute_dtype::bfloat16;
    int64_t max_model_len = 0;  // tokens; 0: max_position_embeddings
    uint64_t seed = 0;          // of requests that bring none
  } model;

  struct parallel_settings {
    int32_t tensor = 1;
    device_choice device = device_choice::automatic;
    isolation_mode isolation = isolation_mode::automatic;
    std::string shard_program;  // started for shards in processes; empty: this program
  } parallel;

  struct limit_settings {
    int32_t max_num_seqs = 0;            // 0: 32 on the CPU, 64 on GPUs
    int32_t max_num_batched_tokens = 0;  // 0: 512 on the CPU, 8192 on GPUs
    int32_t max_prefill_tokens_beside_decode = 0;  // 0: what max_num_batched_tokens leaves
    int32_t block_size = 16;        // tokens per KV block
    int64_t kv_cache_bytes = 0;     // per rank; 0: from memory_share
    double memory_share = 0;        // of the memory free at start; 0: 0.5 on the CPU, 0.9 on GPUs
    int32_t visual_pool_rows = 0;   // 0: enough for max_num_batched_tokens twice and one full item
    int32_t vision_max_patches = 0; // per encoder step; 0: the largest picture
    // Of the vision tower's work, between two steps; 0: whole pictures, beside steps; -1: 1000 on GPUs, 0 on
    // the CPU, where the tower has cores of its own.
    int32_t vision_slice_microseconds = -1;
    int32_t max_waiting_requests = 256;
    int64_t max_waiting_tokens = 1 << 20;
    int32_t max_images_per_request = 16;
    int32_t max_video_frames = 768;
    int64_t max_request_pixels = int64_t{1} << 28;  // decoded, all pictures of a request
    std::chrono::milliseconds request_deadline{600'000};
    std::chrono::milliseconds step_timeout{30'000};  // a shard silent for longer is lost
    bool prefix_cache = true;
    bool eager = false;
    int32_t verify_every = 0;  // one of so many steps also runs without its graph, to compare; 0: none
    bool mask_unused_tokens = true;  // never sample ids without a token or vision sentinels
  } limits;

  struct vision_settings {
    int64_t min_pixels = 0;  // of one picture after resizing; 0: as the checkpoint says
    int64_t max_pixels = 0;
  } vision;

  struct http_settings {
    std::string host = "127.0.0.1";
    uint16_t port = 8000;
    std::vector<std::string> api_keys;  // those of api_keys_file included
    std::string api_keys_file;          // one key per line
    int64_t max_body_bytes = int64_t{64} << 20;
    int32_t max_connections = 1024;
    std::chrono::milliseconds header_timeout{10'000};
    std::chrono::milliseconds stalled_client_timeout{30'000};
    int64_t stream_buffer_bytes = 256 << 10;
    std::chrono::milliseconds ping_interval{15'000};
  } http;

  struct log_settings {
    std::string level = "info";
  } log;
};

}  // namespace troupe::config
