#include "actors/cli/commands.hpp"
#include "actors/cli/conversation.hpp"
#include "actors/cli/local_engine.hpp"
#include "actors/cli/settings.hpp"

#include <editline/readline.h>
#include <fmt/format.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace troupe::cli {
namespace {

constexpr const char* help_text =
    "/image FILE   add a picture to your next message\n"
    "/reset        forget the conversation\n"
    "/help         this text\n"
    "/quit         leave (or Ctrl-D)\n";

/// One line from the terminal with editing and history, or from a pipe; empty at the end of input.
std::optional<std::string> read_line() {
  if (isatty(STDIN_FILENO) == 0) {
    std::string line;
    return std::getline(std::cin, line) ? std::optional(line) : std::nullopt;
  }
  const std::unique_ptr<char, decltype(&std::free)> line(readline("you> "), &std::free);
  if (!line) return std::nullopt;
  if (*line != '\0') add_history(line.get());
  return std::string(line.get());
}

/// A conversation so far and the pictures that wait for the next message.
class chat_session {
 public:
  chat_session(local_engine& engine, config::preprocessor_config preprocessor,
               plan::sampling_params sampling)
      : engine_(engine), preprocessor_(std::move(preprocessor)), sampling_(std::move(sampling)) {}

  /// Handles one line; false means leave.
  bool handle(const std::string& line) {
    if (line.empty()) return true;
    if (line == "/quit" || line == "/exit") return false;
    if (line == "/help") {
      fmt::print("{}", help_text);
    } else if (line == "/reset") {
      turns_.clear();
      media_.clear();
      pictures_waiting_ = 0;
    } else if (line.starts_with("/image ")) {
      add_picture(line.substr(7));
    } else if (line.starts_with("/")) {
      fmt::print("unknown command {}; these exist:\n{}", line, help_text);
    } else {
      say(line);
    }
    return true;
  }

  void add_picture(const std::string& file) try {
    media_.push_back(load_picture(file, preprocessor_));
    ++pictures_waiting_;
    const auto& grid = media_.back().grid;
    fmt::print("{}: {} visual tokens, sent with your next message\n", file,
               grid.visual_tokens(preprocessor_.merge_size));
  } catch (const std::exception& problem) {
    fmt::print("{}\n", problem.what());
  }

 private:
  void say(const std::string& text) {
    auto turns = turns_;
    turns.push_back(user_turn(text, static_cast<int32_t>(media_.size()) - pictures_waiting_,
                              pictures_waiting_));
    auto request = std::make_shared<actors::completion_request>();
    request->id = actors::next_request_id();
    request->chat.messages = turns;
    request->media = media_;
    request->sampling = sampling_;
    try {
      const answer result =
          ask(engine_.system(), engine_.gateway(), request, [](std::string_view piece) {
            fmt::print("{}", piece);
            std::fflush(stdout);
          });
      fmt::print("\n\033[2m{}\033[0m\n", result.summary());
      turns.push_back(assistant_turn(result.text));
      turns_ = std::move(turns);
      pictures_waiting_ = 0;
    } catch (const request_error& problem) {
      fmt::print("{}\n", problem.what());  // the turn is not kept: the user can say it again
    }
  }

  local_engine& engine_;
  config::preprocessor_config preprocessor_;
  plan::sampling_params sampling_;
  std::vector<model::chat_message> turns_;
  std::vector<model::media_item> media_;
  int32_t pictures_waiting_ = 0;
};

struct chat_options {
  setting_options settings;
  std::vector<std::string> images;
  float temperature = 0;
};

int chat(const chat_options& options) {
  const auto loaded = options.settings.load();
  const auto checkpoint = config::read_checkpoint_config(loaded.value);
  plan::sampling_params sampling;
  sampling.temperature = options.temperature;
  sampling.seed = loaded.value.model.seed;
  apply_log_level(loaded.value, /*quiet=*/true);
  local_engine engine(loaded.value);
  engine.wait_ready();
  fmt::print("{}", help_text);
  chat_session session(engine, checkpoint.preprocessor, sampling);
  for (const auto& image : options.images) session.add_picture(image);
  for (auto line = read_line(); line && session.handle(*line); line = read_line()) {
  }
  return 0;
}

}  // namespace

void add_chat(CLI::App& program, action& chosen) {
  auto* command = program.add_subcommand("chat", "Talk to a model in the terminal");
  auto options = std::make_shared<chat_options>();
  options->settings.add_to(*command);
  command->add_option("--image", options->images,
                      "picture file for the first message, several allowed");
  command->add_option("--temperature", options->temperature, "0: greedy")
      ->check(CLI::Range(0.0, 2.0));
  command->callback([&chosen, options] { chosen = [options] { return chat(*options); }; });
}

}  // namespace troupe::cli
