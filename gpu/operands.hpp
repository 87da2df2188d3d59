#pragma once

#include "gpu/error.hpp"
#include "gpu/operations.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

/// The words in which operations check their views and describe them to a manifest.
namespace troupe::gpu {

inline baked_operand reads(const tensor_view& view) {
  return {view.data, view.span_bytes(), view.type, access_kind::read};
}
inline baked_operand writes(const tensor_view& view) {
  return {view.data, view.span_bytes(), view.type, access_kind::write};
}
inline baked_operand updates(const tensor_view& view) {
  return {view.data, view.span_bytes(), view.type, access_kind::read_write};
}
inline baked_operand reads(live_count count) {
  return {reinterpret_cast<const std::byte*>(count.value), size_of(dtype::i32), dtype::i32,
          access_kind::read};
}

/// Throws gpu::error with `what` unless `condition` holds.
template <class... Args>
void expect(bool condition, fmt::format_string<Args...> what, Args&&... args) {
  if (!condition) throw error(fmt::format(what, std::forward<Args>(args)...));
}

inline std::string_view name_of(dtype type) {
  switch (type) {
    case dtype::f32:
      return "f32";
    case dtype::bf16:
      return "bf16";
    case dtype::i32:
      return "i32";
    case dtype::i64:
      return "i64";
    case dtype::u8:
      return "u8";
  }
  return "an unknown dtype";
}

inline void expect_type(std::string_view operand, const tensor_view& view, dtype expected) {
  expect(view.type == expected, "{} is {}, expected {}", operand, name_of(view.type),
         name_of(expected));
}

inline void expect_activation(std::string_view operand, const tensor_view& view) {
  expect(view.type == dtype::f32 || view.type == dtype::bf16, "{} is {}, expected f32 or bf16",
         operand, name_of(view.type));
}

inline void expect_width(std::string_view operand, const tensor_view& view, int64_t expected) {
  expect(view.width() == expected, "{} has rows of {} elements, expected {}", operand, view.width(),
         expected);
}

inline void expect_rows(std::string_view operand, const tensor_view& view, int64_t at_least) {
  expect(view.rows() >= at_least, "{} has {} rows, expected at least {}", operand, view.rows(),
         at_least);
}

inline void expect_elements(std::string_view operand, const tensor_view& view, int64_t at_least) {
  expect(view.elements() >= at_least, "{} has {} elements, expected at least {}", operand,
         view.elements(), at_least);
}

/// "[rows, width]" of a view, with its stride where rows are not dense.
inline std::string shape_text(const tensor_view& view) {
  return view.contiguous()
             ? fmt::format("[{}, {}]", view.rows(), view.width())
             : fmt::format("[{}, {}: {}]", view.rows(), view.width(), view.row_stride);
}

}  // namespace troupe::gpu
