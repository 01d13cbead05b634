// Sixteen floats at a time on every instruction set, in as many registers as it takes.
//
// Sums run over the same sixteen lanes in the same order everywhere, so all sets with a fused
// multiply-add give the same bits. The plain one rounds products before it adds.
#pragma once

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace atom_edge {
namespace {

// Inlined even where the compiler would rather not: a call would pass lanes through memory.
#define ATOM_EDGE_INLINE inline __attribute__((always_inline))

// The registers that hold sixteen floats, by name and number. They are members, not an array: an
// array that is passed by value ends up in memory.
#if defined(__AVX512F__)
constexpr int kWidth = 16;
#define ATOM_EDGE_PARTS(DO) DO(a, 0)
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#define ATOM_EDGE_PARTS(DO) DO(a, 0) DO(b, 1)
#else
constexpr int kWidth = 4;
#define ATOM_EDGE_PARTS(DO) DO(a, 0) DO(b, 1) DO(c, 2) DO(d, 3)
#endif
constexpr int kLanes = 16;
constexpr int kParts = kLanes / kWidth;

typedef float Floats __attribute__((vector_size(4 * kWidth)));
typedef int32_t Integers __attribute__((vector_size(4 * kWidth)));
typedef float UnalignedFloats __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));

struct Lanes {
#define DECLARE(part, i) Floats part;
  ATOM_EDGE_PARTS(DECLARE)
#undef DECLARE
};
struct IntegerLanes {
  Integers part[kParts];
};

// A function of lanes, computed register by register: EXPRESSION says how, of `part` number `i`.
#define ATOM_EDGE_LANES(EXPRESSION)        \
  Lanes result;                            \
  ATOM_EDGE_PARTS(EXPRESSION) return result

// Less nothing: GCC leaves that out, and more nothing it does not, for the sake of -0.
ATOM_EDGE_INLINE Floats broadcast_part(float value) { return value - Floats{}; }

ATOM_EDGE_INLINE Lanes broadcast(float value) {
#define PART(part, i) result.part = broadcast_part(value);
  ATOM_EDGE_LANES(PART);
#undef PART
}

ATOM_EDGE_INLINE Lanes load(const float* from) {
#define PART(part, i) \
  result.part = *reinterpret_cast<const UnalignedFloats*>(from + i * kWidth);
  ATOM_EDGE_LANES(PART);
#undef PART
}

ATOM_EDGE_INLINE void store(float* to, Lanes value) {
#define PART(part, i) *reinterpret_cast<UnalignedFloats*>(to + i * kWidth) = value.part;
  ATOM_EDGE_PARTS(PART)
#undef PART
}

ATOM_EDGE_INLINE Floats fused_part(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}
ATOM_EDGE_INLINE Floats larger_part(Floats a, Floats b) { return a > b ? a : b; }
ATOM_EDGE_INLINE Floats smaller_part(Floats a, Floats b) { return a < b ? a : b; }

#define ATOM_EDGE_BINARY(NAME, EXPRESSION)           \
  ATOM_EDGE_INLINE Lanes NAME(Lanes x, Lanes y) {    \
    ATOM_EDGE_LANES(EXPRESSION);                     \
  }
#define ADD(part, i) result.part = x.part + y.part;
#define SUBTRACT(part, i) result.part = x.part - y.part;
#define MULTIPLY(part, i) result.part = x.part * y.part;
#define DIVIDE(part, i) result.part = x.part / y.part;
#define LARGER(part, i) result.part = larger_part(x.part, y.part);
#define SMALLER(part, i) result.part = smaller_part(x.part, y.part);
ATOM_EDGE_BINARY(operator+, ADD)
ATOM_EDGE_BINARY(operator-, SUBTRACT)
ATOM_EDGE_BINARY(operator*, MULTIPLY)
ATOM_EDGE_BINARY(operator/, DIVIDE)
ATOM_EDGE_BINARY(larger, LARGER)
ATOM_EDGE_BINARY(smaller, SMALLER)
#undef ADD
#undef SUBTRACT
#undef MULTIPLY
#undef DIVIDE
#undef LARGER
#undef SMALLER
#undef ATOM_EDGE_BINARY
ATOM_EDGE_INLINE Lanes operator*(Lanes x, float y) { return x * broadcast(y); }

// x * y + z, rounded once where the processor can.
ATOM_EDGE_INLINE Lanes fused(Lanes x, Lanes y, Lanes z) {
#define PART(part, i) result.part = fused_part(x.part, y.part, z.part);
  ATOM_EDGE_LANES(PART);
#undef PART
}

ATOM_EDGE_INLINE Lanes magnitude(Lanes x) {
#define PART(part, i) result.part = (Floats)((Integers)x.part & 0x7fffffff);
  ATOM_EDGE_LANES(PART);
#undef PART
}

ATOM_EDGE_INLINE Lanes to_floats(const IntegerLanes& x) {
#define PART(name, i) result.name = __builtin_convertvector(x.part[i], Floats);
  ATOM_EDGE_LANES(PART);
#undef PART
}

// Floats of kWidth bfloat16.
ATOM_EDGE_INLINE Floats widen(const uint16_t* from) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
#elif defined(__aarch64__)
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from), 16));
#else
  typedef uint16_t Halves __attribute__((vector_size(2 * kWidth)));
  typedef uint32_t Wholes __attribute__((vector_size(4 * kWidth)));
  Halves bits;
  memcpy(&bits, from, sizeof bits);
  return (Floats)(__builtin_convertvector(bits, Wholes) << 16);
#endif
}

ATOM_EDGE_INLINE Lanes load_bfloat16(const uint16_t* from) {
#define PART(part, i) result.part = widen(from + i * kWidth);
  ATOM_EDGE_LANES(PART);
#undef PART
}

// All lanes by a function of two: lanes i and i + 8, then i + 4, i + 2, i + 1.
template <typename Function>
ATOM_EDGE_INLINE float fold(Lanes x, const Function& function) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  float values[kLanes];
  store(values, x);
  const __m256 eight = function(_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8));
#else
  const __m256 eight = function(x.a, x.b);
#endif
  const __m128 four = function(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = function(four, _mm_movehl_ps(four, four));
  return function(two, _mm_movehdup_ps(two))[0];
#else
  const Floats folded = function(function(x.a, x.c), function(x.b, x.d));
  return function(function(folded[0], folded[2]), function(folded[1], folded[3]));
#endif
}

ATOM_EDGE_INLINE float sum(Lanes x) {
  return fold(x, [](auto a, auto b) { return a + b; });
}

ATOM_EDGE_INLINE float largest(Lanes x) {
  return fold(x, [](auto a, auto b) { return a > b ? a : b; });
}

// Sum of integers: in any order, since it is exact.
ATOM_EDGE_INLINE int32_t sum(const IntegerLanes& x) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  __m256i halves[2];
  memcpy(halves, &x, sizeof halves);
  const __m256i eight = _mm256_add_epi32(halves[0], halves[1]);
#else
  const __m256i eight = (__m256i)(x.part[0] + x.part[1]);
#endif
  __m128i four =
      _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
#else
  const Integers four = (x.part[0] + x.part[1]) + (x.part[2] + x.part[3]);
  return four[0] + four[1] + four[2] + four[3];
#endif
}

// Sum of a[i] * b[i]; the count is a multiple of 16.
ATOM_EDGE_INLINE float dot(const float* a, const float* b, int count) {
  Lanes total = broadcast(0);
  for (int i = 0; i < count; i += kLanes) total = fused(load(a + i), load(b + i), total);
  return sum(total);
}

// Adding it leaves a small float's nearest integer, ties to even, in the low bits.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23
constexpr int32_t kRounderBits = 0x4b400000;

ATOM_EDGE_INLINE IntegerLanes nearest(Lanes x) {
  IntegerLanes result;
#define PART(name, i) result.part[i] = (Integers)(x.name + kRounder) - kRounderBits;
  ATOM_EDGE_PARTS(PART)
#undef PART
  return result;
}

// e^x within 2e-7 of its value for x from -87 to 87; beyond, the value at the end.
// 2^(whole + fraction) with a polynomial for the fraction, from -0.5 to 0.5.
ATOM_EDGE_INLINE Floats exponential_part(Floats x) {
  x = smaller_part(larger_part(x, broadcast_part(-87.0f)), broadcast_part(87.0f)) * 1.44269504f;
  const Floats rounded = x + kRounder;
  const Floats fraction = x - (rounded - kRounder);
  Floats sum = broadcast_part(1.5403530e-4f);
  sum = fused_part(sum, fraction, broadcast_part(1.3333558e-3f));
  sum = fused_part(sum, fraction, broadcast_part(9.6181291e-3f));
  sum = fused_part(sum, fraction, broadcast_part(5.5504109e-2f));
  sum = fused_part(sum, fraction, broadcast_part(2.4022651e-1f));
  sum = fused_part(sum, fraction, broadcast_part(6.9314718e-1f));
  sum = fused_part(sum, fraction, broadcast_part(1.0f));
  return (Floats)((Integers)sum + ((Integers)rounded << 23));
}

ATOM_EDGE_INLINE Lanes exponential(Lanes x) {
#define PART(part, i) result.part = exponential_part(x.part);
  ATOM_EDGE_LANES(PART);
#undef PART
}

}  // namespace
}  // namespace atom_edge
