#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace troupe::tests {

/// A parsed response: chunked bodies are joined.
struct raw_response {
  int status = 0;  // 0: the connection ended without one
  std::string reason;
  std::map<std::string, std::string> headers;  // lower case
  std::string body;
  bool complete = false;  // the body ended as its framing says
};

/// A socket that sends exactly what a test says and never waits for longer than its patience, which
/// is for servers that hang, not for slow machines.
class raw_client {
 public:
  explicit raw_client(uint16_t port, int receive_buffer_bytes = 0);
  ~raw_client();
  raw_client(const raw_client&) = delete;
  raw_client& operator=(const raw_client&) = delete;

  void send(std::string_view bytes);
  /// Sends nothing more; the other direction stays open.
  void shut_down_sending();
  /// Leaves at once, with a reset if `abruptly`.
  void leave(bool abruptly = false);

  /// Reads until `text` has come; what came so far. Stops at the end of the connection and of
  /// patience.
  std::string read_until(std::string_view text);
  /// One response; bytes behind it are kept for the next call. `head_only` for answers to HEAD.
  raw_response read_response(bool head_only = false);
  /// Whether the other side has ended the connection, within patience.
  bool closed();

  std::chrono::milliseconds patience{60'000};

 private:
  bool fill();
  bool read_body(raw_response& response);
  bool read_chunks(raw_response& response);
  bool take_line(std::string& line);
  bool take(size_t count, std::string& out);

  int descriptor_ = -1;
  std::string held_;
};

/// "METHOD PATH HTTP/1.1" with Host, Content-Length and `headers` (each ended by CRLF).
std::string request_text(std::string_view method, std::string_view path, std::string_view body = {},
                         std::string_view headers = {});

/// One request on a connection of its own.
raw_response fetch(uint16_t port, std::string_view method, std::string_view path,
                   std::string_view body = {}, std::string_view headers = {});

}  // namespace troupe::tests
