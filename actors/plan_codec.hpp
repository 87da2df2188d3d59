#pragma once

#include "model/plan/step_plan.hpp"

#include <optional>
#include <string>
#include <string_view>

namespace troupe::actors {

/// A step plan as bytes for a shard in another process of the same machine: arrays as they lie in memory,
/// block table rows without their padding, which is most of a plan.
std::string encode_plan(const plan::step_plan& plan);

/// The plan back; nothing if `bytes` is not exactly one encoded plan. Never reads outside `bytes` and never
/// allocates more than a small multiple of their number, except for the padding, which is bounded by
/// `max_padded_blocks`. Whether the plan makes sense is for `plan::faults` to say.
std::optional<plan::step_plan> decode_plan(std::string_view bytes);

/// The largest block table (sequences * blocks per sequence) that is decoded: 64 Mi entries.
inline constexpr int64_t max_padded_blocks = int64_t{1} << 26;

}  // namespace troupe::actors
