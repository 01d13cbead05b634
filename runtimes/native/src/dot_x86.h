// Integer products of one segment on x86-64.
//
// dot<Rows, Panels, Wide>: sums[r][p][j] = sum over k of weight(panel p, output j, input k) *
// value(row r, k). `weights` are those of the segment's first input, panels `panel_stride` bytes
// apart; `rows`, too, from the segment's first value on, as `values.h` says, 2 * width bytes apart.
#pragma once

#include "values.h"

namespace atom_edge {
namespace {

inline int32_t load32(const void* from) {
  int32_t value;
  memcpy(&value, from, sizeof value);
  return value;
}

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

#if defined(__AVX512VNNI__)
constexpr int kRowsAtOnce = 6, kWideRowsAtOnce = 4, kPanelsAtOnce = 2, kPanelsOfOneRow = 4;
typedef __m512i Register;
inline Register spread(int32_t value) { return _mm512_set1_epi32(value); }
inline Register load_unsigned(const int8_t* from) {
  return _mm512_xor_si512(_mm512_loadu_si512(from), _mm512_set1_epi8(-128));
}
inline Register multiply_add(Register sum, Register weights, Register values) {
  return _mm512_dpbusd_epi32(sum, weights, values);
}
#else
constexpr int kRowsAtOnce = 4, kWideRowsAtOnce = 2, kPanelsAtOnce = 1, kPanelsOfOneRow = 2;
typedef __m256i Register;
inline Register spread(int32_t value) { return _mm256_set1_epi32(value); }
inline Register load_unsigned(const int8_t* from) {
  return _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
                          _mm256_set1_epi8(-128));
}
inline Register multiply_add(Register sum, Register weights, Register values) {
  return _mm256_dpbusd_avx_epi32(sum, weights, values);
}
#endif

template <int Rows, int Panels, bool Wide>
ATOM_EDGE_INLINE void dot(const int8_t* weights, size_t panel_stride, const int8_t* rows, int width,
                int count, const Segment* segments, int segment_stride,
                IntegerLanes (&sums)[Rows][Panels]) {
  constexpr int kBytes = sizeof(Register);
  Register high[Rows][Panels][kParts], low[Rows][Panels][kParts];
  for (int r = 0; r < Rows; r++)
    for (int p = 0; p < Panels; p++)
      for (int i = 0; i < kParts; i++) {
        const Register correction = spread(segments[r * segment_stride].correction);
        high[r][p][i] = Wide ? Register{} : correction;
        low[r][p][i] = correction;
      }
  for (int k = 0; k < count; k += 4, weights += 64) {
    Register w[Panels][kParts];
    for (int p = 0; p < Panels; p++)
      for (int i = 0; i < kParts; i++)
        w[p][i] = load_unsigned(weights + p * panel_stride + i * kBytes);
    for (int r = 0; r < Rows; r++) {
      const int8_t* row = rows + static_cast<size_t>(r) * 2 * width + k;
      const Register x = spread(load32(row));
      for (int p = 0; p < Panels; p++)
        for (int i = 0; i < kParts; i++) high[r][p][i] = multiply_add(high[r][p][i], w[p][i], x);
      if (!Wide) continue;
      const Register y = spread(load32(row + width));
      for (int p = 0; p < Panels; p++)
        for (int i = 0; i < kParts; i++) low[r][p][i] = multiply_add(low[r][p][i], w[p][i], y);
    }
  }
  for (int r = 0; r < Rows; r++)
    for (int p = 0; p < Panels; p++)
      for (int i = 0; i < kParts; i++) {
        const Integers first = (Integers)high[r][p][i];
        sums[r][p].part[i] = Wide ? (first << 8) + (Integers)low[r][p][i] : first;
      }
}

#else  // AVX2

constexpr int kRowsAtOnce = 4, kWideRowsAtOnce = 4, kPanelsAtOnce = 1, kPanelsOfOneRow = 3;

// Of every four inputs of each output, the first and third, or the second and fourth.
inline __m256i odd_bytes(__m256i weights) { return _mm256_srai_epi16(weights, 8); }
inline __m256i even_bytes(__m256i weights) { return odd_bytes(_mm256_slli_epi16(weights, 8)); }

// A compiler left alone adds products of several inputs first, and has no registers for them.
ATOM_EDGE_INLINE void keep_in_register(__m256i& sum) { asm("" : "+x"(sum)); }

template <int Rows, int Panels, bool Wide>
ATOM_EDGE_INLINE void dot(const int8_t* weights, size_t panel_stride, const int8_t* rows, int width,
                int count, const Segment* segments, int segment_stride,
                IntegerLanes (&sums)[Rows][Panels]) {
  __m256i total[Rows][Panels][kParts];
  for (int r = 0; r < Rows; r++)
    for (auto& panel : total[r])
      for (auto& part : panel)
        part = Wide ? _mm256_setzero_si256()
                    : _mm256_set1_epi32(segments[r * segment_stride].correction);
  const __m256i ones = _mm256_set1_epi16(1);
  int k = 0;
#pragma GCC unroll 2
  do {  // a segment has multiples of 16 inputs, and at least so many
#pragma GCC unroll 4
    for (int next = 0; next < 4; next++, k += 4, weights += 64)
#pragma GCC unroll 4
      for (int p = 0; p < Panels; p++) {
        __m256i w[kParts];
        for (int i = 0; i < kParts; i++)
          w[i] = _mm256_loadu_si256(
              reinterpret_cast<const __m256i*>(weights + p * panel_stride + i * 32));
#pragma GCC unroll 8
        for (int r = 0; r < Rows; r++) {
          const int8_t* row = rows + static_cast<size_t>(r) * 2 * width;
          if (Wide) {
            const __m256i first = _mm256_set1_epi32(load32(row + 2 * k));
            const __m256i second = _mm256_set1_epi32(load32(row + 2 * k + 4));
            for (int i = 0; i < kParts; i++) {
              __m256i& sum = total[r][p][i];
              sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even_bytes(w[i]), first));
              sum = _mm256_add_epi32(sum, _mm256_madd_epi16(odd_bytes(w[i]), second));
              keep_in_register(sum);
            }
          } else {
            const __m256i signs = _mm256_set1_epi32(load32(row + k));
            const __m256i magnitudes = _mm256_set1_epi32(load32(row + width + k));
            for (int i = 0; i < kParts; i++) {
              const __m256i pairs =
                  _mm256_maddubs_epi16(magnitudes, _mm256_xor_si256(w[i], signs));
              __m256i& sum = total[r][p][i];
              sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
              keep_in_register(sum);
            }
          }
        }
      }
  } while (k < count);
  for (int r = 0; r < Rows; r++)
    for (int p = 0; p < Panels; p++)
      for (int i = 0; i < kParts; i++) sums[r][p].part[i] = (Integers)total[r][p][i];
}

#endif

}  // namespace
}  // namespace atom_edge
