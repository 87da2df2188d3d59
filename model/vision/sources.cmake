list(APPEND model_headers vision/image.hpp vision/media.hpp vision/visual_pool.hpp vision/vision_runner.hpp)
list(APPEND model_sources)
