#include "gpu/cpu/kernels/table.hpp"

#if defined(__AVX2__)
#error "compile this file for any x86-64 processor"
#endif
