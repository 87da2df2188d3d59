#pragma once

#include <CLI/App.hpp>

#include <functional>

namespace troupe::cli {

/// What a parsed command does; returns the program's exit status.
using action = std::function<int()>;

/// Each adds its command to the program; when the command line names it, it stores what to do in
/// `chosen`. Actions throw; main turns exceptions into one message and an exit status.
void add_serve(CLI::App& program, action& chosen);
void add_chat(CLI::App& program, action& chosen);
void add_generate(CLI::App& program, action& chosen);
void add_plan(CLI::App& program, action& chosen);
void add_bench(CLI::App& program, action& chosen);
void add_config(CLI::App& program, action& chosen);

}  // namespace troupe::cli
