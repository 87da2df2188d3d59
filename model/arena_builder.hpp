#pragma once

#include "gpu/operations.hpp"

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace troupe::model {

/// Lays out an arena together with the views that will point into it: each `reserve` names a view,
/// and `seal` fills them all in. The views must stay where they are until then.
class arena_builder {
 public:
  arena_builder(std::string name, gpu::memory_kind kind) : arena_(std::move(name), kind) {}

  void reserve(gpu::tensor_view& view, std::string owner, gpu::dtype type,
               std::initializer_list<int64_t> shape) {
    places_.emplace_back(&view, arena_.reserve(std::move(owner), type, shape));
  }

  gpu::arena seal() {
    arena_.seal();
    for (const auto& [view, reservation] : places_) *view = arena_.view(reservation);
    return std::move(arena_);
  }

 private:
  gpu::arena arena_;
  std::vector<std::pair<gpu::tensor_view*, int32_t>> places_;
};

/// What the backend owns, then the ledger of each arena, every owner behind the arena's name
/// ("kv_cache/layer 3").
template <class Arenas>
std::vector<gpu::ledger_entry> ledger_of(const gpu::operations& backend, const Arenas& arenas) {
  std::vector<gpu::ledger_entry> ledger = backend.ledger();
  for (const gpu::arena* arena : arenas)
    for (auto entry : arena->ledger()) {
      entry.owner = arena->lease().name() + "/" + entry.owner;
      ledger.push_back(std::move(entry));
    }
  return ledger;
}

}  // namespace troupe::model
