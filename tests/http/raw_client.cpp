#include "tests/http/raw_client.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <stdexcept>
#include <utility>

namespace troupe::tests {

raw_client::raw_client(uint16_t port, int receive_buffer_bytes)
    : descriptor_(socket(AF_INET, SOCK_STREAM, 0)) {
  if (receive_buffer_bytes > 0)
    setsockopt(descriptor_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(int));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(descriptor_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    throw std::runtime_error("cannot connect");
}

raw_client::~raw_client() {
  leave();
}

/// The other side may have hung up, which is for the test to notice when it reads.
void raw_client::send(std::string_view bytes) {
  while (!bytes.empty()) {
    pollfd state{descriptor_, POLLOUT, 0};
    if (poll(&state, 1, static_cast<int>(patience.count())) <= 0) return;
    const auto sent = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent <= 0) return;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

void raw_client::shut_down_sending() {
  shutdown(descriptor_, SHUT_WR);
}

void raw_client::leave(bool abruptly) {
  if (descriptor_ < 0) return;
  const linger reset{1, 0};
  if (abruptly) setsockopt(descriptor_, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
  close(std::exchange(descriptor_, -1));
}

bool raw_client::fill() {
  pollfd state{descriptor_, POLLIN, 0};
  if (poll(&state, 1, static_cast<int>(patience.count())) <= 0) return false;
  std::array<char, 65'536> buffer;
  const auto received = recv(descriptor_, buffer.data(), buffer.size(), 0);
  if (received <= 0) return false;
  held_.append(buffer.data(), static_cast<size_t>(received));
  return true;
}

std::string raw_client::read_until(std::string_view text) {
  while (held_.find(text) == std::string::npos && fill()) {
  }
  return held_;
}

bool raw_client::closed() {
  pollfd state{descriptor_, POLLIN, 0};
  if (poll(&state, 1, static_cast<int>(patience.count())) <= 0) return false;
  char byte = 0;
  return recv(descriptor_, &byte, 1, MSG_PEEK) <= 0;
}

bool raw_client::take_line(std::string& line) {
  size_t end;
  while ((end = held_.find("\r\n")) == std::string::npos)
    if (!fill()) return false;
  line = held_.substr(0, end);
  held_.erase(0, end + 2);
  return true;
}

bool raw_client::take(size_t count, std::string& out) {
  while (held_.size() < count)
    if (!fill()) return false;
  out.append(held_, 0, count);
  held_.erase(0, count);
  return true;
}

bool raw_client::read_chunks(raw_response& response) {
  std::string line;
  while (take_line(line)) {
    const auto size = std::stoul(line, nullptr, 16);
    if (!take(size, response.body) || !take_line(line)) return false;
    if (size == 0) return true;
  }
  return false;
}

bool raw_client::read_body(raw_response& response) {
  if (response.headers.count("transfer-encoding") > 0) return read_chunks(response);
  if (response.headers.count("content-length") > 0)
    return take(std::stoul(response.headers["content-length"]), response.body);
  if (response.status == 204 || response.status == 100) return true;
  while (fill()) {
  }
  response.body = std::exchange(held_, {});
  return closed();
}

raw_response raw_client::read_response(bool head_only) {
  raw_response response;
  std::string line;
  if (!take_line(line)) return response;
  response.status = std::stoi(line.substr(9, 3));
  response.reason = line.substr(std::min<size_t>(13, line.size()));
  while (take_line(line) && !line.empty()) {
    const auto colon = line.find(": ");
    auto name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    response.headers[name] = line.substr(colon + 2);
  }
  response.complete = head_only || read_body(response);
  return response;
}

std::string request_text(std::string_view method, std::string_view path, std::string_view body,
                         std::string_view headers) {
  const auto length =
      body.empty() ? std::string() : fmt::format("Content-Length: {}\r\n", body.size());
  return fmt::format("{} {} HTTP/1.1\r\nHost: localhost\r\n{}{}\r\n{}", method, path, length,
                     headers, body);
}

raw_response fetch(uint16_t port, std::string_view method, std::string_view path,
                   std::string_view body, std::string_view headers) {
  raw_client client(port);
  client.send(request_text(method, path, body, headers));
  return client.read_response(method == "HEAD");
}

}  // namespace troupe::tests
