#include "actors/http/prometheus.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace troupe::http {

namespace {

std::string escaped_label(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out;
}

}  // namespace

void histogram::observe(double value, int64_t times) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  counts_[static_cast<size_t>(bucket - bounds_.begin())] += times;
  sum_ += value * static_cast<double>(times);
  count_ += times;
}

std::vector<std::string> prometheus_writer::names(const metric_name& metric) const {
  std::vector<std::string> names{fmt::format("troupe_{}", metric.name)};
  if (aliases_ && !metric.alias.empty()) names.push_back(fmt::format("vllm:{}", metric.alias));
  return names;
}

void prometheus_writer::header(std::string_view name, std::string_view help,
                               std::string_view type) {
  fmt::format_to(std::back_inserter(text_), "# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

void prometheus_writer::line(std::string_view name, const std::vector<label>& labels,
                             double value) {
  text_ += name;
  text_ += fmt::format("{{model_name=\"{}\"", escaped_label(model_name_));
  for (const auto& [key, text] : labels)
    text_ += fmt::format(",{}=\"{}\"", key, escaped_label(text));
  text_ += fmt::format("}} {}\n", value);
}

void prometheus_writer::family(const metric_name& metric, std::string_view type,
                               const std::vector<sample>& samples) {
  if (samples.empty()) return;
  for (const auto& name : names(metric)) {
    header(name, metric.help, type);
    for (const auto& each : samples) line(name, each.labels, each.value);
  }
}

void prometheus_writer::counter(const metric_name& metric, const std::vector<sample>& samples) {
  family(metric, "counter", samples);
}

void prometheus_writer::gauge(const metric_name& metric, const std::vector<sample>& samples) {
  family(metric, "gauge", samples);
}

void prometheus_writer::distribution(const metric_name& metric, const histogram& values,
                                     const std::vector<label>& labels) {
  for (const auto& name : names(metric)) {
    header(name, metric.help, "histogram");
    int64_t below = 0;
    auto bucket_labels = labels;
    bucket_labels.emplace_back("le", "");
    for (size_t i = 0; i < values.counts().size(); ++i) {
      below += values.counts()[i];
      const auto bound =
          i < values.bounds().size() ? fmt::to_string(values.bounds()[i]) : std::string("+Inf");
      bucket_labels.back().second = bound;
      line(name + "_bucket", bucket_labels, static_cast<double>(below));
    }
    line(name + "_sum", labels, values.sum());
    line(name + "_count", labels, static_cast<double>(values.count()));
  }
}

void prometheus_writer::process(const metric_name& metric, std::string_view type, double value) {
  header(metric.name, metric.help, type);
  text_ += fmt::format("{} {}\n", metric.name, value);
}

}  // namespace troupe::http
