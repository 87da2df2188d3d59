#pragma once

#include "gpu/operations.hpp"

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace troupe::gpu {

class warm_graph;

/// A graph that never ran: a name and the function that issues its operations.
class cold_graph {
 public:
  cold_graph(std::string name, std::function<void()> issue)
      : name_(std::move(name)), issue_(std::move(issue)) {}

  /// Runs the operations once, eagerly, so that whatever a backend initialises on first use is
  /// initialised outside of every capture.
  warm_graph warm(operations& backend) &&;

 private:
  std::string name_;
  std::function<void()> issue_;
};

/// A graph whose operations ran. Only a cold graph makes one.
class warm_graph {
 public:
  const std::string& name() const { return name_; }

  /// Runs the operations without a graph, with the same kernels.
  void run() const { issue_(); }

  /// Records the operations. Their operands must lie in `arenas`.
  captured_graph capture(operations& backend, std::vector<arena_lease> arenas) const {
    backend.begin_capture(std::move(arenas));
    issue_();
    return backend.end_capture(name_);
  }

 private:
  friend class cold_graph;
  warm_graph(std::string name, std::function<void()> issue)
      : name_(std::move(name)), issue_(std::move(issue)) {}

  std::string name_;
  std::function<void()> issue_;
};

inline warm_graph cold_graph::warm(operations& backend) && {
  issue_();
  backend.synchronize();
  return {std::move(name_), std::move(issue_)};
}

}  // namespace troupe::gpu
