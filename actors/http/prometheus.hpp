#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::http {

/// Counts of values by upper bound, as Prometheus wants them. For one thread.
class histogram {
 public:
  /// `bounds` ascend; a last bucket without bound is added.
  explicit histogram(std::vector<double> bounds)
      : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

  /// Counts `value` `times` times.
  void observe(double value, int64_t times = 1);

  const std::vector<double>& bounds() const { return bounds_; }
  const std::vector<int64_t>& counts() const { return counts_; }  // per bucket, not cumulative
  double sum() const { return sum_; }
  int64_t count() const { return count_; }

 private:
  std::vector<double> bounds_;
  std::vector<int64_t> counts_;
  double sum_ = 0;
  int64_t count_ = 0;
};

using label = std::pair<std::string_view, std::string_view>;
struct sample {
  std::vector<label> labels;
  double value = 0;
};

/// One metric: our name without its prefix, what it says, and the name that dashboards for vLLM
/// know it by, if any.
struct metric_name {
  std::string_view name;
  std::string_view help;
  std::string_view alias = {};
};

/// Writes the Prometheus text format 0.0.4. Every family that has an alias is written under both
/// names if aliases are on.
class prometheus_writer {
 public:
  prometheus_writer(std::string model_name, bool aliases)
      : model_name_(std::move(model_name)), aliases_(aliases) {}

  void counter(const metric_name& metric, const std::vector<sample>& samples);
  void gauge(const metric_name& metric, const std::vector<sample>& samples);
  void counter(const metric_name& metric, double value) { counter(metric, {sample{{}, value}}); }
  void gauge(const metric_name& metric, double value) { gauge(metric, {sample{{}, value}}); }
  void distribution(const metric_name& metric, const histogram& values,
                    const std::vector<label>& labels = {});
  /// A name of Prometheus' own (process_…): no prefix, no model.
  void process(const metric_name& metric, std::string_view type, double value);

  std::string take() { return std::move(text_); }

 private:
  void family(const metric_name& metric, std::string_view type, const std::vector<sample>& samples);
  void header(std::string_view name, std::string_view help, std::string_view type);
  void line(std::string_view name, const std::vector<label>& labels, double value);
  std::vector<std::string> names(const metric_name& metric) const;

  std::string model_name_;
  bool aliases_;
  std::string text_;
};

}  // namespace troupe::http
