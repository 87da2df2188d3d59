#include "model/work_model.hpp"

#include <boost/test/unit_test.hpp>

using namespace troupe;

// Figures of the released sizes, worked out by hand from their published shapes.
BOOST_AUTO_TEST_SUITE(work_model_test)

BOOST_AUTO_TEST_CASE(text_work_of_released_sizes) {
  const struct {
    const char* name;
    double linear_gflop_per_token, head_gflop, decode_gb;
  } rows[] = {{"2b", 2.819, 0.622, 3.44},
              {"4b", 7.267, 0.778, 8.05},
              {"8b", 13.892, 1.245, 15.14},
              {"32b", 62.411, 1.556, 63.97},
              {"30b-a3b", 5.461, 0.622, 6.08}};
  for (const auto& row : rows) {
    BOOST_TEST_CONTEXT(row.name) {
      const auto text = config::named_model_config(row.name).text;
      const double linears = 2e-9 * static_cast<double>(model::active_layer_parameters(text));
      BOOST_TEST(linears == row.linear_gflop_per_token, boost::test_tools::tolerance(1e-3));
      // One token attends to itself alone: linears, head, and almost no attention.
      BOOST_TEST(1e-9 * model::prefill_flops(text, 1, 0) == linears + row.head_gflop,
                 boost::test_tools::tolerance(1e-3));
      BOOST_TEST(1e-9 * model::decode_bytes(text, gpu::dtype::bf16, gpu::dtype::bf16, 1, 0) ==
                     row.decode_gb,
                 boost::test_tools::tolerance(2e-3));
    }
  }
}

BOOST_AUTO_TEST_CASE(cache_and_context_count) {
  const auto text = config::named_model_config("8b").text;
  const auto bytes = [&](int64_t batch, int64_t context) {
    return model::decode_bytes(text, gpu::dtype::bf16, gpu::dtype::bf16, batch, context);
  };
  BOOST_TEST(bytes(4, 1000) - bytes(4, 0) == 4.0 * 1000 * 147456);
  const double attention = model::prefill_flops(text, 1, 1000) - model::prefill_flops(text, 1, 0);
  BOOST_TEST(attention == 1000.0 * 589824);
}

BOOST_AUTO_TEST_CASE(vision_work_of_released_sizes) {
  const struct {
    const char* name;
    model::patch_grid grid;
    double tflop;
  } rows[] = {{"2b", {1, 16, 16}, 0.175},
              {"2b", {1, 64, 64}, 4.342},
              {"8b", {1, 30, 40}, 1.266},
              {"8b", {1, 256, 256}, 593.7},
              {"32b", {1, 86, 128}, 25.152}};
  for (const auto& row : rows)
    BOOST_TEST(
        1e-12 * model::vision_flops(config::named_model_config(row.name).vision, {row.grid}) ==
            row.tflop,
        boost::test_tools::tolerance(3e-3));
}

BOOST_AUTO_TEST_SUITE_END()
