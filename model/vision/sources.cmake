list(APPEND model_sources)
list(APPEND model_headers vision/image.hpp vision/image_processor.hpp vision/media.hpp
     vision/visual_pool.hpp vision/vision_runner.hpp)
