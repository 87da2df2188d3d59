#include "actors/http/request_head.hpp"
#include "fuzz/fuzz_input.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include <algorithm>
#include <string>
#include <string_view>
#include <variant>

using namespace troupe;

namespace {

// Small, so that short inputs reach them.
constexpr uint32_t head_bytes_max = 512;
constexpr uint64_t body_bytes_max = 256;

/// What a stream of bytes amounts to, however it was cut into packets.
struct outcome {
  bool head_done = false;
  bool done = false;
  bool broken = false;
  int32_t status = 0;  // of an error
  std::string path;
  std::string body;

  bool operator==(const outcome&) const = default;
};

using request_parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

/// Feeds `stream` as a connection does: what the parser leaves over is offered again with more
/// behind.
outcome parse(std::string_view stream, size_t packet_bytes) {
  request_parser parser;
  parser.header_limit(head_bytes_max);
  parser.body_limit(body_bytes_max);
  parser.eager(true);
  outcome result;
  size_t consumed = 0;
  size_t offered = 0;
  boost::system::error_code fault;
  while (offered < stream.size() && !parser.is_done() && !fault) {
    offered = std::min(stream.size(), offered + packet_bytes);
    consumed += parser.put(boost::asio::buffer(stream.substr(consumed, offered - consumed)), fault);
    if (fault == boost::beast::http::error::need_more) fault = {};
  }
  result.broken = fault.failed();
  result.head_done = parser.is_header_done();
  result.done = parser.is_done();
  if (result.broken || !result.head_done) return result;
  const auto head = http::read_head(parser.get());
  if (const auto* error = std::get_if<http::api_error>(&head)) {
    fuzz::expect(error->status >= 400 && error->status <= 505, "a bad head is an error status");
    result.status = error->status;
    return result;
  }
  const auto& request = std::get<http::http_request>(head);
  fuzz::expect(request.path == "*" || request.path.starts_with("/"), "a path is canonical");
  fuzz::expect(http::canonical_path(request.path) == request.path || request.path == "*" ||
                   request.path.find_first_of("%?#") != std::string::npos ||
                   request.path.starts_with("/v1"),
               "a canonical path stays as it is");
  fuzz::expect(!request.request_id.empty(), "a request has an id");
  for (const char c : request.request_id) fuzz::expect(c > ' ' && c < 0x7F, "an id is fit to echo");
  result.path = request.path;
  if (result.done) result.body = parser.get().body();
  fuzz::expect(result.body.size() <= body_bytes_max, "the body's limit holds");
  return result;
}

}  // namespace

/// The first byte is the size of the packets. Where they end must not change what a request means.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const auto stream = fuzz::as_text(data + 1, size - 1);
  const outcome whole = parse(stream, stream.size());
  const outcome split = parse(stream, 1u + data[0]);
  fuzz::expect(whole.broken == split.broken || !whole.done, "packets do not break a whole request");
  if (whole.done && split.done) fuzz::expect(whole == split, "packets do not change a request");
  return 0;
}
