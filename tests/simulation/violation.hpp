#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>

namespace troupe::simulation {

/// A promise was broken; the text says which.
class violation : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// How often each rare thing happened: a simulation that never preempts proves nothing about
/// preemption.
using coverage = std::map<std::string, int64_t>;

}  // namespace troupe::simulation
