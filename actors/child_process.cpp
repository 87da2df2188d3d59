#include "actors/child_process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

extern char** environ;

namespace troupe::actors {
namespace {

// Copies are made above this number, so that placing one where the child expects it cannot overwrite
// another that is still to be placed.
constexpr int scratch_descriptor = 256;

[[noreturn]] void fail(const char* call, int number) {
  throw launch_error(fmt::format("{}: {}", call, std::strerror(number)));
}

/// What happens to descriptors between fork and exec.
class spawn_actions {
 public:
  spawn_actions() {
    if (const int code = posix_spawn_file_actions_init(&actions_); code != 0)
      fail("posix_spawn_file_actions_init", code);
  }
  ~spawn_actions() { posix_spawn_file_actions_destroy(&actions_); }
  spawn_actions(const spawn_actions&) = delete;
  spawn_actions& operator=(const spawn_actions&) = delete;

  void place(int from, int to) {
    if (const int code = posix_spawn_file_actions_adddup2(&actions_, from, to); code != 0)
      fail("posix_spawn_file_actions_adddup2", code);
  }
  void close_from(int first) {
    if (const int code = posix_spawn_file_actions_addclosefrom_np(&actions_, first); code != 0)
      fail("posix_spawn_file_actions_addclosefrom_np", code);
  }
  const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_;
};

std::vector<char*> pointers_to(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (auto& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

file_descriptor& file_descriptor::operator=(file_descriptor&& other) noexcept {
  if (this != &other) {
    reset();
    number_ = other.release();
  }
  return *this;
}

int file_descriptor::release() { return std::exchange(number_, -1); }

void file_descriptor::reset() {
  if (number_ >= 0 && ::close(number_) != 0)
    spdlog::warn("close of descriptor {}: {}", number_, std::strerror(errno));
  number_ = -1;
}

pipe_ends make_pipe() {
  int ends[2] = {-1, -1};
  if (::pipe2(ends, O_CLOEXEC) != 0) fail("pipe2", errno);
  return {file_descriptor(ends[0]), file_descriptor(ends[1])};
}

child_process::child_process(const std::string& program, const std::vector<std::string>& arguments,
                             const std::vector<std::string>& variables,
                             const std::vector<int>& descriptors) {
  spawn_actions actions;
  std::vector<file_descriptor> copies;
  int place = first_inherited_descriptor;
  for (const int descriptor : descriptors) {
    copies.emplace_back(::fcntl(descriptor, F_DUPFD_CLOEXEC, scratch_descriptor));
    if (copies.back().number() < 0) fail("fcntl(F_DUPFD_CLOEXEC)", errno);
    actions.place(copies.back().number(), place++);
  }
  actions.close_from(place);

  std::vector<std::string> words{program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  auto argv = pointers_to(words);
  auto settings = variables;
  for (char** setting = environ; *setting != nullptr; ++setting) settings.emplace_back(*setting);
  auto environment = pointers_to(settings);
  pid_t id = -1;
  const int code = posix_spawn(&id, program.c_str(), actions.get(), nullptr, argv.data(),
                               environment.data());
  if (code != 0)
    throw launch_error(fmt::format("cannot start {}: {}", program, std::strerror(code)));
  id_ = id;
}

child_process::~child_process() {
  // A child that ended already is a zombie of this number until waited for: the number is still ours.
  if (::kill(id_, SIGKILL) != 0)
    spdlog::warn("kill of process {}: {}", id_, std::strerror(errno));
  int status = 0;
  while (::waitpid(id_, &status, 0) < 0) {
    if (errno == EINTR) continue;
    spdlog::warn("waitpid of process {}: {}", id_, std::strerror(errno));
    break;
  }
}

}  // namespace troupe::actors
