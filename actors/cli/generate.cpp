#include "actors/cli/commands.hpp"
#include "actors/cli/conversation.hpp"
#include "actors/cli/local_engine.hpp"
#include "actors/cli/settings.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <memory>
#include <string>
#include <vector>

namespace troupe::cli {
namespace {

struct generate_options {
  setting_options settings;
  std::string prompt;
  std::vector<std::string> images;
  std::string system;
  int32_t max_tokens = 0;
  float temperature = 0;
  bool quiet = false;
};

int generate(const generate_options& options) {
  const auto loaded = options.settings.load();
  const auto checkpoint = config::read_checkpoint_config(loaded.value);
  auto request = std::make_shared<actors::completion_request>();
  request->id = actors::next_request_id();
  for (const auto& image : options.images)
    request->media.push_back(load_picture(image, checkpoint.preprocessor));
  if (!options.system.empty()) {
    auto turn = user_turn(options.system, 0, 0);
    turn.role = model::chat_role::system;
    request->chat.messages.push_back(std::move(turn));
  }
  request->chat.messages.push_back(
      user_turn(options.prompt, 0, static_cast<int32_t>(options.images.size())));
  request->sampling.max_tokens = options.max_tokens;
  request->sampling.temperature = options.temperature;
  request->sampling.seed = loaded.value.model.seed;

  apply_log_level(loaded.value, /*quiet=*/true);
  local_engine engine(loaded.value);
  engine.wait_ready();
  const answer result = ask(engine.system(), engine.gateway(), request, [](std::string_view text) {
    fmt::print("{}", text);
    std::fflush(stdout);
  });
  fmt::print("\n");
  if (!options.quiet) fmt::print(stderr, "{}\n", result.summary());
  return 0;
}

}  // namespace

void add_generate(CLI::App& program, action& chosen) {
  auto* command = program.add_subcommand("generate", "Answer one prompt on standard output");
  auto options = std::make_shared<generate_options>();
  options->settings.add_to(*command);
  command->add_option("-p,--prompt", options->prompt, "the question")->required();
  command
      ->add_option("--image", options->images,
                   "picture file, several allowed, placed before the text")
      ->check(CLI::ExistingFile);
  command->add_option("--system", options->system, "system prompt");
  command->add_option("--max-tokens", options->max_tokens, "0: the rest of the context")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--temperature", options->temperature, "0: greedy")
      ->check(CLI::Range(0.0, 2.0));
  command->add_flag("-q,--quiet", options->quiet, "no summary line");
  command->callback([&chosen, options] { chosen = [options] { return generate(*options); }; });
}

}  // namespace troupe::cli
