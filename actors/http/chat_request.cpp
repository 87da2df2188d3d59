#include "actors/http/chat_request.hpp"

#include "actors/http/media_reader.hpp"

#include <fmt/format.h>

#include <utility>

namespace troupe::http {

namespace {

using config::json_value;
using kind = json_value::kind;
using model::chat_role;

chat_role read_role(object_reader& message) {
  const auto role = message.required_string("role");
  if (role == "system" || role == "developer") return chat_role::system;
  if (role == "user") return chat_role::user;
  if (role == "assistant") return chat_role::assistant;
  if (role == "tool" || role == "function") return chat_role::tool;
  message.fail("role",
               fmt::format("{} must be system, developer, user, assistant or tool, found {}",
                           message.path_of("role"), excerpt(role)));
}

bool may_hold_media(chat_role role) {
  return role == chat_role::user || role == chat_role::tool;
}

model::content_part read_part(const json_value& value, const std::string& path, chat_role role,
                              media_reader& media) {
  // Older clients mix bare strings into the list.
  if (const auto bare = value.string()) return model::text_part{std::string(*bare)};
  object_reader part(value, path);
  const auto type = part.required_string("type");
  if (type == "text" || type == "input_text" || type == "output_text")
    return model::text_part{std::string(part.required_string("text"))};
  if (type == "refusal") return model::text_part{std::string(part.required_string("refusal"))};
  if (const auto found = media.read_part(value, type, path)) {
    if (!may_hold_media(role))
      fail_at(path, path + ": pictures and clips belong in user or tool messages",
              "unsupported_content");
    return *found;
  }
  part.fail("type", fmt::format("{} must be text, image_url or video, found {}",
                                part.path_of("type"), excerpt(type)));
}

void read_content(object_reader& message, const api_limits& limits, media_reader& media,
                  model::chat_message& out) {
  const auto content = message.value("content");
  const auto path = message.path_of("content");
  if (!content) {
    // Assistants that only call tools send null.
    if (out.role != chat_role::assistant)
      fail_at(path, path + " is missing, expected a string or an array of parts");
    return;
  }
  if (const auto text = content->string()) {
    out.content.push_back(model::text_part{std::string(*text)});
    return;
  }
  if (content->type() != kind::array)
    fail_at(path, fmt::format("{} must be a string or an array of parts, found {}", path,
                              describe(*content)));
  const auto parts = *message.array("content", limits.num_parts_max);
  for (size_t i = 0; i < parts.size(); ++i)
    out.content.push_back(read_part(parts[i], fmt::format("{}[{}]", path, i), out.role, media));
}

/// Arguments are text by OpenAI's rules; an object is taken as its text.
std::string read_arguments(object_reader& function) {
  const auto arguments = function.value("arguments");
  if (!arguments) return "{}";
  if (const auto text = arguments->string()) return std::string(*text);
  if (arguments->type() == kind::object) return arguments->dump();
  function.fail("arguments", fmt::format("{} must be a string, found {}",
                                         function.path_of("arguments"), describe(*arguments)));
}

void read_tool_calls(object_reader& message, const api_limits& limits, model::chat_message& out) {
  const auto calls = message.array("tool_calls", limits.num_tools_max);
  if (!calls) return;
  if (out.role != chat_role::assistant && !calls->empty())
    message.fail("tool_calls", message.path_of("tool_calls") + " belongs in assistant messages");
  for (size_t i = 0; i < calls->size(); ++i) {
    object_reader call((*calls)[i], fmt::format("{}[{}]", message.path_of("tool_calls"), i));
    auto function = call.object("function");
    if (!function)
      call.fail("function", call.path_of("function") + " is missing, expected an object");
    model::tool_call parsed;
    parsed.name = function->required_string("name");
    parsed.arguments = read_arguments(*function);
    out.tool_calls.push_back(std::move(parsed));
  }
}

/// Clients name it differently when they send a former answer's reasoning back.
void read_reasoning(object_reader& message, model::chat_message& out) {
  for (const auto* key : {"reasoning_content", "reasoning", "thinking"})
    if (const auto text = message.string(key); text && !out.reasoning_content)
      out.reasoning_content = std::string(*text);
}

model::chat_message read_message(const json_value& value, const std::string& path,
                                 const api_limits& limits, media_reader& media) {
  object_reader reader(value, path);
  model::chat_message message;
  message.role = read_role(reader);
  read_content(reader, limits, media, message);
  read_tool_calls(reader, limits, message);
  if (message.role == chat_role::assistant) read_reasoning(reader, message);
  return message;
}

void check_tool(const json_value& value, const std::string& path) {
  object_reader tool(value, path);
  const auto type = tool.required_string("type");
  if (type != "function")
    tool.fail("type",
              fmt::format("{} must be function, found {}", tool.path_of("type"), excerpt(type)));
  auto function = tool.object("function");
  if (!function)
    tool.fail("function", tool.path_of("function") + " is missing, expected an object");
  if (function->required_string("name").empty())
    function->fail("name", function->path_of("name") + " is empty");
  // Strict arguments need constrained decoding.
  function->refuse({"strict"}, "unsupported_schema");
}

/// Whether the model may call: "auto" (the default) and "none" are served; the other choices need
/// constrained decoding.
bool read_tool_choice(object_reader& request, bool has_tools) {
  const auto choice = request.value("tool_choice");
  if (!choice) return has_tools;
  const auto name = choice->string();
  if (name == "none") return false;
  if (name == "auto") return has_tools;
  fail_at("tool_choice",
          fmt::format("tool_choice must be auto or none, found {}: this server cannot force a call",
                      describe(*choice)),
          "unsupported_parameter");
}

void read_tools(object_reader& request, const api_limits& limits, chat_request& out) {
  request.tolerate({"parallel_tool_calls"});
  request.refuse({"functions", "function_call"}, "unsupported_parameter");
  const auto tools = request.array("tools", limits.num_tools_max);
  out.parse_tool_calls = read_tool_choice(request, tools && !tools->empty());
  if (!tools || !out.parse_tool_calls) return;
  for (size_t i = 0; i < tools->size(); ++i) {
    check_tool((*tools)[i], fmt::format("tools[{}]", i));
    out.chat.tools.push_back((*tools)[i].dump());
  }
}

/// A closed list of switches: a template from a client is a program, and is never run.
void read_template_switches(object_reader& request, chat_request& out) {
  request.refuse({"chat_template", "continue_final_message", "documents"}, "unsupported_parameter");
  out.chat.add_generation_prompt = request.boolean("add_generation_prompt").value_or(true);
  auto switches = request.object("chat_template_kwargs");
  if (!switches) return;
  out.chat.add_vision_id = switches->boolean("add_vision_id").value_or(false);
  switches->boolean("enable_thinking");  // the template of this model family has no such switch
  const auto unknown = switches->unknown_keys();
  if (!unknown.empty())
    fail_at("chat_template_kwargs",
            fmt::format("chat_template_kwargs has {}, known are add_vision_id and enable_thinking",
                        excerpt(unknown.front())),
            "unsupported_parameter");
}

void read_logprobs(object_reader& request, const api_limits& limits,
                   plan::sampling_params& sampling) {
  const bool wanted = request.boolean("logprobs").value_or(false);
  const auto top = request.integer("top_logprobs", {0, limits.top_logprobs_max});
  if (top.value_or(0) > 0 && !wanted)
    request.fail("top_logprobs", "top_logprobs needs logprobs to be true");
  if (wanted) sampling.num_logprobs = static_cast<int32_t>(top.value_or(0));
}

void read_modalities(object_reader& request) {
  const auto modalities = request.array("modalities", 8);
  if (!modalities) return;
  for (const auto& modality : *modalities)
    if (modality.string() != "text")
      request.fail("modalities",
                   fmt::format("modalities must be [\"text\"], found {}", describe(modality)));
}

chat_request read_chat_request(object_reader& request, const api_limits& limits) {
  chat_request parsed;
  parsed.options = read_generation_options(request, limits);
  read_logprobs(request, limits, parsed.options.sampling);
  read_modalities(request);
  request.refuse({"audio", "web_search_options", "mm_processor_kwargs", "media_io_kwargs"},
                 "unsupported_parameter");
  request.tolerate({"reasoning_effort", "include_reasoning", "separate_reasoning", "verbosity",
                    "prediction", "moderation"});
  check_answer_size(parsed.options, parsed.options.num_choices, limits);
  read_conversation(request, limits, parsed);
  parsed.options.warnings = unknown_field_warnings(request);
  return parsed;
}

}  // namespace

void read_conversation(object_reader& request, const api_limits& limits, chat_request& out) {
  read_template_switches(request, out);
  read_tools(request, limits, out);
  const auto messages = request.array("messages", limits.num_messages_max);
  if (!messages || messages->empty())
    request.fail("messages", "messages must be an array of at least one message");
  media_reader media(limits);
  for (size_t i = 0; i < messages->size(); ++i)
    out.chat.messages.push_back(
        read_message((*messages)[i], fmt::format("messages[{}]", i), limits, media));
  out.media = media.take();
}

std::variant<chat_request, api_error> parse_chat_request(std::string_view body,
                                                         const api_limits& limits) {
  return parse_body<chat_request>(
      body, [&](object_reader& request) { return read_chat_request(request, limits); });
}

}  // namespace troupe::http
