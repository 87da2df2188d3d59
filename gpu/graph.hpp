#pragma once

#include "gpu/arena.hpp"

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace troupe::gpu {

enum class access_kind : uint8_t { read, write, read_write };

/// One address that an operation of a graph baked in.
struct baked_operand {
  const std::byte* address = nullptr;
  int64_t bytes = 0;
  dtype type = dtype::f32;
  access_kind access = access_kind::read;
};

/// One recorded operation: its name, its scalar parameters that were frozen (rendered as text) and
/// its operands.
struct baked_operation {
  std::string name;
  std::string parameters;
  std::vector<baked_operand> operands;
};

using digest128 = std::array<uint64_t, 2>;

/// Everything a graph baked in. Owns leases on the arenas it points into.
class manifest {
 public:
  /// Arenas in which every operand must lie. An operand outside them makes `append` throw gpu::error
  /// naming the operation and the address: nothing unowned can be baked.
  explicit manifest(std::vector<arena_lease> arenas);

  void append(baked_operation operation);

  const std::vector<baked_operation>& operations() const { return operations_; }
  const std::vector<arena_lease>& arenas() const { return arenas_; }

  /// Digest of all names, parameters, addresses, sizes, dtypes and arena generations. Differs between
  /// ranks and processes.
  digest128 digest() const;
  /// The same with (arena name, offset) in place of addresses: equal on all ranks that captured the
  /// same graph. Ranks compare it before a graph family is committed.
  digest128 shape_digest() const;
  /// Whether any operand reads (writes) some of `view`'s memory.
  bool reads(const tensor_view& view) const;
  bool writes(const tensor_view& view) const;
  /// Whether all arenas are still of the generation that was baked.
  bool current() const;

 private:
  std::vector<arena_lease> arenas_;
  std::vector<baked_operation> operations_;
};

/// A replay that was refused before launch: the graph baked an arena generation that was retired.
class stale_graph : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The executable half of a graph: a list of host closures on the CPU, a cudaGraphExec on CUDA.
class executable {
 public:
  virtual ~executable() = default;
  virtual void launch() = 0;
};

/// States of a graph as types: cold (a function that issues operations), warm (it ran eagerly once),
/// captured. A capture is only reachable through a warm graph, so no operation ever runs for the
/// first time inside a capture.
class captured_graph {
 public:
  captured_graph(std::string name, manifest baked, std::unique_ptr<executable> program);

  /// Checks that every arena is of the generation that was baked, then launches. Throws stale_graph, in
  /// release builds too.
  void replay();

  /// Whether the manifest still has the digest it was captured with. Costs a pass over the manifest:
  /// the verifier's business, not every replay's.
  bool intact() const;

  const std::string& name() const { return name_; }
  const manifest& baked() const { return baked_; }

 private:
  std::string name_;
  manifest baked_;
  digest128 captured_digest_;
  std::unique_ptr<executable> program_;
};

}  // namespace troupe::gpu
