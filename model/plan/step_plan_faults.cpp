#include "model/plan/step_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

namespace troupe::plan {
namespace {

/// Collects the faults of one plan. A field with many bad entries gives one line: the first entry
/// and the number of the others.
class fault_finder {
 public:
  fault_finder(const step_plan& plan, const plan_limits& limits) : plan_(plan), limits_(limits) {}

  std::vector<std::string> find() && {
    check_header();
    if (check_lengths()) {  // the rest indexes one array by another
      check_tokens();
      check_rows();
      check_adjustments();
      if (check_sequences()) check_slots();
    }
    if (const auto actual = compute_digest(plan_); !(actual == plan_.content))
      add("digest is {:016x}{:016x}, the content's is {:016x}{:016x}", plan_.content.high,
          plan_.content.low, actual.high, actual.low);
    return std::move(found_);
  }

 private:
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    found_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  /// Reports the entries of `values` that fail `valid`, once.
  template <class T, class Valid>
  bool each(std::string_view name, const std::vector<T>& values, std::string_view expected,
            Valid valid) {
    const auto bad = std::find_if_not(values.begin(), values.end(), valid);
    if (bad == values.end()) return true;
    const auto others = std::count_if(bad + 1, values.end(), [&](T v) { return !valid(v); });
    add("{}[{}] is {}, expected {}{}", name, bad - values.begin(), *bad, expected,
        others == 0 ? "" : fmt::format(" ({} more)", others));
    return false;
  }

  bool length(std::string_view name, size_t found, size_t expected) {
    if (found == expected) return true;
    add("{} has {} entries, expected {}", name, found, expected);
    return false;
  }

  void check_header() {
    if (plan_.epoch == 0) add("epoch is 0, expected at least 1");
    if (plan_.step == 0) add("step is 0, expected at least 1");
    const auto& buckets = limits_.token_buckets;
    if (!std::binary_search(buckets.begin(), buckets.end(), plan_.bucket_tokens))
      add("bucket_tokens is {}, which is no bucket", plan_.bucket_tokens);
    else if (plan_.num_tokens() > plan_.bucket_tokens)
      add("{} tokens do not fit the bucket of {}", plan_.num_tokens(), plan_.bucket_tokens);
    count("tokens", plan_.token_ids.size(), 1, limits_.max_num_batched_tokens);
    count("sequences", plan_.context_lengths.size(), 1, limits_.max_num_seqs);
    count("logit rows", plan_.logit_rows.size(), 0, limits_.max_num_seqs);
    count("adjustments", plan_.adjustments.size(), 0, limits_.max_adjustments);
    count("cleared blocks", plan_.cleared_blocks.size(), 0, limits_.num_blocks - 1);
    each("cleared_blocks", plan_.cleared_blocks, fmt::format("1 to {}", limits_.num_blocks - 1),
         [&](int32_t block) { return block >= 1 && block < limits_.num_blocks; });
  }

  void count(std::string_view name, size_t found, size_t low, int32_t high) {
    if (found < low || found > static_cast<size_t>(high))
      add("{} {}, expected {} to {}", found, name, low, high);
  }

  bool check_lengths() {
    const size_t tokens = plan_.token_ids.size();
    const size_t sequences = plan_.context_lengths.size();
    const int32_t table_width = plan_.max_blocks_per_sequence;
    if (table_width < 1 || table_width > limits_.max_blocks_per_sequence) {
      add("max_blocks_per_sequence is {}, expected 1 to {}", table_width,
          limits_.max_blocks_per_sequence);
      return false;
    }
    bool ok = length("positions", plan_.positions.size(), 3 * tokens);
    ok &= length("slot_mapping", plan_.slot_mapping.size(), tokens);
    ok &= length("row_map", plan_.row_map.size(), tokens);
    ok &= length("query_start", plan_.query_start.size(), sequences + 1);
    ok &= length("block_tables", plan_.block_tables.size(),
                 sequences * static_cast<size_t>(table_width));
    ok &= length("sampling", plan_.sampling.size(), plan_.logit_rows.size());
    return ok;
  }

  void check_tokens() {
    const int32_t previous_rows = plan_.step > 1 ? limits_.max_num_seqs : 0;
    each("token_ids", plan_.token_ids,
         fmt::format("{} to {}", -previous_rows, limits_.vocab_size - 1),
         [&](int32_t id) { return id >= -previous_rows && id < limits_.vocab_size; });
    each("positions", plan_.positions, fmt::format("0 to {}", limits_.max_model_len - 1),
         [&](int32_t position) { return position >= 0 && position < limits_.max_model_len; });
    each("row_map", plan_.row_map, fmt::format("-1 to {}", limits_.visual_pool_rows - 1),
         [&](int32_t row) { return row >= -1 && row < limits_.visual_pool_rows; });
  }

  void check_rows() {
    const int32_t tokens = plan_.num_tokens();
    each("logit_rows", plan_.logit_rows, fmt::format("0 to {}", tokens - 1),
         [&](int32_t token) { return token >= 0 && token < tokens; });
    const auto& rows = plan_.logit_rows;
    if (std::adjacent_find(rows.begin(), rows.end(), std::greater_equal<>()) != rows.end())
      add("logit_rows are not ascending");
    for (size_t i = 0; i < plan_.sampling.size(); ++i) check_sampling(i, plan_.sampling[i]);
  }

  void check_sampling(size_t row, const sampling_row& settings) {
    // Comparisons are written so that a NaN fails them.
    const auto number = [&](std::string_view name, float value, float low, float high) {
      if (!(value >= low && value <= high))
        add("sampling[{}].{} is {}, expected {} to {}", row, name, value, low, high);
    };
    number("temperature", settings.temperature, 0, 2);
    number("top_p", settings.top_p, 0, 1);
    number("min_p", settings.min_p, 0, 1);
    number("frequency_penalty", settings.frequency_penalty, -2, 2);
    number("presence_penalty", settings.presence_penalty, -2, 2);
    number("repetition_penalty", settings.repetition_penalty, 0, 10);
    if (settings.top_k < 0)
      add("sampling[{}].top_k is {}, expected 0 or more", row, settings.top_k);
    if (settings.num_logprobs < -1 || settings.num_logprobs > max_logprobs)
      add("sampling[{}].num_logprobs is {}, expected -1 to {}", row, settings.num_logprobs,
          max_logprobs);
    if (settings.position < 0 || settings.position > limits_.max_model_len)
      add("sampling[{}].position is {}, expected 0 to {}", row, settings.position,
          limits_.max_model_len);
    if (settings.input_index < -1 || settings.input_index >= plan_.num_tokens())
      add("sampling[{}].input_index is {}, expected -1 to {}", row, settings.input_index,
          plan_.num_tokens() - 1);
  }

  void check_adjustments() {
    const int32_t rows = plan_.num_rows();
    for (size_t i = 0; i < plan_.adjustments.size(); ++i) {
      const auto& entry = plan_.adjustments[i];
      if (entry.row < 0 || entry.row >= rows || entry.token < 0 ||
          entry.token >= limits_.vocab_size || entry.generated_count < 0 || entry.seen < 0 ||
          entry.seen > 1 || !std::isfinite(entry.bias))
        return add(
            "adjustments[{}] is row {} token {} count {} seen {} bias {}, expected row 0 to "
            "{}, token 0 to {}, count 0 or more, seen 0 or 1, finite bias",
            i, entry.row, entry.token, entry.generated_count, entry.seen, entry.bias, rows - 1,
            limits_.vocab_size - 1);
      if (i > 0 && plan_.adjustments[i - 1].row > entry.row)
        return add("adjustments[{}] is of row {} behind row {}, expected ascending rows", i,
                   entry.row, plan_.adjustments[i - 1].row);
    }
  }

  bool check_sequences() {
    const auto& start = plan_.query_start;
    const size_t before = found_.size();
    if (start.front() != 0) add("query_start[0] is {}, expected 0", start.front());
    if (start.back() != plan_.num_tokens())
      add("query_start ends at {}, expected {} tokens", start.back(), plan_.num_tokens());
    if (std::adjacent_find(start.begin(), start.end(), std::greater_equal<>()) != start.end())
      add("query_start is not ascending");
    if (found_.size() != before) return false;
    for (size_t s = 0; s < plan_.context_lengths.size(); ++s) check_context(s);
    return found_.size() == before;
  }

  void check_context(size_t sequence) {
    const int32_t queries = plan_.query_start[sequence + 1] - plan_.query_start[sequence];
    const int32_t context = plan_.context_lengths[sequence];
    const int64_t longest = std::min(limits_.max_model_len,
                                     int64_t{plan_.max_blocks_per_sequence} * limits_.block_size);
    if (context < queries || context > longest)
      return add("context_lengths[{}] is {}, expected {} (its new tokens) to {}", sequence, context,
                 queries, longest);
    const int32_t used = (context + limits_.block_size - 1) / limits_.block_size;
    const int32_t* table = block_table(sequence);
    for (int32_t i = 0; i < plan_.max_blocks_per_sequence; ++i) {
      const bool valid = i < used ? table[i] >= 1 && table[i] < limits_.num_blocks : table[i] == 0;
      if (!valid)
        return i < used ? add("block table {} has block {} at {}, expected 1 to {}", sequence,
                              table[i], i, limits_.num_blocks - 1)
                        : add("block table {} has block {} at {}, expected 0 past its {} blocks",
                              sequence, table[i], i, used);
    }
  }

  /// Each token's slot must be the one its place in its own block table gives, and no block may be
  /// written by two sequences.
  void check_slots() {
    std::vector<int32_t> written;
    for (size_t s = 0; s < plan_.context_lengths.size(); ++s) {
      const int32_t end = plan_.query_start[s + 1];
      const int32_t* table = block_table(s);
      for (int32_t token = plan_.query_start[s]; token < end; ++token) {
        const int32_t index = plan_.context_lengths[s] - (end - token);
        const int32_t block = table[index / limits_.block_size];
        const int32_t expected = block * limits_.block_size + index % limits_.block_size;
        if (plan_.slot_mapping[static_cast<size_t>(token)] != expected)
          return add("slot_mapping[{}] is {}, the block table says {}", token,
                     plan_.slot_mapping[static_cast<size_t>(token)], expected);
        if (token == plan_.query_start[s] || index % limits_.block_size == 0)
          written.push_back(block);
      }
    }
    std::sort(written.begin(), written.end());
    const auto twice = std::adjacent_find(written.begin(), written.end());
    if (twice != written.end()) add("block {} is written at two places of the step", *twice);
  }

  const int32_t* block_table(size_t sequence) const {
    return plan_.block_tables.data() +
           sequence * static_cast<size_t>(plan_.max_blocks_per_sequence);
  }

  const step_plan& plan_;
  const plan_limits& limits_;
  std::vector<std::string> found_;
};

}  // namespace

std::vector<std::string> faults(const step_plan& plan, const plan_limits& limits) {
  return fault_finder(plan, limits).find();
}

}  // namespace troupe::plan
