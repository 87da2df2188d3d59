#pragma once

#include <sys/types.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace troupe::actors {

/// A program that could not be started.
class launch_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Owner of a file descriptor.
class file_descriptor {
 public:
  file_descriptor() = default;
  explicit file_descriptor(int number) : number_(number) {}
  ~file_descriptor() { reset(); }
  file_descriptor(file_descriptor&& other) noexcept : number_(other.release()) {}
  file_descriptor& operator=(file_descriptor&& other) noexcept;

  int number() const { return number_; }
  int release();
  void reset();

 private:
  int number_ = -1;
};

/// The two ends of a pipe; neither is inherited by a program unless it is asked for.
struct pipe_ends {
  file_descriptor read;
  file_descriptor write;
};
/// Throws launch_error.
pipe_ends make_pipe();

/// The first descriptor a child inherits beside the three standard ones.
inline constexpr int first_inherited_descriptor = 3;

/// A program of ours in a process of its own. Dies with its owner: the destructor kills it and waits.
class child_process {
 public:
  /// Starts `program` with `arguments` (the program's name not among them), in our environment and
  /// `variables` ("NAME=value"). The child sees
  /// `descriptors` as first_inherited_descriptor, +1, ... and no other descriptor of ours but standard input,
  /// output and error. Throws launch_error; then nothing is left behind.
  child_process(const std::string& program, const std::vector<std::string>& arguments,
                const std::vector<std::string>& variables, const std::vector<int>& descriptors);
  ~child_process();
  child_process(const child_process&) = delete;
  child_process& operator=(const child_process&) = delete;

  pid_t id() const { return id_; }

 private:
  pid_t id_ = -1;
};

}  // namespace troupe::actors
