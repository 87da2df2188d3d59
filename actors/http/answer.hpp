#pragma once

#include "actors/http/answer_parser.hpp"
#include "actors/http/api_error.hpp"
#include "actors/http/logprob_text.hpp"
#include "actors/messages.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::http {

/// What an answer looks like.
struct answer_options {
  bool chat = true;     // chat.completion, else text_completion
  std::string id;       // with its prefix
  int64_t created = 0;  // Unix seconds
  std::string model;
  int32_t num_choices = 1;
  int32_t choices_per_prompt = 1;
  bool include_usage = false;     // as the last chunk of a stream
  bool continuous_usage = false;  // in every chunk, of its choice up to there
  bool logprobs = false;
  bool return_token_ids = false;
  answer_parser::settings parsing;  // chat only
  logprob_style style;
};

/// Usage of all choices together; a prompt that choices share counts once.
struct answer_usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t visual_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t reasoning_tokens = 0;
};

/// One answer in OpenAI's form, as it grows: takes what the engine says about each choice, gives
/// stream frames of what is new, or the whole body at the end. Pure: no socket, no actor.
///
/// Frames: choices open in order, each once, with the role, when the first token of any of them is
/// there; every choice ends with its finish reason; then usage, if asked for, and [DONE]. What
/// arrives between two calls of take_frames is merged into one frame per choice.
class answer {
 public:
  explicit answer(answer_options options);

  /// Token ids of each prompt, for answers that return them. Call before the first frame.
  void set_prompt_ids(std::vector<std::vector<int32_t>> ids) { prompt_ids_ = std::move(ids); }

  void push(int32_t choice, const actors::text_delta& delta);
  void finish(int32_t choice, actors::finish_reason reason, const scheduling::usage_counts& usage);

  bool finished() const { return num_finished_ == options_.num_choices; }
  /// Whether take_frames would give anything.
  bool has_frames() const;
  /// Memory that waits to be written.
  size_t pending_bytes() const { return pending_bytes_; }
  const answer_usage& usage() const { return usage_; }

  void take_frames(std::string& out);
  /// The end of a stream that failed: an error frame and [DONE].
  static void append_failure(std::string& out, const api_error& error);

  /// The body of an answer that is not streamed. Only when finished, and without take_frames
  /// before.
  std::string body() const;

 private:
  struct choice_state {
    explicit choice_state(answer_parser::settings parsing) : parser(parsing) {}

    bool has_delta() const {
      return !content.empty() || !reasoning.empty() || !logprobs.empty() || !token_ids.empty();
    }

    answer_parser parser;
    std::string content;
    std::string reasoning;
    std::vector<model::tool_call> calls;
    logprob_text logprobs;
    std::string token_ids;   // joined by commas
    size_t text_length = 0;  // of all text so far, for the offsets of tokens
    answer_usage usage;      // so far
    int32_t num_calls_sent = 0;
    bool called = false;
    bool end_sent = false;
    std::optional<actors::finish_reason> reason;
  };

  void add_pieces(choice_state& choice, std::vector<answer_piece> pieces);
  void add_tokens(choice_state& choice, const actors::text_delta& delta);

  void open_choices(std::string& out);
  void append_frames(std::string& out, int32_t index);
  void append_delta_frame(std::string& out, int32_t index);
  void append_call_frame(std::string& out, int32_t index);
  void append_end_frame(std::string& out, int32_t index);
  void append_usage_frame(std::string& out) const;
  void begin_frame(std::string& out, int32_t index) const;
  void end_frame(std::string& out, int32_t index, const choice_state* source,
                 std::string_view reason) const;
  void note_usage(int32_t index, const scheduling::usage_counts& usage);

  void append_message(std::string& out, int32_t index) const;
  void append_extras(std::string& out, const choice_state* source) const;
  void append_call(std::string& out, const model::tool_call& call, int32_t choice,
                   int32_t call_index) const;
  void append_prompt_ids(std::string& out, int32_t index) const;
  std::string_view reason_name(const choice_state& choice) const;

  answer_options options_;
  std::string frame_prefix_;  // of every frame, up to its choices
  std::vector<choice_state> choices_;
  std::vector<std::vector<int32_t>> prompt_ids_;
  answer_usage usage_;
  int32_t num_finished_ = 0;
  size_t pending_bytes_ = 0;
  bool started_ = false;  // a token came or a choice ended
  bool opened_ = false;
  bool done_sent_ = false;
};

/// Appends the object that `usage` members hold.
void append_usage(std::string& out, const answer_usage& usage);

}  // namespace troupe::http
