#include "gpu/cpu/kernels/table.hpp"

#if !defined(__AVX2__) || !defined(__FMA__) || defined(__AVX512F__)
#error "compile this file for AVX2 and FMA"
#endif
