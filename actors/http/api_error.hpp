#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace troupe::http {

/// How far a server that cannot answer yet has come.
struct load_progress {
  std::string phase;
  double percent = 0;
  std::optional<int64_t> eta_seconds;
};

/// OpenAI's error object with its HTTP status. Messages are our own words; quoted input is cut
/// short.
struct api_error {
  int32_t status = 400;
  std::string type = "invalid_request_error";
  std::string code = "invalid_value";
  std::string message;
  std::string param;           // JSON path of the field at fault; empty is written as null
  int64_t retry_after_ms = 0;  // 0: no Retry-After
  std::optional<load_progress> progress;
};

/// The type that goes with a status: SDKs and dashboards group by it.
std::string_view error_type(int32_t status);

/// An error whose type follows from its status.
api_error make_error(int32_t status, std::string_view code, std::string message);

/// The error without its status, as the member `"error":{...}` of an object.
void append_error(std::string& out, const api_error& error);
/// The whole body: `{"error":{...}}`, followed by the load progress where there is one.
std::string error_body(const api_error& error);

/// Leaves the validation of a request at the first fault. Never crosses the functions that parse
/// whole requests: they return the error.
class request_fault : public std::exception {
 public:
  explicit request_fault(api_error error) : error_(std::move(error)) {}
  const api_error& error() const noexcept { return error_; }
  const char* what() const noexcept override { return error_.message.c_str(); }

 private:
  api_error error_;
};

/// `text` in quotes, cut to a length fit for a message.
std::string excerpt(std::string_view text);

}  // namespace troupe::http
