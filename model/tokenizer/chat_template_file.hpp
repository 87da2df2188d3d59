#pragma once

#include "model/tokenizer/chat.hpp"

#include <filesystem>

namespace troupe::model {

/// Which of the two native templates a checkpoint's own template stands for. The file
/// (chat_template.jinja, or chat_template.json with one key `chat_template`) is never executed: the
/// Thinking edition is known by its use of `reasoning_content`. No file means Instruct. Throws
/// config::error for a chat_template.json that is not what it should be.
template_kind find_template_kind(const std::filesystem::path& folder);

}  // namespace troupe::model
