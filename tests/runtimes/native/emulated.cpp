// The operator's kernels of an instruction set that few machines have, its intrinsics computed by
// SIMDe (Debian: libsimde-dev) from those that every test machine has. ATOM_EDGE_EMULATED is the
// set's constant.
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#if defined(ATOM_EDGE_EMULATE_AVX512VNNI)
#define __AVX512F__ 1
#define __AVX512VNNI__ 1
#include "isa_avx512vnni.cpp"
#else
#define _mm256_dpbusd_avx_epi32 simde_mm256_dpbusd_epi32
#define __AVXVNNI__ 1
#include "isa_avxvnni.cpp"
#endif

namespace atom_edge {
const InstructionSet* instruction_set() { return &ATOM_EDGE_EMULATED; }
}  // namespace atom_edge
