#pragma once

#include "actors/http/answer.hpp"
#include "actors/http/api_error.hpp"
#include "actors/http/engine_link.hpp"
#include "actors/http/server_metrics.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

namespace troupe::http {

/// One API request while the engine works on it: all its choices, and the answer they grow into.
/// The handle that owns the work: when it goes, what still runs is cancelled. Belongs to the
/// network thread.
class generation final : public engine_listener {
 public:
  using clock = std::chrono::steady_clock;
  using choice_list = std::vector<std::shared_ptr<const actors::completion_request>>;

  /// `arrived` is when the HTTP request did. Streams hold at most `pending_bytes_max` of text for a
  /// client that does not read: at half of that the engine pauses the request until the client has
  /// read, and should what was on its way nevertheless fill the rest, the request ends.
  generation(engine_link& link, server_metrics& metrics, answer_options options,
             choice_list choices, clock::time_point arrived,
             std::optional<size_t> pending_bytes_max);
  ~generation() override;
  generation(const generation&) = delete;
  generation& operator=(const generation&) = delete;

  void start();
  /// Ends the request for the given reason; without effect when it is over.
  void fail(api_error error);
  /// The client has taken everything that was written so far.
  void client_caught_up();
  /// The client left: nobody wants to know how it ends.
  void abandon();

  /// The engine is done with every choice, or one of them failed and the others were cancelled.
  bool over() const { return error_.has_value() || abandoned_ || answer_.finished(); }
  bool abandoned() const { return abandoned_; }
  const std::optional<api_error>& error() const { return error_; }
  answer& result() { return answer_; }
  std::optional<double> seconds_to_first_token() const;

  /// Returns at once if anything happened since the last call, else when it does or at `until`.
  boost::asio::awaitable<void> wait(clock::time_point until);

  void on_text(const actors::text_delta& event) override;
  void on_finished(const actors::request_finished& event) override;
  void on_rejected(const actors::request_rejected& event) override;
  void on_failed(const actors::request_failed& event) override;
  void on_cancelled(const actors::request_cancelled& event) override;

 private:
  int32_t index_of(actors::request_id id) const;
  void observe_times(size_t choice, size_t tokens);
  void count_end();
  void cancel_running();
  void hold_back();
  void notify();

  engine_link& link_;
  server_metrics& metrics_;
  answer answer_;
  choice_list choices_;
  std::vector<bool> running_;
  std::vector<std::optional<clock::time_point>> last_token_;  // per choice
  clock::time_point arrived_;
  std::optional<clock::time_point> first_token_;
  std::optional<size_t> pending_bytes_max_;
  std::optional<api_error> error_;
  bool abandoned_ = false;
  bool paused_ = false;
  bool changed_ = false;
  std::optional<boost::asio::steady_timer> wake_;
};

/// An end that the engine reports, in the API's words.
api_error engine_fault(int32_t status, std::string_view code, std::string message,
                       int64_t retry_after_ms = 0);

}  // namespace troupe::http
