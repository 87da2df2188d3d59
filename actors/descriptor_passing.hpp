#pragma once

#include "actors/child_process.hpp"

#include <chrono>
#include <optional>
#include <utility>
#include <vector>

/// File descriptors on their way to a process that runs already, over a pair of connected sockets
/// of which it inherited one: nobody else can send on it, so that what comes needs no other proof.
/// The receiver answers with the numbers that the descriptors have there.
namespace troupe::actors {

/// The most descriptors that go at once.
inline constexpr size_t max_passed_descriptors = 16;

/// Two connected unix sockets that keep packets apart; neither is inherited unless it is asked for.
/// Throws launch_error.
std::pair<file_descriptor, file_descriptor> make_socket_pair();

/// Sends `descriptors` and returns their numbers on the other side. Throws launch_error when it
/// closed, gives no answer for `timeout`, or answers something else.
std::vector<int> pass_descriptors(int socket, const std::vector<int>& descriptors,
                                  std::chrono::milliseconds timeout);

/// Waits for the next descriptors; empty when the other side closed. Throws launch_error for a
/// packet that is not whole.
std::optional<std::vector<file_descriptor>> take_descriptors(int socket);
/// Answers the other side.
void confirm_descriptors(int socket, const std::vector<file_descriptor>& taken);

}  // namespace troupe::actors
