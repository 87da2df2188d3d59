#include "config/checkpoint_file.hpp"
#include "config/engine_config.hpp"
#include "config/error.hpp"
#include "config/model_config.hpp"

#include <fmt/format.h>

#include <functional>

namespace troupe::config {

namespace {

constexpr int64_t config_file_bytes_max = 1 << 20;

void check_processor_fits(const checkpoint_config& checkpoint, std::vector<std::string>& faults) {
  const auto& vision = checkpoint.model.vision;
  const auto& processor = checkpoint.preprocessor;
  const auto compare = [&](std::string_view key, int32_t found, int32_t expected) {
    if (found != expected)
      faults.push_back(fmt::format("{}: {}: found {}, expected {} as in {}",
                                   (checkpoint.folder / preprocessor_config_file).string(), key,
                                   found, expected, model_config_file));
  };
  compare("patch_size", processor.patch_size, vision.patch_size);
  compare("temporal_patch_size", processor.temporal_patch_size, vision.temporal_patch_size);
  compare("merge_size", processor.merge_size, vision.spatial_merge_size);
}

void check_stop_tokens(const checkpoint_config& checkpoint, std::vector<std::string>& faults) {
  for (const auto id : checkpoint.generation.eos_token_ids)
    if (id >= checkpoint.model.text.vocab_size)
      faults.push_back(fmt::format("{}: eos_token_id: found {}, expected less than vocab_size = {}",
                                   (checkpoint.folder / generation_config_file).string(), id,
                                   checkpoint.model.text.vocab_size));
}

}  // namespace

checkpoint_config read_checkpoint_config(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder))
    throw error(fmt::format("{}: is not a folder, expected a checkpoint", folder.string()));
  checkpoint_config result;
  result.folder = folder;
  std::vector<std::string> faults;
  const auto attempt = [&](const std::function<void()>& read) {
    try {
      read();
    } catch (const error& fault) {
      faults.insert(faults.end(), fault.faults().begin(), fault.faults().end());
    }
  };
  const auto text_of = [&](const char* name) {
    return read_checkpoint_file(folder, name, config_file_bytes_max);
  };
  attempt([&] {
    result.model =
        parse_model_config(text_of(model_config_file), (folder / model_config_file).string());
  });
  attempt([&] {
    const auto video = has_checkpoint_file(folder, video_preprocessor_config_file)
                           ? text_of(video_preprocessor_config_file)
                           : "";
    result.preprocessor =
        parse_preprocessor_config(text_of(preprocessor_config_file), video, folder.string() + "/");
  });
  attempt([&] {
    result.generation = parse_generation_config(text_of(generation_config_file),
                                                (folder / generation_config_file).string());
  });
  throw_if_any(faults);
  check_processor_fits(result, faults);
  check_stop_tokens(result, faults);
  throw_if_any(std::move(faults));
  return result;
}

checkpoint_config read_checkpoint_config(const engine_config& engine) {
  auto checkpoint = read_checkpoint_config(engine.model.path);
  auto& processor = checkpoint.preprocessor;
  if (engine.vision.min_pixels > 0) processor.image_min_pixels = engine.vision.min_pixels;
  if (engine.vision.max_pixels > 0) processor.image_max_pixels = engine.vision.max_pixels;
  if (processor.image_min_pixels > processor.image_max_pixels)
    throw error(fmt::format(
        "vision.min_pixels = {} and vision.max_pixels = {}, after the bounds of {}: "
        "expected the first to be at most the second",
        processor.image_min_pixels, processor.image_max_pixels, preprocessor_config_file));
  return checkpoint;
}

}  // namespace troupe::config
