#include "tests/gpu/cpu_fixture.hpp"

#include <algorithm>
#include <numeric>

using namespace troupe::gpu;
using namespace troupe::gpu::cpu;
using namespace troupe::gpu::cpu::test;

namespace {

/// Softmax in double.
std::vector<double> softmax(std::vector<double> scores) {
  const double peak = *std::max_element(scores.begin(), scores.end());
  for (double& score : scores) score = std::exp(score - peak);
  const double total = std::accumulate(scores.begin(), scores.end(), 0.0);
  for (double& score : scores) score /= total;
  return scores;
}

/// The softmax weights of one query row and head; the columns of that head share them.
class shared_weights {
 public:
  using make = std::function<std::vector<double>(int64_t row, int64_t head)>;
  explicit shared_weights(make weights) : make_(std::move(weights)) {}

  const std::vector<double>& of(int64_t row, int64_t head) {
    if (row != row_ || head != head_) weights_ = make_(row, head);
    row_ = row;
    head_ = head;
    return weights_;
  }

 private:
  make make_;
  int64_t row_ = -1, head_ = -1;
  std::vector<double> weights_;
};

double weighted(const std::vector<double>& weights, const std::function<double(int64_t)>& value) {
  double sum = 0;
  for (size_t j = 0; j < weights.size(); ++j) sum += weights[j] * value(static_cast<int64_t>(j));
  return sum;
}

struct sequence_shape {
  int32_t new_tokens;
  int32_t context;  // new ones included
};

/// A paged cache with sequences in scattered blocks; everything that no sequence owns is NaN.
struct paged_case {
  int64_t q_heads, kv_heads, head_dim, block_size;
  std::vector<sequence_shape> sequences;
  int64_t tokens = 0, capacity = 0;
  memory tensors;
  tensor_view qkv, output;
  paged_kv cache;
  sequence_batch batch;
  live_count live;

  paged_case(dtype type, int64_t q, int64_t kv, int64_t dim, int64_t block,
             std::vector<sequence_shape> shapes)
      : q_heads(q), kv_heads(kv), head_dim(dim), block_size(block), sequences(std::move(shapes)) {
    for (const auto& sequence : sequences) tokens += sequence.new_tokens;
    capacity = tokens + 3;
    qkv = tensors.add_random(type, {capacity, (q + 2 * kv) * dim});
    poison(qkv, tokens);
    output = tensors.add(type, {capacity, q * dim});
    live = tensors.add_count(static_cast<int32_t>(tokens));
    fill_tables();
    fill_cache(type);
  }

  void fill_tables() {
    const auto count = static_cast<int64_t>(sequences.size());
    batch.query_start = tensors.add(dtype::i32, {count + 2});
    batch.context_lengths = tensors.add(dtype::i32, {count + 1});
    const int64_t max_blocks = 40;
    batch.block_tables = tensors.add(dtype::i32, {count + 1, max_blocks});
    batch.sequences = tensors.add_count(static_cast<int32_t>(count));
    int32_t start = 0, block = 1;
    for (int64_t i = 0; i < count; ++i) {
      const auto& sequence = sequences[static_cast<size_t>(i)];
      batch.query_start.as<int32_t>()[i] = start;
      batch.context_lengths.as<int32_t>()[i] = sequence.context;
      start += sequence.new_tokens;
      for (int64_t b = 0; b * block_size < sequence.context; ++b, block += 2)
        set_value(batch.block_tables, i, b, block);
    }
    batch.query_start.as<int32_t>()[count] = start;
    num_blocks = block + 1;
  }

  void fill_cache(dtype type) {
    cache.block_size = static_cast<int32_t>(block_size);
    cache.num_kv_heads = static_cast<int32_t>(kv_heads);
    cache.blocks = tensors.add(type, {num_blocks * 2, kv_heads, block_size, head_dim});
    poison(cache.blocks, 0);
    std::normal_distribution<double> normal;
    for (size_t s = 0; s < sequences.size(); ++s)
      for (int64_t key = 0; key < sequences[s].context; ++key)
        for (int64_t kind = 0; kind < 2; ++kind)
          for (int64_t head = 0; head < kv_heads; ++head)
            for (int64_t i = 0; i < head_dim; ++i)
              set_value(cache.blocks, cache_row(static_cast<int64_t>(s), key, kind, head), i,
                        normal(tensors.random()));
  }

  int64_t cache_row(int64_t sequence, int64_t key, int64_t kind, int64_t head) const {
    const auto block =
        static_cast<int64_t>(value_at(batch.block_tables, sequence, key / block_size));
    return ((block * 2 + kind) * kv_heads + head) * block_size + key % block_size;
  }

  int64_t sequence_of(int64_t token) const {
    int64_t s = 0;
    while (batch.query_start.as<int32_t>()[s + 1] <= token) ++s;
    return s;
  }

  std::vector<double> weights(int64_t token, int64_t head) const {
    const int64_t s = sequence_of(token);
    const auto& shape = sequences[static_cast<size_t>(s)];
    const int64_t visible =
        shape.context - shape.new_tokens + (token - batch.query_start.as<int32_t>()[s]) + 1;
    std::vector<double> scores(static_cast<size_t>(visible));
    for (int64_t key = 0; key < visible; ++key) {
      const int64_t row = cache_row(s, key, 0, head / (q_heads / kv_heads));
      double score = 0;
      for (int64_t i = 0; i < head_dim; ++i)
        score += value_at(qkv, token, head * head_dim + i) * value_at(cache.blocks, row, i);
      scores[static_cast<size_t>(key)] = score / std::sqrt(static_cast<double>(head_dim));
    }
    return softmax(std::move(scores));
  }

  void check() const {
    shared_weights shared([this](int64_t row, int64_t head) { return weights(row, head); });
    check_rows(output, tokens, [&](int64_t row, int64_t column) {
      const int64_t head = column / head_dim;
      return weighted(shared.of(row, head), [&](int64_t key) {
        const int64_t at = cache_row(sequence_of(row), key, 1, head / (q_heads / kv_heads));
        return value_at(cache.blocks, at, column % head_dim);
      });
    });
  }

  void issue(operations& backend) { backend.paged_attention(output, qkv, cache, batch, live); }

  int32_t num_blocks = 0;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(cpu_attention_test)

BOOST_AUTO_TEST_CASE(paged_attention_equals_its_definition) {
  for_backends([](operations& backend, dtype type) {
    const auto check = [&](int64_t q, int64_t kv, int64_t dim, int64_t block,
                           std::vector<sequence_shape> shapes) {
      paged_case test(type, q, kv, dim, block, std::move(shapes));
      run(backend, test.tensors, [&] { test.issue(backend); });
      test.check();
    };
    check(4, 2, 128, 16, {{1, 1}, {1, 70}, {5, 5}, {1, 64}, {1, 65}, {37, 100}});
    check(6, 2, 128, 16, {{130, 130}});
    check(3, 3, 72, 8, {{17, 33}, {1, 9}});
    check(8, 1, 8, 3, {{2, 2}, {1, 4}, {9, 30}});
    check(2, 2, 64, 16, {});
  });
}

BOOST_AUTO_TEST_CASE(a_sequence_is_the_same_bits_alone_and_in_any_chunks) {
  for_backends(
      [](operations& backend, dtype type) {
        paged_case whole(type, 4, 2, 128, 16, {{1, 90}, {150, 150}, {3, 20}});
        whole.issue(backend);
        const int64_t first = whole.batch.query_start.as<int32_t>()[1];
        for (const int32_t chunk : {1, 17, 64}) {
          // The same cache and queries as one sequence, `chunk` tokens a step.
          sequence_batch alone;
          memory own;
          alone.query_start = own.add_ids({0, 0});
          alone.context_lengths = own.add_ids({0});
          alone.block_tables = whole.batch.block_tables.slice_rows(1, 1);
          alone.sequences = own.add_count(1);
          const auto tokens = own.add_count(0);
          const auto output = own.add(type, {64, whole.output.width()});
          for (int32_t done = 0; done < 150; done += chunk) {
            const int32_t count = std::min(chunk, 150 - done);
            alone.query_start.as<int32_t>()[1] = count;
            alone.context_lengths.as<int32_t>()[0] = done + count;
            memory::set(tokens, count);
            backend.paged_attention(output.slice_rows(0, count),
                                    whole.qkv.slice_rows(first + done, count), whole.cache, alone,
                                    tokens);
            for (int64_t row = 0; row < count; ++row)
              BOOST_REQUIRE(
                  (row_bytes(output, row) == row_bytes(whole.output, first + done + row)));
          }
        }
      },
      2);
}

BOOST_AUTO_TEST_CASE(large_scores_do_not_overflow) {
  for_backends([](operations& backend, dtype type) {
    paged_case test(type, 2, 1, 64, 16, {{1, 130}});
    for (int64_t i = 0; i < 64; ++i) {
      set_value(test.qkv, 0, i, 60);
      set_value(test.cache.blocks, test.cache_row(0, 129, 0, 0), i, 60);
    }
    run(backend, test.tensors, [&] { test.issue(backend); });
    test.check();
  });
}

BOOST_AUTO_TEST_CASE(norm_rope_and_cache_write_equal_their_definition) {
  for_backends([](operations& backend, dtype type) {
    constexpr int64_t q_heads = 3, kv_heads = 1, dim = 24, block = 4, capacity = 5;
    for (int32_t live = 0; live <= capacity; ++live) {
      memory tensors;
      const auto qkv = tensors.add_random(type, {capacity, (q_heads + 2 * kv_heads) * dim});
      memory original;
      const auto before = original.add(type, {capacity, qkv.width()});
      std::memcpy(before.data, qkv.data, static_cast<size_t>(qkv.span_bytes()));
      poison(qkv, live);
      const auto q_weight = tensors.add_random(type, {dim});
      const auto k_weight = tensors.add_random(type, {dim});
      const auto positions = tensors.add(dtype::i32, {3, 8});
      for (int64_t axis = 0; axis < 3; ++axis)
        for (int64_t i = 0; i < 8; ++i)
          set_value(positions, axis, i, static_cast<double>(i * 100 * (axis + 1) + axis));
      text_rotary rotary{tensors.add(dtype::f32, {dim / 2}), tensors.add(dtype::i32, {dim / 2}),
                         1.25F};
      for (int64_t j = 0; j < dim / 2; ++j) {
        set_value(rotary.inverse_frequency, 0, j, std::pow(5000.0, -static_cast<double>(j) / 12));
        set_value(rotary.axis, 0, j, static_cast<double>(j % 3));
      }
      const auto slots = tensors.add_ids({5, -1, 11, 0, 7});
      paged_kv cache{tensors.add(type, {6, kv_heads, block, dim}), block, kv_heads};
      const auto rows = tensors.add_count(live);
      run(backend, tensors, [&] {
        backend.qk_norm_rope_cache_write(qkv, q_weight, k_weight, 1e-6F, positions, rotary, slots,
                                         cache, rows);
      });

      const auto normed = [&](int64_t row, int64_t head, int64_t i) {
        const auto& weight = head < q_heads ? q_weight : k_weight;
        double square = 0;
        for (int64_t k = 0; k < dim; ++k)
          square += std::pow(value_at(before, row, head * dim + k), 2);
        const double scale = 1 / std::sqrt(square / dim + 1e-6);
        return rounded(type, value_at(weight, 0, i) *
                                 rounded(type, value_at(before, row, head * dim + i) * scale));
      };
      const auto rotated = [&](int64_t row, int64_t head, int64_t i) {
        const int64_t pair = i % (dim / 2);
        const auto position = static_cast<float>(value_at(positions, pair % 3, row));
        const double angle =
            static_cast<double>(position * rotary.inverse_frequency.as<float>()[pair]);
        const double partner =
            i < dim / 2 ? -normed(row, head, i + dim / 2) : normed(row, head, i - dim / 2);
        return 1.25 * (normed(row, head, i) * std::cos(angle) + partner * std::sin(angle));
      };
      check_rows(
          qkv.slice_columns(0, q_heads * dim), live,
          [&](int64_t row, int64_t column) { return rotated(row, column / dim, column % dim); }, 8);
      for (int64_t slot = 0; slot < 12; ++slot) {
        const int32_t* owner = std::find(slots.as<int32_t>(), slots.as<int32_t>() + live, slot);
        const int64_t row = owner - slots.as<int32_t>();
        const bool written = row < live;
        const int64_t key_row = (slot / block) * 2 * block + slot % block;
        for (int64_t i = 0; i < dim; ++i) {
          const double key = written ? rotated(row, q_heads, i) : 0;
          const double value = written ? value_at(before, row, (q_heads + kv_heads) * dim + i) : 0;
          BOOST_TEST(std::abs(value_at(cache.blocks, key_row, i) - key) <= tolerance(type, 8));
          BOOST_TEST(value_at(cache.blocks, key_row + block, i) == value);
        }
      }
    }
  });
}

BOOST_AUTO_TEST_CASE(segments_attend_within_themselves) {
  for_backends([](operations& backend, dtype type) {
    for (const int64_t dim : {64, 72, 16}) {
      memory tensors;
      constexpr int32_t heads = 2;
      const std::vector<int32_t> starts{0, 1, 1, 70, 136, 200};
      const auto qkv = tensors.add_random(type, {140, 3 * heads * dim});
      poison(qkv, 136);
      const auto output = tensors.add(type, {140, heads * dim});
      const auto segment_start = tensors.add_ids(starts);
      const auto segments = tensors.add_count(4);
      const auto patches = tensors.add_count(136);
      run(backend, tensors,
          [&] { backend.segment_attention(output, qkv, heads, segment_start, segments, patches); });
      const auto bounds = [&](int64_t row) {
        const auto next = std::upper_bound(starts.begin(), starts.end(), row);
        return std::pair<int64_t, int64_t>{*(next - 1), *next};
      };
      shared_weights shared([&](int64_t row, int64_t head) {
        const auto [first, last] = bounds(row);
        std::vector<double> scores;
        for (int64_t key = first; key < last; ++key) {
          double score = 0;
          for (int64_t i = 0; i < dim; ++i)
            score +=
                value_at(qkv, row, head * dim + i) * value_at(qkv, key, (heads + head) * dim + i);
          scores.push_back(score / std::sqrt(static_cast<double>(dim)));
        }
        return softmax(std::move(scores));
      });
      check_rows(output, 136, [&](int64_t row, int64_t column) {
        const int64_t first = bounds(row).first;
        return weighted(shared.of(row, column / dim), [&](int64_t key) {
          return value_at(qkv, first + key, 2 * heads * dim + column);
        });
      });
    }
  });
}

BOOST_AUTO_TEST_CASE(a_segment_is_the_same_bits_alone) {
  for_backends(
      [](operations& backend, dtype type) {
        memory tensors;
        const auto qkv = tensors.add_random(type, {210, 3 * 72});
        const auto together = tensors.add(type, {210, 72});
        const auto alone = tensors.add(type, {100, 72});
        const auto starts = tensors.add_ids({0, 10, 110, 210});
        const auto own_start = tensors.add_ids({0, 100});
        const auto three = tensors.add_count(3);
        const auto all = tensors.add_count(210);
        const auto one = tensors.add_count(1);
        const auto hundred = tensors.add_count(100);
        backend.segment_attention(together, qkv, 1, starts, three, all);
        backend.segment_attention(alone, qkv.slice_rows(10, 100), 1, own_start, one, hundred);
        for (int64_t row = 0; row < 100; ++row)
          BOOST_REQUIRE((row_bytes(alone, row) == row_bytes(together, 10 + row)));
      },
      2);
}

BOOST_AUTO_TEST_SUITE_END()
