// Every operation on the tested device against the CPU backend's, which is verified against its
// definition: random shapes, live counts below the capacity, NaN in everything dead. Eagerly and as
// a graph, which must be the same bits. (Without a device the graph alone is tested.)
#include "gpu/backend.hpp"
#include "support/runner_group.hpp"
#include "tests/gpu/cpu_fixture.hpp"

#include <algorithm>
#include <numeric>

using namespace troupe::gpu;
using namespace troupe::gpu::cpu::test;

namespace {

/// fp32 sums in another order, and exponentials of another library, at magnitude 1.
constexpr double error_f32 = 3e-5;
/// Two roundings that fall to the other side, an intermediate one and that of the result: each is worth 2^-7
/// of a value at most.
constexpr double error_bf16 = 0x1p-6;

struct backends {
  std::unique_ptr<operations> reference = make_cpu_operations({});
  std::unique_ptr<operations> tested =
      make_operations(troupe::testing::group_options{}.backend_options());

  static backends& once() {
    static backends both;
    return both;
  }
};

/// One backend's tensors and weights, by their numbers.
struct side {
  operations& backend;
  std::vector<tensor_view> tensors;
  std::vector<linear_weight> weights;

  const tensor_view& operator[](size_t tensor) const { return tensors[tensor]; }
  live_count count(size_t tensor) const { return {tensors[tensor].as<int32_t>()}; }
};

/// What an operation writes: the first `rows` rows of a tensor, values of magnitude `scale`.
struct written {
  size_t tensor;
  int64_t rows;
  double scale = 1;
};

class twin {
 public:
  explicit twin(dtype activation)
      : activation_(activation),
        reference_{*backends::once().reference, {}, {}},
        tested_{*backends::once().tested, {}, {}} {}

  size_t random(dtype type, std::initializer_list<int64_t> shape, double scale = 1) {
    return keep(host_.add_random(type, shape, scale), shape);
  }
  size_t ids(const std::vector<int32_t>& values) {
    return keep(host_.add_ids(values), {static_cast<int64_t>(values.size())});
  }
  size_t bytes(const std::vector<uint8_t>& values) {
    const auto size = static_cast<int64_t>(values.size());
    const tensor_view view = host_.add(dtype::u8, {size});
    std::copy(values.begin(), values.end(), view.as<uint8_t>());
    return keep(view, {size});
  }
  size_t weight(int64_t in, int64_t out, bool with_bias = false) {
    const auto matrix = host_.add_random(activation_, {out, in}, 1 / std::sqrt(double(in)));
    const auto bias = with_bias ? host_.add_random(activation_, {out}) : tensor_view{};
    for (side* one : {&reference_, &tested_})
      one->weights.push_back(one->backend.prepare_linear("test", matrix, bias));
    return reference_.weights.size() - 1;
  }
  /// Weights that one operation uses together; the number of the first.
  size_t weight_group(int32_t count, int64_t in, int64_t out) {
    std::vector<host_matrix> matrices;
    for (int32_t i = 0; i < count; ++i)
      matrices.emplace_back(host_.add_random(activation_, {out, in}, 1 / std::sqrt(double(in))));
    const size_t first = reference_.weights.size();
    for (side* one : {&reference_, &tested_})
      for (const auto& weight : one->backend.prepare_linears("test", matrices))
        one->weights.push_back(weight);
    return first;
  }
  const tensor_view& host(size_t tensor) const { return reference_.tensors[tensor]; }
  std::mt19937& random_engine() { return host_.random(); }

  void compare(const std::function<void(const side&)>& issue, const std::vector<written>& outputs) {
    // What an operation initialises and chooses when a shape is met first, it does in a run whose
    // results nobody uses: as in an engine.
    send();
    issue(tested_);
    send();
    issue(tested_);
    const auto eager = fetch();
    send();
    tested_.backend.begin_capture(leases());
    issue(tested_);
    auto graph = tested_.backend.end_capture("test");
    graph.replay();
    const auto replayed = fetch();
    issue(reference_);
    for (const auto& output : outputs) {
      check_bits(output, eager, replayed);
      check_values(output, eager);
    }
    found_ = eager;
  }
  /// The first `count` values of a vector that the last operation wrote.
  void check_first(size_t tensor, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) check_value({tensor, 1}, found_, 0, i);
  }

 private:
  using contents = std::vector<std::vector<std::byte>>;

  size_t keep(const tensor_view& view, std::initializer_list<int64_t> shape) {
    reference_.tensors.push_back(view);
    device_.emplace_back("tensor", tested_.backend.memory());
    device_.back().reserve("tensor", view.type, shape);
    device_.back().seal();
    tested_.tensors.push_back(device_.back().view(0));
    return reference_.tensors.size() - 1;
  }
  std::vector<arena_lease> leases() const {
    std::vector<arena_lease> all;
    for (const auto& arena : device_) all.push_back(arena.lease());
    return all;
  }
  void send() {
    for (size_t i = 0; i < tested_.tensors.size(); ++i)
      tested_.backend.upload(tested_.tensors[i], host(i).data, host(i).span_bytes());
    tested_.backend.synchronize();
  }
  contents fetch() {
    contents all;
    for (const auto& view : tested_.tensors) {
      all.emplace_back(static_cast<size_t>(view.span_bytes()));
      tested_.backend.download(all.back().data(), view, view.span_bytes());
    }
    tested_.backend.synchronize();
    return all;
  }
  void check_bits(const written& output, const contents& eager, const contents& replayed) const {
    const tensor_view& view = host(output.tensor);
    const auto bytes = output.rows * view.width() * size_of(view.type);
    BOOST_TEST(std::memcmp(eager[output.tensor].data(), replayed[output.tensor].data(),
                           static_cast<size_t>(bytes)) == 0,
               "a replay differs from eager execution");
  }
  void check_values(const written& output, const contents& found) const {
    for (int64_t row = 0; row < output.rows; ++row)
      for (int64_t column = 0; column < host(output.tensor).width(); ++column)
        if (!check_value(output, found, row, column)) return;
  }
  bool check_value(const written& output, const contents& found, int64_t row,
                   int64_t column) const {
    tensor_view view = host(output.tensor);
    const double wanted = value_at(view, row, column);
    view.data = const_cast<std::byte*>(found[output.tensor].data());
    const double got = value_at(view, row, column);
    const double error = activation_ == dtype::bf16 ? error_bf16 : error_f32;
    const bool near = std::abs(got - wanted) <= error * std::max(output.scale, std::abs(wanted));
    BOOST_TEST(near, "tensor " << output.tensor << " row " << row << " column " << column << " is "
                               << got << ", the CPU has " << wanted);
    return near;
  }

  dtype activation_;
  memory host_;
  std::vector<arena> device_;
  side reference_, tested_;
  contents found_;  // by the last eager run
};

/// A capacity and a live count below it.
struct row_count {
  int64_t capacity;
  int32_t live;
};

/// Capacities on both sides of what own kernels and libraries serve.
const std::vector<row_count> row_counts{{1, 1},   {4, 3},   {16, 0},   {32, 29},
                                        {48, 48}, {96, 65}, {256, 200}};

void for_cases(const std::function<void(dtype, row_count)>& body) {
  for (const auto type : {dtype::f32, dtype::bf16})
    for (const auto& rows : row_counts)
      BOOST_TEST_CONTEXT((type == dtype::bf16 ? "bf16, " : "f32, ")
                         << rows.live << " of " << rows.capacity << " rows")
  body(type, rows);
}

/// Random row numbers below `rows`, some of them -1.
std::vector<int32_t> some_rows(std::mt19937& random, int64_t count, int32_t rows, bool with_none) {
  std::vector<int32_t> all;
  for (int64_t i = 0; i < count; ++i)
    all.push_back(with_none && random() % 3 == 0
                      ? -1
                      : static_cast<int32_t>(random() % static_cast<uint32_t>(rows)));
  return all;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(agreeing_backends)

BOOST_AUTO_TEST_CASE(norms) {
  for_cases([](dtype type, row_count rows) {
    for (const int64_t width : {64, 192, 1024, 2560}) {
      twin t(type);
      const auto input = t.random(type, {rows.capacity, width});
      const auto weight = t.random(type, {width});
      const auto bias = t.random(type, {width});
      const auto output = t.random(type, {rows.capacity, width});
      const auto live = t.ids({rows.live});
      poison(t.host(input), rows.live);
      t.compare(
          [&](const side& s) {
            s.backend.rms_norm(s[output], s[input], s[weight], 1e-6F, s.count(live));
          },
          {{output, rows.live, 2}});
      t.compare(
          [&](const side& s) {
            s.backend.layer_norm(s[output], s[input], s[weight], s[bias], 1e-6F, s.count(live));
          },
          {{output, rows.live, 2}});
    }
  });
}

BOOST_AUTO_TEST_CASE(products) {
  for_cases([](dtype type, row_count rows) {
    for (const auto& [in, out] : std::vector<std::pair<int64_t, int64_t>>{
             {64, 192}, {192, 640}, {1152, 128}, {512, 1024}}) {
      twin t(type);
      const auto plain = t.weight(in, out);
      const auto biased = t.weight(in, out, true);
      const auto gated = t.weight(in, 2 * out);
      const auto input = t.random(type, {rows.capacity, in});
      const auto output = t.random(type, {rows.capacity, out});
      const auto wide = t.random(dtype::f32, {rows.capacity, out});
      const auto scratch = t.random(type, {rows.capacity, 2 * out});
      const auto live = t.ids({rows.live});
      poison(t.host(input), rows.live);
      t.compare(
          [&](const side& s) {
            s.backend.linear(s[output], s[input], s.weights[plain], s.count(live));
          },
          {{output, rows.live, 2}});
      t.compare(
          [&](const side& s) {
            s.backend.linear(s[wide], s[input], s.weights[plain], s.count(live));
          },
          {{wide, rows.live, 2}});
      t.compare(
          [&](const side& s) {
            s.backend.linear(s[output], s[input], s.weights[biased], s.count(live));
          },
          {{output, rows.live, 2}});
      t.compare(
          [&](const side& s) {
            s.backend.gated_linear(s[output], s[scratch], s[input], s.weights[gated],
                                   s.count(live));
          },
          {{output, rows.live, 2}});
      t.compare(
          [&](const side& s) {
            s.backend.gelu_linear(s[output], s[input], s.weights[biased], gelu_kind::tanh,
                                  s.count(live));
          },
          {{output, rows.live, 2}});
      const auto sum = t.random(type, {rows.capacity, out});
      poison(t.host(sum), rows.live);
      t.compare(
          [&](const side& s) {
            s.backend.linear_add(s[sum], s[output], s[input], s.weights[biased], s.count(live));
          },
          {{sum, rows.live, 4}});
    }
  });
}

BOOST_AUTO_TEST_CASE(rows_by_index) {
  for_cases([](dtype type, row_count rows) {
    const int64_t width = 192;
    const int32_t vocab = 300, pool_rows = 40;
    twin t(type);
    auto& random = t.random_engine();
    auto given = some_rows(random, rows.capacity, vocab, false);
    for (size_t i = 0; i < given.size(); i += 3) given[i] = -1 - static_cast<int32_t>(i % 8);
    const auto token_ids = t.ids(given);
    const auto sampled = t.ids(some_rows(random, 8, vocab, false));
    const auto row_map = t.ids(some_rows(random, rows.capacity, pool_rows, true));
    const auto index = t.ids(some_rows(random, rows.capacity, pool_rows, false));
    std::vector<int32_t> distinct(static_cast<size_t>(pool_rows));
    std::iota(distinct.begin(), distinct.end(), 0);
    std::shuffle(distinct.begin(), distinct.end(), random);
    const auto destination = t.ids(distinct);
    const auto table = t.random(type, {vocab, width});
    const auto pool = t.random(type, {4, pool_rows, width});
    const auto level = t.random(type, {pool_rows, width});
    const auto resolved = t.ids(std::vector<int32_t>(static_cast<size_t>(rows.capacity), -7));
    const auto output = t.random(type, {rows.capacity, width});
    const auto live = t.ids({rows.live});
    t.compare(
        [&](const side& s) {
          s.backend.embed(s[output], s[resolved], s[token_ids], s[sampled], s[table],
                          {s[pool], s[row_map]}, s.count(live));
        },
        {{output, rows.live}});
    t.compare(
        [&](const side& s) { s.backend.gather_rows(s[output], s[level], s[index], s.count(live)); },
        {{output, rows.live}});
    const auto input = t.random(type, {pool_rows, width});
    const auto few = t.ids({std::min(rows.live, pool_rows)});
    t.compare(
        [&](const side& s) {
          s.backend.scatter_rows(s[level], s[input], s[destination], s.count(few));
        },
        {{level, pool_rows}});
  });
}

BOOST_AUTO_TEST_CASE(sums_norms_and_deepstack) {
  for_cases([](dtype type, row_count rows) {
    for (const int64_t width : {192, 2048})
      for (const int32_t level : {-1, 2}) {
        const int32_t pool_rows = 40;
        twin t(type);
        const auto row_map = t.ids(some_rows(t.random_engine(), rows.capacity, pool_rows, true));
        const auto pool = t.random(type, {4, pool_rows, width});
        const auto partial = t.random(dtype::f32, {rows.capacity, width});
        const auto residual = t.random(type, {rows.capacity, width});
        const auto normed = t.random(type, {rows.capacity, width});
        const auto weight = t.random(type, {width});
        const auto live = t.ids({rows.live});
        poison(t.host(partial), rows.live);
        poison(t.host(residual), rows.live);
        t.compare(
            [&](const side& s) {
              s.backend.all_reduce_add_norm(s[normed], s[residual], s[partial], s[weight], 1e-6F,
                                            {s[pool], s[row_map]}, level, {}, s.count(live));
            },
            {{residual, rows.live, 2}, {normed, rows.live, 4}});
      }
  });
}

BOOST_AUTO_TEST_CASE(additions_and_activations) {
  for_cases([](dtype type, row_count rows) {
    const int64_t width = 320;
    twin t(type);
    const auto x = t.random(type, {rows.capacity, width});
    const auto y = t.random(type, {rows.capacity, width}, 3);
    const auto output = t.random(type, {rows.capacity, width});
    const auto live = t.ids({rows.live});
    poison(t.host(x), rows.live);
    poison(t.host(y), rows.live);
    for (const auto kind : {gelu_kind::tanh, gelu_kind::erf})
      t.compare([&](const side& s) { s.backend.gelu(s[output], s[y], kind, s.count(live)); },
                {{output, rows.live}});
    t.compare([&](const side& s) { s.backend.add(s[x], s[y], s.count(live)); }, {{x, rows.live}});
  });
}

BOOST_AUTO_TEST_CASE(vision_positions_and_segments) {
  for_cases([](dtype type, row_count rows) {
    for (const int64_t head_dim : {64, 72}) {
      const int32_t heads = 3, side_length = 12;
      const int64_t width = heads * head_dim;
      twin t(type);
      auto& random = t.random_engine();
      std::vector<int32_t> places;
      for (int64_t patch = 0; patch < rows.capacity; ++patch) {
        const auto height = static_cast<int32_t>(2 + random() % 30);
        const auto across = static_cast<int32_t>(2 + random() % 30);
        for (const int32_t value :
             {static_cast<int32_t>(random() % static_cast<uint32_t>(height)),
              static_cast<int32_t>(random() % static_cast<uint32_t>(across)), height, across})
          places.push_back(value);
      }
      const auto coordinates = t.random(dtype::i32, {rows.capacity, 4}, 0);
      std::copy(places.begin(), places.end(), t.host(coordinates).as<int32_t>());
      const auto table = t.random(type, {side_length * side_length, width});
      const auto x = t.random(type, {rows.capacity, width});
      const auto qkv = t.random(type, {rows.capacity, 3 * width});
      const auto output = t.random(type, {rows.capacity, width});
      const auto live = t.ids({rows.live});
      poison(t.host(x), rows.live);
      poison(t.host(qkv), rows.live);
      t.compare(
          [&](const side& s) {
            s.backend.add_position_embedding(s[x], s[table], side_length, s[coordinates],
                                             s.count(live));
          },
          {{x, rows.live, 2}});
      t.compare(
          [&](const side& s) {
            s.backend.vision_rope(s[qkv], heads, s[coordinates], 10'000, s.count(live));
          },
          {{qkv, rows.live}});
      // Two segments of unequal length, one behind the other.
      const bool any = rows.live > 0;
      const auto starts = t.ids({0, (rows.live + 2) / 3, rows.live, 1 << 30, 1 << 30});
      const auto segments = t.ids({any ? 2 : 0});
      t.compare(
          [&](const side& s) {
            s.backend.segment_attention(s[output], s[qkv], heads, s[starts], s.count(segments),
                                        s.count(live));
          },
          {{output, rows.live}});
    }
  });
}

/// Sequences of a step over a paged cache: some decode, some bring a chunk.
struct paged_step {
  int32_t q_heads, kv_heads;
  std::vector<std::pair<int32_t, int32_t>> sequences;  // new tokens, context with them
  int32_t dead = 5;
};

BOOST_AUTO_TEST_CASE(keys_values_and_paged_attention) {
  const int64_t head_dim = 128;
  const int32_t block_size = 16;
  const std::vector<paged_step> steps{{4, 2, {{1, 1}}},
                                      {4, 2, {{1, 1}}, 0},
                                      {16, 1, {{1, 161}}, 0},
                                      {8, 2, {{1, 300}}, 0},
                                      {8, 2, {{2, 300}}, 0},
                                      {8, 1, {{1, 70}, {1, 16}, {1, 33}, {1, 300}}},
                                      {6, 2, {{5, 5}, {1, 40}, {60, 90}, {17, 200}}},
                                      {4, 4, {{100, 100}, {1, 17}}}};
  for (const auto type : {dtype::f32, dtype::bf16})
    for (const auto& step : steps) {
      twin t(type);
      int32_t tokens = 0, blocks = 1;
      const int64_t max_blocks = 24;
      std::vector<int32_t> starts{0}, contexts, tables, slots;
      for (const auto& [fresh, context] : step.sequences) {
        std::vector<int32_t> table;
        for (int32_t first = 0; first < context; first += block_size, blocks += 2)
          table.push_back(blocks);
        for (int32_t i = context - fresh; i < context; ++i)
          slots.push_back(table[static_cast<size_t>(i / block_size)] * block_size + i % block_size);
        table.resize(static_cast<size_t>(max_blocks));
        tables.insert(tables.end(), table.begin(), table.end());
        contexts.push_back(context);
        tokens += fresh;
        starts.push_back(tokens);
      }
      const int64_t capacity = tokens + step.dead;
      slots.resize(static_cast<size_t>(capacity), -1);
      const auto no_slots = t.ids(std::vector<int32_t>(static_cast<size_t>(capacity), -1));
      const int64_t width = (step.q_heads + 2 * step.kv_heads) * head_dim;
      const auto qkv = t.random(type, {capacity, width});
      const auto later = t.random(type, {capacity, width});
      for (const auto rows : {qkv, later}) poison(t.host(rows), tokens);
      const auto q_weight = t.random(type, {head_dim});
      const auto k_weight = t.random(type, {head_dim});
      std::vector<int32_t> positions;
      for (int32_t axis = 0; axis < 3; ++axis)
        for (int64_t i = 0; i < capacity; ++i)
          positions.push_back(static_cast<int32_t>(t.random_engine()() % 4000));
      const auto position_rows = t.random(dtype::i32, {3, capacity}, 0);
      std::copy(positions.begin(), positions.end(), t.host(position_rows).as<int32_t>());
      const auto frequency = t.random(dtype::f32, {head_dim / 2}, 0);
      for (int64_t i = 0; i < head_dim / 2; ++i)
        t.host(frequency).as<float>()[i] =
            static_cast<float>(std::pow(5e6, -2.0 * double(i) / double(head_dim)));
      std::vector<int32_t> axes;
      for (int32_t i = 0; i < head_dim / 2; ++i) axes.push_back(i % 3);
      const auto axis = t.ids(axes);
      const auto slot_mapping = t.ids(slots);
      // Blocks that no sequence owns hold NaN.
      const auto cache = t.random(type, {int64_t{blocks} * 2, step.kv_heads, block_size, head_dim});
      for (int32_t block = 0; block < blocks; ++block)
        if (std::ranges::find(tables, block) == tables.end() || block == 0)
          for (int64_t row = 0; row < 2 * step.kv_heads * block_size; ++row)
            for (int64_t i = 0; i < head_dim; ++i)
              set_value(t.host(cache), int64_t{block} * 2 * step.kv_heads * block_size + row, i,
                        std::numeric_limits<double>::quiet_NaN());
      const auto query_start = t.ids(starts);
      const auto context_lengths = t.ids(contexts);
      const auto block_tables = t.random(dtype::i32, {std::ssize(step.sequences), max_blocks}, 0);
      std::copy(tables.begin(), tables.end(), t.host(block_tables).as<int32_t>());
      const auto num_sequences = t.ids({static_cast<int32_t>(step.sequences.size())});
      const auto output = t.random(type, {capacity, step.q_heads * head_dim});
      const auto read_back = t.random(type, {capacity, step.q_heads * head_dim});
      const auto live = t.ids({tokens});
      const auto kv_of = [&](const side& s) {
        return paged_kv{s[cache], block_size, step.kv_heads};
      };
      BOOST_TEST_CONTEXT((type == dtype::bf16 ? "bf16, " : "f32, ") << tokens << " tokens") {
        t.compare(
            [&](const side& s) {
              const text_rotary rotary{s[frequency], s[axis], 1};
              const sequence_batch batch{s[query_start], s[context_lengths], s[block_tables],
                                         s.count(num_sequences)};
              s.backend.norm_rope_attention(
                  s[output], s[qkv],
                  {s[q_weight], s[k_weight], 1e-6F, s[position_rows], rotary, s[slot_mapping]},
                  kv_of(s), batch, s.count(live));
              // Other queries find what that wrote to the cache.
              s.backend.qk_norm_rope_cache_write(s[later], s[q_weight], s[k_weight], 1e-6F,
                                                 s[position_rows], rotary, s[no_slots], kv_of(s),
                                                 s.count(live));
              s.backend.paged_attention(s[read_back], s[later], kv_of(s), batch, s.count(live));
            },
            {{output, tokens, 2}, {read_back, tokens, 2}});
      }
    }
}

BOOST_AUTO_TEST_CASE(mixtures_of_experts) {
  for_cases([](dtype type, row_count rows) {
    const int64_t hidden = 192, width = 64;
    const int32_t experts = 16, top_k = 4;
    twin t(type);
    const size_t gate_up = t.weight_group(experts, hidden, 2 * width);
    const size_t down = t.weight_group(experts, width, hidden);
    const auto input = t.random(type, {rows.capacity, hidden}, 2);
    const auto logits = t.random(dtype::f32, {rows.capacity, experts}, 2);
    const auto output = t.random(dtype::f32, {rows.capacity, hidden});
    const auto live = t.ids({rows.live});
    poison(t.host(input), rows.live);
    poison(t.host(logits), rows.live);
    t.compare(
        [&](const side& s) {
          const auto group = [&](size_t first) {
            const auto begin = s.weights.begin() + static_cast<ptrdiff_t>(first);
            return std::vector<linear_weight>(begin, begin + experts);
          };
          s.backend.mixture_of_experts(s[output], s[input], s[logits], top_k, group(gate_up),
                                       group(down), s.count(live));
        },
        {{output, rows.live, 2}});
  });
}

BOOST_AUTO_TEST_CASE(samples) {
  const int64_t vocab = 1'000;
  for (const auto& rows : row_counts) {
    twin t(dtype::f32);
    const auto logits = t.random(dtype::f32, {rows.capacity, vocab}, 3);
    poison(t.host(logits), rows.live);
    std::vector<uint8_t> settings(
        static_cast<size_t>(rows.capacity) * sizeof(troupe::plan::sampling_row), 0x7f);
    for (int32_t row = 0; row < rows.live; ++row) {
      troupe::plan::sampling_row wanted;
      wanted.temperature = row % 3 == 0 ? 0.0F : 0.7F;
      wanted.top_k = row % 4 == 1 ? 20 : 0;
      wanted.top_p = row % 4 == 2 ? 0.9F : 1.0F;
      wanted.min_p = row % 5 == 3 ? 0.05F : 0.0F;
      wanted.num_logprobs = row % 2 == 0 ? 5 : 0;
      wanted.seed = static_cast<uint64_t>(row) * 77;
      wanted.position = row;
      std::memcpy(settings.data() + static_cast<size_t>(row) * sizeof wanted, &wanted,
                  sizeof wanted);
    }
    const auto rows_wanted = t.bytes(settings);
    const auto adjustments =
        t.bytes(std::vector<uint8_t>(sizeof(troupe::plan::logit_adjustment), 0x7f));
    const auto none = t.ids({0});
    const auto mask = t.bytes(std::vector<uint8_t>(static_cast<size_t>(vocab), 1));
    const auto resolved = t.ids(std::vector<int32_t>(static_cast<size_t>(rows.capacity), 0));
    const auto tokens = t.ids(std::vector<int32_t>(static_cast<size_t>(rows.capacity), -9));
    const auto logprobs = t.random(dtype::f32, {rows.capacity});
    const auto top_tokens = t.random(dtype::i32, {rows.capacity, troupe::plan::max_logprobs}, 0);
    const auto top_logprobs = t.random(dtype::f32, {rows.capacity, troupe::plan::max_logprobs});
    const auto live = t.ids({rows.live});
    BOOST_TEST_CONTEXT(rows.live << " of " << rows.capacity << " rows")
    t.compare(
        [&](const side& s) {
          s.backend.sample({s[tokens], s[logprobs], s[top_tokens], s[top_logprobs]}, s[logits],
                           s[rows_wanted], s[adjustments], s.count(none), s[resolved], s[mask],
                           s.count(live));
        },
        {});
    // Vectors are one row of as many values as there are rows.
    const auto& expected = t.host(tokens);
    BOOST_TEST(std::count_if(expected.as<int32_t>(), expected.as<int32_t>() + rows.live,
                             [&](int32_t token) { return token >= 0 && token < vocab; }) ==
               rows.live);
    t.check_first(tokens, rows.live);
    t.check_first(logprobs, rows.live);
  }
}

BOOST_AUTO_TEST_SUITE_END()
