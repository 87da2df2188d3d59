#include "config/ensure.hpp"
#include "gpu/cpu/kernels.hpp"

namespace troupe::gpu::cpu {

instruction_set best_instruction_set() {
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    return __builtin_cpu_supports("avx512bf16") ? instruction_set::avx512_bf16
                                                : instruction_set::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return instruction_set::avx2;
  return instruction_set::generic;
}

const kernel_table& kernels_of(instruction_set set) {
  config::ensure(set <= best_instruction_set(),
                 "instruction set {} asked for, this processor has {}", static_cast<int>(set),
                 static_cast<int>(best_instruction_set()));
  switch (set) {
    case instruction_set::avx512_bf16: {
      static const kernel_table kernels = avx512_bf16::replace_kernels(avx512::kernels);
      return kernels;
    }
    case instruction_set::avx512:
      return avx512::kernels;
    case instruction_set::avx2:
      return avx2::kernels;
    case instruction_set::generic:
      break;
  }
  return generic::kernels;
}

}  // namespace troupe::gpu::cpu
