// An engine inside your own actor system: two tensor-parallel shards, one picture, streamed text.
//
//   embed CHECKPOINT_FOLDER PICTURE QUESTION [thread|process]

#include "actors/shard_process.hpp"
#include "actors/system.hpp"
#include "model/vision/media.hpp"

#include <caf/actor_system.hpp>
#include <caf/scoped_actor.hpp>

#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

using namespace troupe;

namespace {

/// Your own actors live in the same system as the engine's.
struct program_config : actors::system_config {};

config::engine_config engine_settings(const std::string& checkpoint, bool processes) {
  config::engine_config settings;
  settings.model.path = checkpoint;
  settings.parallel.device = config::device_choice::cpu;  // any computer has one
  settings.parallel.tensor = 2;
  settings.parallel.isolation =
      processes ? config::isolation_mode::process : config::isolation_mode::thread;
  return settings;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::shared_ptr<const actors::completion_request> ask(const std::string& picture,
                                                      const std::string& question,
                                                      const config::preprocessor_config& processor) {
  auto request = std::make_shared<actors::completion_request>();
  request->id = actors::next_request_id();
  request->media.push_back(
      model::make_picture(std::make_shared<const std::string>(read_file(picture)), processor));
  request->chat.messages.push_back({model::chat_role::user,
                                    {model::media_part{0, false}, model::text_part{question}},
                                    {},
                                    {}});
  request->sampling.temperature = 0;
  return request;
}

/// Prints text as it comes. Returns false if the request ended in anything but an answer.
bool print_answer(caf::scoped_actor& self) {
  bool ended = false, answered = false;
  const auto fail = [&](const std::string& why) {
    std::fprintf(stderr, "no answer: %s\n", why.c_str());
    ended = true;
  };
  while (!ended)
    self->receive(
        [](const actors::text_delta& delta) {
          std::fputs(delta.text.c_str(), stdout);
          std::fflush(stdout);
        },
        [&](const actors::request_finished& finished) {
          std::printf("\n[%d prompt tokens, %d of them visual; %d generated]\n",
                      finished.usage.prompt_tokens, finished.usage.visual_tokens,
                      finished.usage.completion_tokens);
          ended = answered = true;
        },
        [&](const actors::request_rejected& event) { fail(event.message); },
        [&](const actors::request_failed& event) { fail(event.message); },
        [&](const actors::request_cancelled&) { fail("cancelled"); },
        caf::after(std::chrono::minutes{5}) >> [&] { fail("nothing came for five minutes"); });
  return answered;
}

int run(const std::string& checkpoint, const std::string& picture, const std::string& question,
        bool processes) {
  program_config settings;
  caf::actor_system system(settings);
  const auto engine_config = engine_settings(checkpoint, processes);
  actors::engine engine(system, engine_config);
  engine.wait_ready(std::chrono::minutes{10});

  caf::scoped_actor self(system);
  const auto processor = config::read_checkpoint_config(engine_config).preprocessor;
  self->send(engine.gateway(), actors::submit_request{ask(picture, question, processor),
                                                      caf::actor_cast<caf::actor>(self)});
  return print_answer(self) ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) try {
  // Only needed for shards in processes of their own: they run this same program.
  if (const auto shard = actors::parse_shard_command(argc, argv))
    return actors::run_shard_process(*shard);
  if (argc < 4) {
    std::fputs("usage: embed CHECKPOINT_FOLDER PICTURE QUESTION [thread|process]\n", stderr);
    return 2;
  }
  return run(argv[1], argv[2], argv[3], argc > 4 && std::string(argv[4]) == "process");
} catch (const std::exception& failure) {
  std::fprintf(stderr, "%s\n", failure.what());
  return 1;
}
