// Integer products of one segment on x86-64.
//
// dot<Rows, Panels, Wide>: sums[r][p][j] = sum over k of weight(panel p, output j, input k) *
// value(row r, k). `weights` are those of the segment's first input, panels `panel_stride` bytes
// apart; `rows` as `values.h` says, 2 * width bytes apart, from `begin` to `end`.
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

// The weights are made unsigned by 128 more, which the correction takes away again.
template <int Rows, int Panels, bool Wide>
ATOM_EDGE_INLINE void dot(const int8_t* weights, size_t panel_stride, const int8_t* rows, int width,
                int begin, int end, const Segment* segments, int segment_stride,
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
  for (int k = begin; k < end; k += 4, weights += 64) {
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

// One row is over before the processor sees where the weights go on.
inline void prefetch(const int8_t* weights) {
  _mm_prefetch(reinterpret_cast<const char*>(weights + 6144), _MM_HINT_T0);
}

template <int Rows, int Panels, bool Wide>
ATOM_EDGE_INLINE void dot(const int8_t* weights, size_t panel_stride, const int8_t* rows, int width,
                int begin, int end, const Segment*, int, IntegerLanes (&sums)[Rows][Panels]) {
  __m256i total[Rows][Panels][kParts];
  for (auto& row : total)
    for (auto& panel : row)
      for (auto& part : panel) part = _mm256_setzero_si256();
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 4  // a segment has multiples of 16 inputs
  for (int k = begin; k < end; k += 4, weights += 64)
    for (int p = 0; p < Panels; p++) {
      if (Rows == 1) prefetch(weights + p * panel_stride);
      __m256i w[kParts];
      for (int i = 0; i < kParts; i++)
        w[i] = _mm256_loadu_si256(
            reinterpret_cast<const __m256i*>(weights + p * panel_stride + i * 32));
      for (int r = 0; r < Rows; r++) {
        const int8_t* row = rows + static_cast<size_t>(r) * 2 * width;
        if (Wide) {
          const __m256i first = _mm256_set1_epi32(load32(row + 2 * k));
          const __m256i second = _mm256_set1_epi32(load32(row + 2 * k + 4));
          for (int i = 0; i < kParts; i++) {
            __m256i& sum = total[r][p][i];
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even_bytes(w[i]), first));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(odd_bytes(w[i]), second));
          }
        } else {
          const __m256i x = _mm256_set1_epi32(load32(row + k));
          const __m256i unsigned_x = _mm256_set1_epi32(load32(row + width + k));
          for (int i = 0; i < kParts; i++) {
            const __m256i pairs =
                _mm256_maddubs_epi16(unsigned_x, _mm256_sign_epi8(w[i], x));
            __m256i& sum = total[r][p][i];
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
          }
        }
      }
    }
  for (int r = 0; r < Rows; r++)
    for (int p = 0; p < Panels; p++)
      for (int i = 0; i < kParts; i++) sums[r][p].part[i] = (Integers)total[r][p][i];
}

#endif

}  // namespace
}  // namespace atom_edge
