#include "model/step_inputs.hpp"
#include "gpu/backend.hpp"
#include "support/forwarding_operations.hpp"

#include <boost/test/unit_test.hpp>

#include <cstring>
#include <memory>
#include <vector>

using namespace troupe;

namespace {

/// Counts copies to the device.
class counting_operations : public testing::forwarding_operations {
 public:
  counting_operations() : forwarding_operations(gpu::make_cpu_operations({})) {}
  void upload(gpu::tensor_view destination, const void* source, int64_t bytes) override {
    ++copies;
    copied_bytes = bytes;
    forwarding_operations::upload(destination, source, bytes);
  }
  int copies = 0;
  int64_t copied_bytes = 0;
};

plan::plan_limits small_limits() {
  plan::plan_limits limits;
  limits.max_num_seqs = 3;
  limits.max_num_batched_tokens = 8;
  limits.max_blocks_per_sequence = 100;
  limits.block_size = 4;
  limits.num_blocks = 9;
  limits.max_adjustments = 50;
  return limits;
}

plan::step_plan two_sequences() {
  plan::step_plan plan;
  plan.bucket_tokens = 4;
  plan.token_ids = {7, -1, 9};
  plan.positions = {1, 2, 3, 11, 12, 13, 21, 22, 23};
  plan.slot_mapping = {4, 5, 8};
  plan.row_map = {-1, 6, -1};
  plan.query_start = {0, 2, 3};
  plan.context_lengths = {2, 1};
  plan.max_blocks_per_sequence = 100;
  plan.block_tables.assign(200, 0);
  plan.block_tables[0] = 1;
  plan.block_tables[100] = 2;
  plan.logit_rows = {1, 2};
  plan.sampling.resize(2);
  plan.sampling[1].seed = 99;
  return plan;
}

std::vector<int32_t> read(const gpu::tensor_view& view, int64_t count) {
  return {view.as<int32_t>(), view.as<int32_t>() + count};
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_plan_reaches_its_places_by_one_copy) {
  counting_operations backend;
  model::step_inputs inputs(small_limits(), backend);
  inputs.load(backend, two_sequences());
  BOOST_TEST(backend.copies == 1);

  const auto& views = inputs.views();
  BOOST_TEST(*views.tokens.value == 3);
  BOOST_TEST(*views.sequences.sequences.value == 2);
  BOOST_TEST(*views.rows.value == 2);
  BOOST_TEST(*views.num_adjustments.value == 0);
  BOOST_TEST(read(views.token_ids, 3) == (std::vector<int32_t>{7, -1, 9}));
  BOOST_TEST(read(views.positions.at(0), 3) == (std::vector<int32_t>{1, 2, 3}));
  BOOST_TEST(read(views.positions.at(1), 3) == (std::vector<int32_t>{11, 12, 13}));
  BOOST_TEST(read(views.positions.at(2), 3) == (std::vector<int32_t>{21, 22, 23}));
  BOOST_TEST(read(views.sequences.query_start, 3) == (std::vector<int32_t>{0, 2, 3}));
  BOOST_TEST(read(views.sequences.context_lengths, 2) == (std::vector<int32_t>{2, 1}));
  BOOST_TEST(read(views.sequences.block_tables.at(1), 1)[0] == 2);
  BOOST_TEST(read(views.logit_rows, 2) == (std::vector<int32_t>{1, 2}));
  plan::sampling_row row;
  std::memcpy(&row, views.sampling.data + sizeof row, sizeof row);
  BOOST_TEST(row.seed == 99);
}

BOOST_AUTO_TEST_CASE(short_tables_of_a_plan_go_to_the_long_rows_of_the_arena) {
  counting_operations backend;
  model::step_inputs inputs(small_limits(), backend);
  auto plan = two_sequences();
  plan.max_blocks_per_sequence = 3;
  plan.block_tables = {1, 4, 5, 2, 0, 0};
  inputs.load(backend, plan);
  const auto& tables = inputs.views().sequences.block_tables;
  BOOST_TEST(read(tables.at(0), 3) == (std::vector<int32_t>{1, 4, 5}));
  BOOST_TEST(read(tables.at(1), 3) == (std::vector<int32_t>{2, 0, 0}));
}

BOOST_AUTO_TEST_CASE(padding_of_the_bucket_reads_no_row_and_writes_no_slot) {
  counting_operations backend;
  model::step_inputs inputs(small_limits(), backend);
  plan::step_plan full = two_sequences();
  full.bucket_tokens = 8;
  for (auto* field : {&full.token_ids, &full.slot_mapping, &full.row_map}) field->assign(8, 3);
  full.positions.assign(24, 3);
  inputs.load(backend, full);
  inputs.load(backend, two_sequences());
  BOOST_TEST(read(inputs.views().slot_mapping, 4) == (std::vector<int32_t>{4, 5, 8, -1}));
  BOOST_TEST(read(inputs.views().row_map, 4) == (std::vector<int32_t>{-1, 6, -1, -1}));
  BOOST_TEST(read(inputs.views().token_ids, 4) == (std::vector<int32_t>{7, -1, 9, 0}));
}

BOOST_AUTO_TEST_CASE(a_copy_ends_with_the_live_tables_unless_there_are_adjustments) {
  counting_operations backend;
  model::step_inputs inputs(small_limits(), backend);
  auto plan = two_sequences();
  inputs.load(backend, plan);
  const int64_t two_tables = backend.copied_bytes;
  plan.query_start = {0, 3};
  plan.context_lengths = {3};
  plan.block_tables.resize(100);
  inputs.load(backend, plan);
  BOOST_TEST(two_tables - backend.copied_bytes == 100 * 4);

  plan.adjustments = {{.row = 0, .token = 5, .generated_count = 2, .seen = 1, .bias = 0.5F}};
  inputs.load(backend, plan);
  BOOST_TEST(backend.copies == 3);
  plan::logit_adjustment adjustment;
  std::memcpy(&adjustment, inputs.views().adjustments.data, sizeof adjustment);
  BOOST_TEST((adjustment == plan.adjustments[0]));
  BOOST_TEST(*inputs.views().num_adjustments.value == 1);
}

BOOST_AUTO_TEST_CASE(addresses_are_the_same_after_every_load) {
  counting_operations backend;
  model::step_inputs inputs(small_limits(), backend);
  const auto* counts = inputs.views().tokens.value;
  const auto* tables = inputs.views().sequences.block_tables.data;
  inputs.load(backend, two_sequences());
  inputs.load(backend, model::warm_up_plan(small_limits(), 8));
  BOOST_TEST(inputs.views().tokens.value == counts);
  BOOST_TEST(inputs.views().sequences.block_tables.data == tables);
  BOOST_TEST(*counts == 1);
  BOOST_TEST(read(inputs.views().slot_mapping, 1)[0] == -1);
}
