list(APPEND model_sources vision/exif.cpp vision/image.cpp vision/image_processor.cpp
     vision/jpeg.cpp vision/media.cpp vision/png.cpp vision/resize.cpp vision/webp.cpp)
list(APPEND model_headers vision/byte_reader.hpp vision/exif.hpp vision/image.hpp
     vision/image_codecs.hpp vision/image_processor.hpp vision/media.hpp vision/visual_pool.hpp
     vision/vision_runner.hpp)
list(APPEND model_sources vision/patch_merger.cpp vision/vision_block.cpp vision/vision_inputs.cpp
     vision/vision_runner.cpp vision/vision_slices.cpp vision/vision_staging.cpp vision/vision_step.cpp vision/vision_tower.cpp
     vision/visual_pool.cpp)
list(APPEND model_headers vision/patch_merger.hpp vision/vision_block.hpp vision/vision_inputs.hpp
     vision/vision_slices.hpp vision/vision_staging.hpp vision/vision_step.hpp vision/vision_tower.hpp)
