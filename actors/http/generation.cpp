#include "actors/http/generation.hpp"

#include <fmt/format.h>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <utility>

namespace troupe::http {

namespace {

namespace asio = boost::asio;

double seconds_between(generation::clock::time_point from, generation::clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

api_error engine_fault(int32_t status, std::string_view code, std::string message,
                       int64_t retry_after_ms) {
  auto error = make_error(status, code, std::move(message));
  error.retry_after_ms = retry_after_ms;
  return error;
}

generation::generation(engine_link& link, server_metrics& metrics, answer_options options,
                       choice_list choices, clock::time_point arrived,
                       std::optional<size_t> pending_bytes_max)
    : link_(link),
      metrics_(metrics),
      answer_(std::move(options)),
      choices_(std::move(choices)),
      running_(choices_.size(), false),
      last_token_(choices_.size()),
      arrived_(arrived),
      pending_bytes_max_(pending_bytes_max) {}

generation::~generation() {
  cancel_running();
}

void generation::start() {
  for (size_t i = 0; i < choices_.size(); ++i) {
    running_[i] = true;
    link_.submit(choices_[i], *this);
  }
}

void generation::fail(api_error error) {
  if (over()) return;
  metrics_.count_failed(error.code);
  error_ = std::move(error);
  cancel_running();
  notify();
}

void generation::abandon() {
  if (over()) return;
  metrics_.count_cancelled();
  abandoned_ = true;
  cancel_running();
  notify();
}

void generation::cancel_running() {
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (!running_[i]) continue;
    running_[i] = false;
    link_.cancel(choices_[i]->id);
    link_.forget(choices_[i]->id);
  }
}

std::optional<double> generation::seconds_to_first_token() const {
  if (!first_token_) return std::nullopt;
  return seconds_between(arrived_, *first_token_);
}

asio::awaitable<void> generation::wait(clock::time_point until) {
  if (!wake_) wake_.emplace(co_await asio::this_coro::executor);
  if (!changed_) {
    wake_->expires_at(until);
    // Woken by notify() or by time: the caller looks at the state, not at why.
    co_await wake_->async_wait(asio::as_tuple(asio::use_awaitable));
  }
  changed_ = false;
}

void generation::notify() {
  changed_ = true;
  if (wake_) wake_->cancel();
}

int32_t generation::index_of(actors::request_id id) const {
  const auto found = std::find_if(choices_.begin(), choices_.end(),
                                  [&](const auto& choice) { return choice->id == id; });
  return static_cast<int32_t>(found - choices_.begin());
}

void generation::observe_times(size_t choice, size_t tokens) {
  const auto now = clock::now();
  if (!first_token_) {
    first_token_ = now;
    metrics_.count_first_token(seconds_between(arrived_, now));
  }
  const auto before = std::exchange(last_token_[choice], now);
  if (before)
    metrics_.count_next_tokens(seconds_between(*before, now), static_cast<int64_t>(tokens));
}

void generation::on_text(const actors::text_delta& event) {
  if (over()) return;
  const auto choice = index_of(event.id);
  observe_times(static_cast<size_t>(choice), event.tokens.size());
  answer_.push(choice, event);
  if (pending_bytes_max_) hold_back();
  if (!over()) notify();
}

void generation::hold_back() {
  const auto pending = answer_.pending_bytes();
  if (pending > *pending_bytes_max_) {
    metrics_.count_stalled();
    return fail(engine_fault(
        408, "client_too_slow",
        fmt::format("{} bytes wait for a client that does not read, at most {} are held", pending,
                    *pending_bytes_max_)));
  }
  if (pending <= *pending_bytes_max_ / 2 || std::exchange(paused_, true)) return;
  metrics_.count_paused();
  for (size_t i = 0; i < choices_.size(); ++i)
    if (running_[i]) link_.pause(choices_[i]->id);
}

void generation::client_caught_up() {
  if (!std::exchange(paused_, false)) return;
  for (size_t i = 0; i < choices_.size(); ++i)
    if (running_[i]) link_.resume(choices_[i]->id);
}

void generation::on_finished(const actors::request_finished& event) {
  const auto choice = index_of(event.id);
  running_[static_cast<size_t>(choice)] = false;
  if (over()) return;
  answer_.finish(choice, event.reason, event.usage);
  metrics_.count_finished(event.reason);
  if (answer_.finished()) count_end();
  notify();
}

void generation::count_end() {
  const auto now = clock::now();
  metrics_.count_answer(answer_.usage(), seconds_between(arrived_, now),
                        seconds_between(first_token_.value_or(now), now));
}

void generation::on_rejected(const actors::request_rejected& event) {
  running_[static_cast<size_t>(index_of(event.id))] = false;
  fail(engine_fault(event.http_status, event.code, event.message, event.retry_after_ms));
}

void generation::on_failed(const actors::request_failed& event) {
  running_[static_cast<size_t>(index_of(event.id))] = false;
  fail(engine_fault(event.http_status, event.code, event.message));
}

/// Cancelled by someone else: our own cancellations are forgotten before their echo comes.
void generation::on_cancelled(const actors::request_cancelled& event) {
  running_[static_cast<size_t>(index_of(event.id))] = false;
  fail(engine_fault(503, "cancelled", "the server cancelled the request", 1'000));
}

}  // namespace troupe::http
