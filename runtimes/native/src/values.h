// Activations as small integers: how a row is quantized and where its values lie.
//
// A row takes two bytes a value. In 8 bits a value is one signed byte; in 16 it is two, the high
// one and a low one that is signed too: value = 256 * high + low. The bytes of a row lie together
// in planes, the high or only ones first, unless an instruction set stores values its own way.
#pragma once

#include "lanes.h"

namespace atom_edge {
namespace {

// The scale of one segment of a row, and what its sums begin with: it makes good that processors
// multiply an unsigned byte with a signed one. See `correction`.
struct Segment {
  float scale;
  int32_t correction;
};

constexpr float kLargest8 = 127;
constexpr float kLargest16 = 127 * 256 + 127;

#if defined(__AVX2__) && !defined(__AVX512F__)
ATOM_EDGE_INLINE __m256i pack16(const IntegerLanes& values) {
  // Packing goes half by half.
  const __m256i packed = _mm256_packs_epi32((__m256i)values.part[0], (__m256i)values.part[1]);
  return _mm256_permute4x64_epi64(packed, 0xd8);
}
ATOM_EDGE_INLINE __m128i pack8(const IntegerLanes& values) {
  const __m256i words = pack16(values);
  return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
ATOM_EDGE_INLINE void store_bytes(int8_t* to, const IntegerLanes& values) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), pack8(values));
}
#elif defined(__aarch64__) && !defined(ATOM_EDGE_PLAIN)
ATOM_EDGE_INLINE void store_bytes(int8_t* to, const IntegerLanes& values) {
  int16x4_t words[kParts];
  for (int i = 0; i < kParts; i++) words[i] = vmovn_s32((int32x4_t)values.part[i]);
  const int8x8_t low = vmovn_s16(vcombine_s16(words[0], words[1]));
  vst1q_s8(to, vcombine_s8(low, vmovn_s16(vcombine_s16(words[2], words[3]))));
}
#else
ATOM_EDGE_INLINE void store_bytes(int8_t* to, const IntegerLanes& values) {
  typedef int8_t Bytes __attribute__((vector_size(kWidth)));
  for (int i = 0; i < kParts; i++) {
    const Bytes bytes = __builtin_convertvector(values.part[i], Bytes);
    memcpy(to + i * kWidth, &bytes, sizeof bytes);
  }
}
#endif

// The part of values in a segment's correction.
ATOM_EDGE_INLINE Integers correction([[maybe_unused]] Integers values) {
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
  return values * -128;  // weights are made unsigned by 128 more
#elif defined(__AVX2__)
  return (Integers)_mm256_max_epi32((__m256i)-values, _mm256_setzero_si256());
#else
  return Integers{};
#endif
}

#if defined(__AVX2__) && !defined(__AVXVNNI__) && !defined(__AVX512VNNI__)
// AVX2 multiplies an unsigned byte with a signed one and saturates, so its 8-bit rows hold masks of
// signs, all ones for a negative value, and then magnitudes. A weight that is masked is one too
// small, -weight - 1, which the correction makes good: the sum of what is negative, without its
// sign. A mask is quicker than an instruction of signs. Its 16-bit rows hold int16: of every four values the first
// and third, then the second and fourth, which is how the weights come out of their bytes.
template <bool Wide>
constexpr int kValueBytes = Wide ? 2 : 1;  // from a value of a plane to the next
ATOM_EDGE_INLINE void store_values(int8_t* row, int width, int at, IntegerLanes values, bool wide) {
  if (!wide) {
    const __m128i bytes = pack8(values);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(row + at),
                     _mm_cmpgt_epi8(_mm_setzero_si128(), bytes));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(row + width + at), _mm_abs_epi8(bytes));
    return;
  }
  const __m256i order = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + 2 * at),
                      _mm256_shuffle_epi8(pack16(values), order));
}
#else
template <bool Wide>
constexpr int kValueBytes = 1;
ATOM_EDGE_INLINE void store_values(int8_t* row, int width, int at, IntegerLanes values, bool wide) {
  if (!wide) {
    store_bytes(row + at, values);
    return;
  }
  IntegerLanes high;
  for (int i = 0; i < kParts; i++) {
    high.part[i] = (values.part[i] + 128) >> 8;
    values.part[i] -= high.part[i] << 8;
  }
  store_bytes(row + at, high);
  store_bytes(row + width + at, values);
}
#endif

inline float largest_magnitude(const float* x, int count) {
  Lanes found = broadcast(0);
  for (int i = 0; i < count; i += kLanes) found = larger(magnitude(load(x + i)), found);
  return largest(found);
}

// Quantizes `x` `[width]`, symmetrically by the largest magnitude of each segment or of the row.
inline void quantize(const float* x, int width, int segment, bool by_row, bool wide, int8_t* row,
                     Segment* segments) {
  const float most = wide ? kLargest16 : kLargest8;
  float magnitude = by_row ? largest_magnitude(x, width) : 0;
  for (int begin = 0; begin < width; begin += segment, segments++) {
    const int end = begin + segment < width ? begin + segment : width;
    if (!by_row) magnitude = largest_magnitude(x + begin, end - begin);
    const Lanes inverse = broadcast(magnitude > 0 ? most / magnitude : 0);
    IntegerLanes total = {};
    for (int i = begin; i < end; i += kLanes) {
      // What is no number becomes one.
      const Lanes scaled = larger(load(x + i) * inverse, broadcast(-most));
      const IntegerLanes values = nearest(smaller(scaled, broadcast(most)));
      for (int part = 0; part < kParts; part++) total.part[part] += correction(values.part[part]);
      store_values(row, width, i, values, wide);
    }
    segments->scale = magnitude / most;
    segments->correction = sum(total);
  }
}

}  // namespace
}  // namespace atom_edge
