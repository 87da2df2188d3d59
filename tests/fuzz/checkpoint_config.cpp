#include "config/error.hpp"
#include "config/model_config.hpp"
#include "fuzz/fuzz_input.hpp"

using namespace troupe;

namespace {

template <class Parse>
void refuse_only_with_faults(Parse parse) {
  try {
    parse();
  } catch (const config::error& error) {
    fuzz::expect(!error.faults().empty(), "a refusal names its faults");
  }
}

void check(const config::model_config& model) {
  const auto& text = model.text;
  const auto& vision = model.vision;
  fuzz::expect(text.hidden_size > 0 && text.num_hidden_layers > 0 && text.vocab_size > 0 &&
                   text.num_key_value_heads > 0 && text.head_dim > 0,
               "sizes of the text model are positive");
  fuzz::expect(text.num_attention_heads % text.num_key_value_heads == 0,
               "query heads share key-value heads evenly");
  fuzz::expect(vision.depth > 0 && vision.num_heads > 0 && vision.patch_size > 0 &&
                   vision.temporal_patch_size > 0 && vision.spatial_merge_size > 0,
               "sizes of the vision tower are positive");
  for (const int32_t layer : vision.deepstack_visual_indexes)
    fuzz::expect(layer >= 0 && layer < vision.depth, "deepstack layers exist");
}

void check(const config::preprocessor_config& processor) {
  fuzz::expect(
      processor.patch_size > 0 && processor.merge_size > 0 && processor.temporal_patch_size > 0,
      "patches are not empty");
  fuzz::expect(processor.image_min_pixels <= processor.image_max_pixels &&
                   processor.video_min_pixels <= processor.video_max_pixels,
               "bounds are in order");
  for (const float deviation : processor.std)
    fuzz::expect(deviation != 0, "pixels can be divided by their deviation");
}

}  // namespace

/// One text, read as each of a checkpoint's configuration files.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto text = fuzz::as_text(data, size);
  refuse_only_with_faults([&] { check(config::parse_model_config(text, "input")); });
  refuse_only_with_faults([&] { check(config::parse_preprocessor_config(text, text, "input")); });
  refuse_only_with_faults([&] { config::parse_generation_config(text, "input"); });
  return 0;
}
