// Which instruction set runs: the best that this processor has.
#include <stdlib.h>
#include <string.h>

#include "atom_edge.h"
#include "step.h"
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace atom_edge {

extern const InstructionSet kAvx512Vnni, kAvxVnni, kAvx2, kNeonDotprod, kNeon, kPlain;

namespace {

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512vnni() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

bool has_avxvnni() {
  unsigned a, b, c, d;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#elif defined(__aarch64__)
bool has_dot_product() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) >> 20 & 1;
#else
  return true;
#endif
}
#endif

bool always() { return true; }

struct Candidate {
  const InstructionSet* set;
  bool (*runs_here)();
};

// The best first.
const Candidate kCandidates[] = {
#if defined(ATOM_EDGE_HAS_AVX512VNNI)
    {&kAvx512Vnni, has_avx512vnni},
#endif
#if defined(ATOM_EDGE_HAS_AVXVNNI)
    {&kAvxVnni, has_avxvnni},
#endif
#if defined(ATOM_EDGE_HAS_AVX2)
    {&kAvx2, has_avx2},
#endif
#if defined(ATOM_EDGE_HAS_NEON_DOTPROD)
    {&kNeonDotprod, has_dot_product},
#endif
#if defined(ATOM_EDGE_HAS_NEON)
    {&kNeon, always},
#endif
    {&kPlain, always},
};

}  // namespace

const InstructionSet* instruction_set() {
  const char* wanted = getenv("ATOM_EDGE_ISA");
  for (const Candidate& candidate : kCandidates)
    if (candidate.runs_here() &&
        (!wanted || !*wanted || strcmp(wanted, candidate.set->name) == 0))
      return candidate.set;
  return nullptr;
}

}  // namespace atom_edge

extern "C" const char* atom_edge_instruction_set(void) {
  const atom_edge::InstructionSet* set = atom_edge::instruction_set();
  return set ? set->name : "";
}
