#include "actors/cli/kernel_profile.hpp"

#include "gpu/cuda_backend.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <stdexcept>
#include <vector>

namespace troupe::cli {
namespace {

struct kernel_total {
  std::string name;
  int64_t runs = 0;
  int64_t time_ns = 0;
};

/// "skinny_linear_kernel<1, 1, float>" of a demangled signature.
std::string short_name(const std::string& name) {
  std::string text = name.substr(0, name.find("(", name.find("kernel")));
  for (const char* noise : {"void ", "troupe::gpu::cuda::", "(anonymous namespace)::"})
    for (auto at = text.find(noise); at != std::string::npos; at = text.find(noise))
      text.erase(at, std::string(noise).size());
  return text.substr(0, 60);
}

std::vector<kernel_total> totals_of(const std::vector<gpu::kernel_run>& kernels) {
  std::map<std::string, kernel_total> by_name;
  for (const auto& kernel : kernels) {
    auto& total = by_name[short_name(kernel.name)];
    ++total.runs;
    total.time_ns += kernel.end_ns - kernel.begin_ns;
  }
  std::vector<kernel_total> totals;
  for (auto& [name, total] : by_name) totals.push_back({name, total.runs, total.time_ns});
  std::sort(totals.begin(), totals.end(),
            [](const auto& a, const auto& b) { return a.time_ns > b.time_ns; });
  return totals;
}

/// Time within the span in which no kernel runs. `kernels` are in the order of their start.
int64_t idle_ns(const std::vector<gpu::kernel_run>& kernels) {
  int64_t idle = 0, busy_until = kernels.front().begin_ns;
  for (const auto& kernel : kernels) {
    idle += std::max<int64_t>(0, kernel.begin_ns - busy_until);
    busy_until = std::max(busy_until, kernel.end_ns);
  }
  return idle;
}

int64_t last_end(const std::vector<gpu::kernel_run>& kernels) {
  return std::max_element(kernels.begin(), kernels.end(),
                          [](const auto& a, const auto& b) { return a.end_ns < b.end_ns; })
      ->end_ns;
}

void write_picture(const std::string& path, const std::vector<gpu::kernel_run>& kernels,
                   const std::vector<kernel_total>& totals) {
  constexpr double width = 1200, lane = 18, label = 380;
  const int64_t first = kernels.front().begin_ns;
  const double scale = width / static_cast<double>(last_end(kernels) - first);
  std::ofstream out(path);
  if (!out) throw std::runtime_error("cannot write " + path);
  out << fmt::format(R"(<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" )"
                     R"(font-family="monospace" font-size="11">)",
                     label + width + 10, lane * static_cast<double>(totals.size()) + 10);
  for (size_t i = 0; i < totals.size(); ++i) {
    std::string name = totals[i].name;
    for (auto at = name.find('<'); at != std::string::npos; at = name.find('<', at + 4))
      name.replace(at, 1, "&lt;");
    out << fmt::format(R"(<text x="2" y="{}">{}</text>)", lane * static_cast<double>(i) + 14, name);
  }
  for (const auto& kernel : kernels) {
    const auto place = std::find_if(totals.begin(), totals.end(), [&](const auto& total) {
      return total.name == short_name(kernel.name);
    });
    const auto row = static_cast<double>(place - totals.begin());
    out << fmt::format(
        R"svg(<rect x="{:.2f}" y="{}" width="{:.2f}" height="{}" fill="hsl({},60%,45%)"/>)svg",
        label + static_cast<double>(kernel.begin_ns - first) * scale, lane * row + 4,
        std::max(0.3, static_cast<double>(kernel.end_ns - kernel.begin_ns) * scale), lane - 5,
        static_cast<int>(row * 47) % 360);
  }
  out << "</svg>\n";
}

}  // namespace

double print_kernel_profile(const std::function<void()>& run, const std::string& picture) {
  auto kernels = gpu::record_cuda_kernels(run);
  std::erase_if(kernels, [](const auto& kernel) { return kernel.device != 0; });
  if (kernels.empty()) throw std::runtime_error("no kernel was recorded");
  const auto span = static_cast<double>(last_end(kernels) - kernels.front().begin_ns);
  fmt::print("\n{:<60} {:>6} {:>10} {:>9} {:>7}\n", "kernel", "runs", "time us", "us each",
             "share");
  const auto totals = totals_of(kernels);
  for (const auto& total : totals) {
    const auto time = static_cast<double>(total.time_ns);
    fmt::print("{:<60} {:>6} {:>10.1f} {:>9.2f} {:>6.1f}%\n", total.name, total.runs, time * 1e-3,
               time * 1e-3 / static_cast<double>(total.runs), 100 * time / span);
  }
  const auto idle = static_cast<double>(idle_ns(kernels));
  fmt::print("{:<60} {:>6} {:>10.1f} {:>9} {:>6.1f}%\n", "no kernel", "", idle * 1e-3, "",
             100 * idle / span);
  fmt::print("{:<60} {:>6} {:>10.1f}\n", "first start to last end", kernels.size(), span * 1e-3);
  if (!picture.empty()) write_picture(picture, kernels, totals);
  return span * 1e-9;
}

}  // namespace troupe::cli
