#pragma once

#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/kernels/attention.hpp"
#include "gpu/cpu/kernels/rotary.hpp"
#include "gpu/cpu/kernels/rows.hpp"

/// The table of this translation unit's instruction set: included once by avx512.cpp, avx2.cpp and
/// generic.cpp, which gpu/CMakeLists.txt compiles for that set.
namespace troupe::gpu::cpu::TROUPE_ISA {
namespace {

#define TROUPE_TEXT_OF(name) #name
#define TROUPE_NAME_OF(name) TROUPE_TEXT_OF(name)

template <class T>
constexpr activation_kernels<T> kernels_for = {
    .rms_norm = rms_norm<T>,
    .layer_norm = layer_norm<T>,
    .add_norm = add_norm<T>,
    .silu_and_mul = silu_and_mul<T>,
    .gelu_tanh = apply<T, gelu_tanh_of>,
    .gelu_erf = apply<T, gelu_erf_of>,
    .add = add<T>,
    .add_position_embedding = add_position_embedding<T>,
    .vision_rope = vision_rope<T>,
    .qk_norm_rope_cache_write = qk_norm_rope_cache_write<T>,
    .attention = attention<T>,
    .to_float = to_float<T>,
    .from_float = from_float<T>,
    .multiply_few_rows = nullptr,
};

}  // namespace

extern constinit const kernel_table kernels = {
    .name = TROUPE_NAME_OF(TROUPE_ISA),
    .f32 = kernels_for<float>,
    .bf16 = kernels_for<bfloat16>,
    .add_scaled = add_scaled,
    .largest_finite = largest_finite,
    .place_of_largest = place_of_largest,
    .copy_masked = copy_masked,
    .sum_exp = sum_exp,
};

}  // namespace troupe::gpu::cpu::TROUPE_ISA
