#include "actors/cli/bench.hpp"
#include "actors/cli/elapsed.hpp"
#include "actors/cli/exchanging_rank.hpp"
#include "actors/cli/rank_team.hpp"
#include "config/error.hpp"
#include "gpu/cuda_backend.hpp"
#include "gpu/error.hpp"
#include "gpu/nccl.hpp"
#include "transport/symmetric_arena.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace troupe::cli {
namespace {

constexpr std::chrono::seconds nccl_timeout{30};
constexpr int64_t link_bytes = int64_t{256} << 20;

struct allreduce_options {
  int32_t ranks = 2;
  std::vector<int32_t> devices;  // [ranks]; empty: one after another
  std::string device = "auto";
  std::string dtype = "bfloat16";
  int64_t width = 4096;  // of 8b
  std::vector<int64_t> sizes;
  int32_t replays = 50;

  gpu::dtype type() const { return dtype == "float32" ? gpu::dtype::f32 : gpu::dtype::bf16; }
};

/// Where each rank runs.
std::vector<gpu::backend_options> backends_of(const allreduce_options& options) {
  const auto found = static_cast<int32_t>(gpu::cuda_devices().size());
  if (options.device == "cuda" && found == 0)
    throw config::error("--device is cuda, but there is no CUDA device");
  const bool cuda = options.device != "cpu" && found > 0;
  if (!options.devices.empty() && std::ssize(options.devices) != options.ranks)
    throw config::error(
        fmt::format("{} devices for {} ranks", options.devices.size(), options.ranks));
  std::vector<gpu::backend_options> backends(static_cast<size_t>(options.ranks));
  for (int32_t rank = 0; rank < options.ranks; ++rank) {
    auto& own = backends[static_cast<size_t>(rank)];
    const auto cores = static_cast<int32_t>(std::thread::hardware_concurrency());
    own.num_threads = std::max(1, cores / options.ranks);
    if (!cuda) continue;
    own.device = gpu::device_kind::cuda;
    own.cuda_device =
        options.devices.empty() ? rank % found : options.devices[static_cast<size_t>(rank)];
  }
  for (auto& own : backends)
    own.ranks_on_device = static_cast<int32_t>(std::ranges::count(
        backends, own.cuda_device, [](const auto& other) { return other.cuda_device; }));
  return backends;
}

bool share_devices(const std::vector<gpu::backend_options>& backends) {
  return std::ranges::any_of(backends, [](const auto& own) { return own.ranks_on_device > 1; });
}

std::string describe(const std::vector<gpu::backend_options>& backends) {
  const size_t ranks = backends.size();
  if (backends.front().device == gpu::device_kind::cpu)
    return fmt::format("{} ranks on the CPU, {} threads each: no GPU, no link", ranks,
                       backends.front().num_threads);
  const auto name = gpu::cuda_devices().front().name;
  return share_devices(backends)
             ? fmt::format("{} ranks that share a {}: no link between them", ranks, name)
             : fmt::format("{} ranks, a {} each", ranks, name);
}

/// One message: `rows` rows of activations. Sums are of f32 partial values, one for each
/// activation.
struct message {
  int64_t bytes = 0;  // as activations
  int64_t rows = 0;
  int32_t rounds = 0;  // in a graph

  std::string name(int64_t width) const {
    const bool megabytes = bytes >= (1 << 20);
    return fmt::format("{} x {} ({} {})", rows, width, bytes >> (megabytes ? 20 : 10),
                       megabytes ? "MB" : "KB");
  }
};

std::vector<message> messages_of(const allreduce_options& options, gpu::device_kind device) {
  const bool cuda = device == gpu::device_kind::cuda;
  auto sizes = options.sizes;
  if (sizes.empty())
    for (int64_t bytes = 8 << 10; bytes <= (cuda ? 16 << 20 : 1 << 20); bytes *= 2)
      sizes.push_back(bytes);
  // Graphs of some milliseconds, against which their launch is nothing.
  const int64_t bytes_per_graph = cuda ? 256 << 20 : 4 << 20;
  const int64_t rounds_max = cuda ? 1000 : 50;
  std::vector<message> messages;
  for (const int64_t bytes : sizes) {
    const int64_t row_bytes = options.width * gpu::size_of(options.type());
    if (bytes <= 0 || bytes % row_bytes != 0)
      throw config::error(
          fmt::format("--sizes {}: expected whole rows of {} bytes", bytes, row_bytes));
    messages.push_back(
        {bytes, bytes / row_bytes,
         static_cast<int32_t>(std::clamp<int64_t>(bytes_per_graph / bytes, 4, rounds_max))});
  }
  return messages;
}

/// Median over replays of the slowest rank's seconds, per round.
double seconds_per_round(rank_team& team, int32_t replays, int32_t rounds,
                         const std::function<void(int32_t)>& replay) {
  std::vector<std::vector<double>> times(static_cast<size_t>(team.size()));
  team.run([&](int32_t rank) {
    for (int32_t i = 0; i <= replays; ++i) {
      team.meet();
      const auto begin = std::chrono::steady_clock::now();
      replay(rank);
      times[static_cast<size_t>(rank)].push_back(seconds_since(begin));
    }
  });
  std::vector<double> slowest;
  for (size_t i = 1; i < times.front().size(); ++i) {
    slowest.push_back(0);
    for (const auto& own : times) slowest.back() = std::max(slowest.back(), own[i]);
  }
  return quantile(slowest, 0.5) / rounds;
}

/// What bounds an exchange between devices, measured in this process.
struct link_limits {
  double bytes_per_second = 0;  // 0: there is no link, and no limit
  double flag_seconds = 0;      // one way

  /// Of a sum of `elements` to which every rank brings `part_bytes` and gets `sum_bytes` back, each
  /// for its share of the elements: what must come in over a rank's link, and a flag behind it.
  double seconds(int32_t ranks, int64_t elements, int64_t part_bytes, int64_t sum_bytes) const {
    const double share = static_cast<double>(ranks - 1) / ranks;
    return flag_seconds +
           share * static_cast<double>(elements * (part_bytes + sum_bytes)) / bytes_per_second;
  }
};

class allreduce_bench {
 public:
  explicit allreduce_bench(const allreduce_options& options)
      : options_(options),
        backends_(backends_of(options)),
        messages_(messages_of(options, backends_.front().device)),
        group_(make_group()),
        team_(options.ranks),
        ranks_(static_cast<size_t>(options.ranks)) {
    on_ranks([&](int32_t rank) {
      gpu::use_device(backends_[static_cast<size_t>(rank)]);
      ranks_[static_cast<size_t>(rank)] = std::make_unique<exchanging_rank>(
          shape(), rank, backends_[static_cast<size_t>(rank)], group_);
    });
  }
  ~allreduce_bench() {
    team_.run([&](int32_t rank) {
      const auto index = static_cast<size_t>(rank);
      if (index < communicators_.size()) communicators_[index].reset();
      ranks_[index].reset();
    });
  }
  allreduce_bench(const allreduce_bench&) = delete;
  allreduce_bench& operator=(const allreduce_bench&) = delete;

  void run() {
    fmt::print("{}; sums of f32 partial values, sizes as {} activations\n", describe(backends_),
               options_.dtype);
    if (has_link()) measure_link();
    open_nccl();
    for (const auto& sent : messages_) measure(sent);
  }

 private:
  bool has_link() const {
    return backends_.front().device == gpu::device_kind::cuda && !share_devices(backends_);
  }

  exchanged_rows shape() const {
    return {options_.type(), options_.width,
            std::ranges::max_element(messages_, {}, &message::rows)->rows};
  }

  transport::symmetric_memory make_group() const {
    transport::group_placement where{gpu::shared_memory_on(backends_.front().device), {}};
    for (const auto& own : backends_) where.devices.push_back(own.cuda_device);
    return {options_.ranks, exchanging_rank::lanes(shape(), has_link() ? link_bytes : 0), where};
  }

  /// A rank that fails takes the others out of their waits.
  void on_ranks(const std::function<void(int32_t)>& task) {
    team_.run([&](int32_t rank) {
      try {
        task(rank);
      } catch (...) {
        group_.abort();
        throw;
      }
    });
  }
  exchanging_rank& at(int32_t rank) { return *ranks_[static_cast<size_t>(rank)]; }

  void measure_link() {
    std::vector<double> rates(ranks_.size());
    double round_trip = 0;
    on_ranks([&](int32_t rank) {
      const auto& lane = at(rank).messages();
      const auto next = static_cast<size_t>((rank + 1) % lane.size);
      team_.meet();
      rates[static_cast<size_t>(rank)] =
          gpu::measure_cuda_link_rate(lane.pieces[next] + gpu::lane_control_bytes, link_bytes);
      team_.meet();
      if (rank > 1) return;
      const double trip = gpu::measure_cuda_flag_round_trip(at(rank).flags());
      if (rank == 0) round_trip = trip;
    });
    link_.bytes_per_second = *std::ranges::min_element(rates);
    link_.flag_seconds = round_trip / 2;
    print_row({"reads of a peer, all ranks at once",
               fmt::format("{:.1f} GB/s", link_.bytes_per_second * 1e-9), "", 0});
    print_row({"flag forth and back", fmt::format("{:.2f} us", round_trip * 1e6), "", 0});
  }

  /// NCCL wants a device of its own for every rank.
  void open_nccl() {
    if (!has_link()) return no_nccl("ranks without a device each");
    if (gpu::nccl_version().empty()) return no_nccl("not found, or not built in");
    communicators_.resize(ranks_.size());
    try {
      const auto id = gpu::make_nccl_id();
      team_.run([&](int32_t rank) {
        communicators_[static_cast<size_t>(rank)] =
            gpu::join_nccl({id, rank, options_.ranks, nccl_timeout});
      });
      print_row({"NCCL", gpu::nccl_version(), "", 0});
    } catch (const gpu::error& failure) {
      communicators_.clear();
      no_nccl(failure.what());
    }
  }
  void no_nccl(const std::string& why) { print_row({"NCCL is not measured", why, "", 0}); }

  double measure_graph(const message& sent, void (exchanging_rank::*capture)(int64_t, int32_t)) {
    on_ranks([&](int32_t rank) { (at(rank).*capture)(sent.rows, sent.rounds); });
    const double seconds = seconds_per_round(team_, options_.replays, sent.rounds,
                                             [&](int32_t rank) { at(rank).replay(); });
    on_ranks([&](int32_t rank) { at(rank).expect_no_failure(); });
    return seconds;
  }

  void measure(const message& sent) {
    const double fused = measure_graph(sent, &exchanging_rank::capture_all_reduces);
    const double local = measure_graph(sent, &exchanging_rank::capture_norms);
    const double gather = measure_graph(sent, &exchanging_rank::capture_gathers);
    const auto nccl = measure_nccl(sent);
    const int64_t part = gpu::size_of(gpu::dtype::f32);
    print(sent, sent.name(options_.width) + ": all-reduce + norm", fused, part,
          gpu::size_of(options_.type()),
          nccl.empty() ? "" : fmt::format(", {:.2f} of NCCL", fused / fastest(nccl)));
    print_row(
        {"  residual and norm, no exchange",
         fmt::format("{:.2f} us: the exchange adds {:.2f} us", local * 1e6, (fused - local) * 1e6),
         "", 0});
    print(sent, "  gather of the same parts, no sum", gather, part * options_.ranks, 0, "");
    for (const auto& row : nccl)
      print(sent, row.name, row.seconds, row.element_bytes, row.element_bytes, "");
  }

  struct nccl_row {
    std::string name;
    double seconds = 0;
    int64_t element_bytes = 0;
  };
  static double fastest(const std::vector<nccl_row>& rows) {
    return std::ranges::min_element(rows, {}, &nccl_row::seconds)->seconds;
  }

  /// Without residual and norm, which the runtime's own all-reduce includes. A kind that cannot be
  /// measured says so once.
  std::vector<nccl_row> measure_nccl(const message& sent) {
    std::vector<nccl_row> rows;
    for (const bool windows : {false, true})
      for (const auto type : {gpu::dtype::f32, gpu::dtype::bf16}) {
        if (communicators_.empty() || (windows && no_windows_)) continue;
        const auto name = fmt::format("  NCCL {}{}", type == gpu::dtype::f32 ? "f32" : "bf16",
                                      windows ? ", symmetric windows" : "");
        try {
          rows.push_back({name,
                          seconds_of_nccl({sent.rounds, sent.rows * options_.width, type, windows}),
                          gpu::size_of(type)});
        } catch (const gpu::error& failure) {
          print_row({name, failure.what(), "", 0});
          if (windows)
            no_windows_ = true;
          else
            communicators_.clear();
        }
      }
    return rows;
  }

  double seconds_of_nccl(const gpu::nccl_rounds& wanted) {
    std::vector<std::unique_ptr<gpu::repeated_run>> runs(ranks_.size());
    const auto close = [&] {
      team_.run([&](int32_t rank) { runs[static_cast<size_t>(rank)].reset(); });
    };
    try {
      team_.run([&](int32_t rank) {
        const auto index = static_cast<size_t>(rank);
        runs[index] = gpu::capture_nccl_rounds(communicators_[index], wanted);
      });
      const double seconds =
          seconds_per_round(team_, options_.replays, wanted.rounds,
                            [&](int32_t rank) { runs[static_cast<size_t>(rank)]->run(); });
      close();
      return seconds;
    } catch (...) {
      close();
      throw;
    }
  }

  /// `part_bytes` per element come in from every peer, `sum_bytes` of each sum that a peer made.
  void print(const message& sent, const std::string& name, double seconds, int64_t part_bytes,
             int64_t sum_bytes, const std::string& note) {
    bench_row row{name, fmt::format("{:.2f} us{}", seconds * 1e6, note), "", 0};
    if (link_.bytes_per_second > 0) {
      const double limit =
          link_.seconds(options_.ranks, sent.rows * options_.width, part_bytes, sum_bytes);
      row.limit = fmt::format("{:.2f} us: a flag, then {:.1f} GB/s", limit * 1e6,
                              link_.bytes_per_second * 1e-9);
      row.share = limit / seconds;
    }
    print_row(row);
  }

  allreduce_options options_;
  std::vector<gpu::backend_options> backends_;
  std::vector<message> messages_;
  transport::symmetric_memory group_;
  rank_team team_;
  std::vector<std::unique_ptr<exchanging_rank>> ranks_;
  std::vector<std::shared_ptr<gpu::cuda::nccl_communicator>> communicators_;  // empty: no NCCL
  bool no_windows_ = false;
  link_limits link_;
};

int bench_allreduce(const allreduce_options& options) {
  allreduce_bench(options).run();
  return 0;
}

}  // namespace

void add_bench_allreduce(CLI::App& bench, action& chosen) {
  const auto options = std::make_shared<allreduce_options>();
  auto* command =
      bench.add_subcommand("allreduce", "All-reduces in graphs, beside NCCL and the link");
  command->add_option("--ranks", options->ranks, "threads, one device each if there are as many")
      ->check(CLI::Range(2, gpu::max_ranks))
      ->capture_default_str();
  command->add_option("--devices", options->devices, "CUDA device of each rank")->delimiter(',');
  command->add_option("--device", options->device, "cpu, cuda or auto")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--dtype", options->dtype, "of activations: bfloat16 or float32")
      ->check(CLI::IsMember({"bfloat16", "float32"}))
      ->capture_default_str();
  command->add_option("--width", options->width, "of a row of activations")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--sizes", options->sizes, "bytes of activations, whole rows")
      ->delimiter(',');
  command->add_option("--replays", options->replays, "measured replays of each graph")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->callback(
      [&chosen, options] { chosen = [options] { return bench_allreduce(*options); }; });
}

}  // namespace troupe::cli
