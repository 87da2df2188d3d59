#include "gpu/cpu/kernels/attention_bf16.hpp"
#include "gpu/cpu/kernels/few_rows_avx512.hpp"

#if !defined(__AVX512BF16__)
#error "compile this file for AVX-512 with bf16"
#endif

namespace troupe::gpu::cpu::avx512_bf16 {

kernel_table replace_kernels(kernel_table kernels) {
  kernels.name = "avx512_bf16";
  kernels.f32.multiply_few_rows = multiply_few_rows<float>;
  kernels.bf16.multiply_few_rows = multiply_few_rows<bfloat16>;
  kernels.bf16.attention = attention;
  return kernels;
}

}  // namespace troupe::gpu::cpu::avx512_bf16
