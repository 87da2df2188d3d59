#include "actors/descriptor_passing.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace troupe::actors {
namespace {

[[noreturn]] void fail(const char* call) {
  throw launch_error(fmt::format("{}: {}", call, std::strerror(errno)));
}

/// One packet: as many numbers as descriptors, which a descriptor's own transport does not tell if
/// some of them got lost (the receiver may have too many open).
struct packet {
  std::array<int, max_passed_descriptors> numbers{};
  iovec content{numbers.data(), sizeof numbers};
  alignas(
      cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * max_passed_descriptors)> control{};

  msghdr header(size_t control_bytes) {
    msghdr header{};
    header.msg_iov = &content;
    header.msg_iovlen = 1;
    header.msg_control = control_bytes > 0 ? control.data() : nullptr;
    header.msg_controllen = control_bytes;
    return header;
  }
};

void send_packet(int socket, const msghdr& header) {
  while (::sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
    if (errno != EINTR) fail("sendmsg");
}

/// Bytes received; 0: the other side closed.
size_t receive_packet(int socket, msghdr& header) {
  while (true) {
    const auto got = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno == ECONNRESET) return 0;
    if (errno != EINTR) fail("recvmsg");
  }
}

void wait_readable(int socket, std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd wanted{socket, POLLIN, 0};
    const int ready = ::poll(&wanted, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (ready > 0) return;
    if (ready == 0)
      throw launch_error(fmt::format("no answer to the descriptors for {} ms", timeout.count()));
    if (errno != EINTR) fail("poll");
  }
}

std::vector<file_descriptor> descriptors_in(msghdr& header) {
  std::vector<file_descriptor> found;
  for (auto* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int number = -1;
      std::memcpy(&number, CMSG_DATA(part) + i * sizeof number, sizeof number);
      found.emplace_back(number);
    }
  }
  return found;
}

}  // namespace

std::pair<file_descriptor, file_descriptor> make_socket_pair() {
  int ends[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) fail("socketpair");
  return {file_descriptor(ends[0]), file_descriptor(ends[1])};
}

std::vector<int> pass_descriptors(int socket, const std::vector<int>& descriptors,
                                  std::chrono::milliseconds timeout) {
  if (descriptors.empty() || descriptors.size() > max_passed_descriptors)
    throw launch_error(fmt::format("{} descriptors to pass, expected 1 to {}", descriptors.size(),
                                   max_passed_descriptors));
  const size_t bytes = descriptors.size() * sizeof(int);
  packet sent;
  auto header = sent.header(CMSG_SPACE(bytes));
  sent.content.iov_len = bytes;
  auto* part = CMSG_FIRSTHDR(&header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(bytes);
  std::memcpy(CMSG_DATA(part), descriptors.data(), bytes);
  send_packet(socket, header);

  wait_readable(socket, timeout);
  packet answer;
  auto answer_header = answer.header(0);
  const size_t got = receive_packet(socket, answer_header);
  if (got == 0) throw launch_error("the other process closed its end");
  if (got != bytes)
    throw launch_error(
        fmt::format("{} bytes answer {} descriptors, expected {}", got, descriptors.size(), bytes));
  return {answer.numbers.begin(), answer.numbers.begin() + std::ssize(descriptors)};
}

std::optional<std::vector<file_descriptor>> take_descriptors(int socket) {
  packet received;
  auto header = received.header(received.control.size());
  const size_t got = receive_packet(socket, header);
  if (got == 0) return std::nullopt;
  auto taken = descriptors_in(header);
  if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || taken.size() * sizeof(int) != got)
    throw launch_error(fmt::format(
        "{} descriptors came in {} bytes{}, expected {}", taken.size(), got,
        (header.msg_flags & MSG_CTRUNC) != 0 ? ", some were lost" : "", got / sizeof(int)));
  return taken;
}

void confirm_descriptors(int socket, const std::vector<file_descriptor>& taken) {
  packet answer;
  for (size_t i = 0; i < taken.size(); ++i) answer.numbers[i] = taken[i].number();
  answer.content.iov_len = taken.size() * sizeof(int);
  send_packet(socket, answer.header(0));
}

}  // namespace troupe::actors
