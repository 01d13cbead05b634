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

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kLanes = 16;
constexpr int kParts = kLanes / kWidth;

typedef float Floats __attribute__((vector_size(4 * kWidth)));
typedef int32_t Integers __attribute__((vector_size(4 * kWidth)));
typedef float UnalignedFloats __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));

struct Lanes {
  Floats part[kParts];
};
struct IntegerLanes {
  Integers part[kParts];
};

#define ATOM_EDGE_EACH_PART for (int i = 0; i < kParts; i++)

inline Floats broadcast_part(float value) { return Floats{} + value; }

inline Lanes broadcast(float value) {
  Lanes result;
  ATOM_EDGE_EACH_PART result.part[i] = broadcast_part(value);
  return result;
}

inline Lanes load(const float* from) {
  Lanes result;
  ATOM_EDGE_EACH_PART result.part[i] =
      *reinterpret_cast<const UnalignedFloats*>(from + i * kWidth);
  return result;
}

inline void store(float* to, Lanes value) {
  ATOM_EDGE_EACH_PART* reinterpret_cast<UnalignedFloats*>(to + i * kWidth) = value.part[i];
}

inline Lanes operator+(Lanes a, Lanes b) {
  ATOM_EDGE_EACH_PART a.part[i] += b.part[i];
  return a;
}
inline Lanes operator-(Lanes a, Lanes b) {
  ATOM_EDGE_EACH_PART a.part[i] -= b.part[i];
  return a;
}
inline Lanes operator*(Lanes a, Lanes b) {
  ATOM_EDGE_EACH_PART a.part[i] *= b.part[i];
  return a;
}
inline Lanes operator*(Lanes a, float b) { return a * broadcast(b); }
inline Lanes operator/(Lanes a, Lanes b) {
  ATOM_EDGE_EACH_PART a.part[i] /= b.part[i];
  return a;
}

inline Floats fused_part(Floats a, Floats b, Floats c) {
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

// a * b + c, rounded once where the processor can.
inline Lanes fused(Lanes a, Lanes b, Lanes c) {
  ATOM_EDGE_EACH_PART c.part[i] = fused_part(a.part[i], b.part[i], c.part[i]);
  return c;
}

inline Floats larger_part(Floats a, Floats b) { return a > b ? a : b; }

inline Lanes larger(Lanes a, Lanes b) {
  ATOM_EDGE_EACH_PART a.part[i] = larger_part(a.part[i], b.part[i]);
  return a;
}

inline Lanes smaller(Lanes a, Lanes b) {
  ATOM_EDGE_EACH_PART a.part[i] = a.part[i] < b.part[i] ? a.part[i] : b.part[i];
  return a;
}

inline Lanes magnitude(Lanes a) {
  ATOM_EDGE_EACH_PART a.part[i] = (Floats)((Integers)a.part[i] & 0x7fffffff);
  return a;
}

inline Lanes to_floats(IntegerLanes a) {
  Lanes result;
  ATOM_EDGE_EACH_PART result.part[i] = __builtin_convertvector(a.part[i], Floats);
  return result;
}

// Floats of sixteen bfloat16.
inline Lanes load_bfloat16(const uint16_t* from) {
  typedef uint16_t Halves __attribute__((vector_size(2 * kWidth)));
  typedef uint32_t Wholes __attribute__((vector_size(4 * kWidth)));
  Lanes result;
  ATOM_EDGE_EACH_PART {
    Halves bits;
    memcpy(&bits, from + i * kWidth, sizeof bits);
    result.part[i] = (Floats)(__builtin_convertvector(bits, Wholes) << 16);
  }
  return result;
}

// Sum of the lanes: i with i + 8, then i + 4, i + 2, i + 1.
inline float sum(Lanes a) {
  for (int step = kParts / 2; step > 0; step /= 2)
    for (int i = 0; i < step; i++) a.part[i] += a.part[i + step];
  float values[kWidth];
  memcpy(values, &a.part[0], sizeof values);
  for (int step = kWidth / 2; step > 0; step /= 2)
    for (int i = 0; i < step; i++) values[i] += values[i + step];
  return values[0];
}

inline float largest(Lanes a) {
  for (int i = 1; i < kParts; i++) a.part[0] = larger_part(a.part[0], a.part[i]);
  float values[kWidth];
  memcpy(values, &a.part[0], sizeof values);
  for (int step = kWidth / 2; step > 0; step /= 2)
    for (int i = 0; i < step; i++)
      values[i] = values[i] > values[i + step] ? values[i] : values[i + step];
  return values[0];
}

// Sum of a[i] * b[i]; the count is a multiple of 16.
inline float dot(const float* a, const float* b, int count) {
  Lanes total = broadcast(0);
  for (int i = 0; i < count; i += kLanes) total = fused(load(a + i), load(b + i), total);
  return sum(total);
}

// Adding it leaves a small float's nearest integer, ties to even, in the low bits.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23
constexpr int32_t kRounderBits = 0x4b400000;

inline IntegerLanes nearest(Lanes a) {
  IntegerLanes result;
  ATOM_EDGE_EACH_PART result.part[i] = (Integers)(a.part[i] + kRounder) - kRounderBits;
  return result;
}

// e^x within 2e-7 of its value for x from -87 to 87; beyond, the value at the end.
// 2^(whole + fraction) with a polynomial for the fraction, from -0.5 to 0.5.
inline Lanes exponential(Lanes x) {
  x = smaller(larger(x, broadcast(-87.0f)), broadcast(87.0f)) * 1.44269504f;
  Lanes result;
  ATOM_EDGE_EACH_PART {
    const Floats rounded = x.part[i] + kRounder;
    const Floats fraction = x.part[i] - (rounded - kRounder);
    Floats sum = broadcast_part(1.5403530e-4f);
    sum = fused_part(sum, fraction, broadcast_part(1.3333558e-3f));
    sum = fused_part(sum, fraction, broadcast_part(9.6181291e-3f));
    sum = fused_part(sum, fraction, broadcast_part(5.5504109e-2f));
    sum = fused_part(sum, fraction, broadcast_part(2.4022651e-1f));
    sum = fused_part(sum, fraction, broadcast_part(6.9314718e-1f));
    sum = fused_part(sum, fraction, broadcast_part(1.0f));
    result.part[i] = (Floats)((Integers)sum + ((Integers)rounded << 23));
  }
  return result;
}

#undef ATOM_EDGE_EACH_PART

}  // namespace
}  // namespace atom_edge
