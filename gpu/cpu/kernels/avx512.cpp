#include "gpu/cpu/kernels/table.hpp"

#if !defined(__AVX512BW__) || !defined(__AVX512VL__) || !defined(__AVX512DQ__)
#error "compile this file for AVX-512"
#endif
