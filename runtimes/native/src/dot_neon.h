// Integer products of one segment on 64-bit ARM; see `dot_x86.h` for the contract.
#pragma once

#include "values.h"

namespace atom_edge {
namespace {

constexpr int kRowsAtOnce = 4, kWideRowsAtOnce = 2, kPanelsAtOnce = 1, kPanelsOfOneRow = 1;

#if !defined(__ARM_FEATURE_DOTPROD)
// Begins sums, or adds to them: sixteen inputs, every two of them in a sum of their own. Two products
// of bytes fit into 16 bits, but for -128 * -128 twice: no weight is -128.
template <int Rows, bool Begin>
ATOM_EDGE_INLINE void add_pairs(const int8_t* weights, const int8_t* rows, int width,
                                int32x4_t (&pairs)[Rows][kParts][2]) {
  int32x4_t x[Rows];
  for (int r = 0; r < Rows; r++)
    x[r] = vreinterpretq_s32_s8(vld1q_s8(rows + static_cast<size_t>(r) * 2 * width));
  for (int half = 0; half < 2; half++, weights += 128)
    for (int i = 0; i < kParts; i++) {
      const int8x16_t first = vld1q_s8(weights + i * 16), second = vld1q_s8(weights + i * 16 + 64);
      for (int r = 0; r < Rows; r++) {
        const int8x16_t y = vreinterpretq_s8_s32(vdupq_n_s32(x[r][2 * half]));
        const int8x16_t z = vreinterpretq_s8_s32(vdupq_n_s32(x[r][2 * half + 1]));
        int16x8_t left = vmull_s8(vget_low_s8(first), vget_low_s8(y));
        int16x8_t right = vmull_high_s8(first, y);
        left = vmlal_s8(left, vget_low_s8(second), vget_low_s8(z));
        right = vmlal_high_s8(right, second, z);
        int32x4_t(&sums)[2] = pairs[r][i];
        const bool begins = Begin && half == 0;
        sums[0] = begins ? vpaddlq_s16(left) : vpadalq_s16(sums[0], left);
        sums[1] = begins ? vpaddlq_s16(right) : vpadalq_s16(sums[1], right);
      }
    }
}
#endif

// Adds the products of one plane of values, sixteen inputs at a time.
template <int Rows>
ATOM_EDGE_INLINE void dot_plane(const int8_t* weights, const int8_t* rows, int width, int count,
                      int32x4_t (&sums)[Rows][kParts]) {
#if defined(__ARM_FEATURE_DOTPROD)
  for (int k = 0; k < count; k += 16, weights += 256) {
    int8x16_t x[Rows];
    for (int r = 0; r < Rows; r++) x[r] = vld1q_s8(rows + static_cast<size_t>(r) * 2 * width + k);
    // Four inputs of all sixteen outputs at a time.
    const int8x16x4_t first = vld1q_s8_x4(weights), second = vld1q_s8_x4(weights + 64);
    const int8x16x4_t third = vld1q_s8_x4(weights + 128), fourth = vld1q_s8_x4(weights + 192);
    for (int i = 0; i < kParts; i++)
      for (int r = 0; r < Rows; r++) {
        sums[r][i] = vdotq_laneq_s32(sums[r][i], first.val[i], x[r], 0);
        sums[r][i] = vdotq_laneq_s32(sums[r][i], second.val[i], x[r], 1);
        sums[r][i] = vdotq_laneq_s32(sums[r][i], third.val[i], x[r], 2);
        sums[r][i] = vdotq_laneq_s32(sums[r][i], fourth.val[i], x[r], 3);
      }
  }
#else
  int32x4_t pairs[Rows][kParts][2];
  add_pairs<Rows, true>(weights, rows, width, pairs);
  for (int k = 16; k < count; k += 16)
    add_pairs<Rows, false>(weights += 256, rows + k, width, pairs);
  for (int r = 0; r < Rows; r++)
    for (int i = 0; i < kParts; i++) {
      const int32x4_t total = vpaddq_s32(pairs[r][i][0], pairs[r][i][1]);
      sums[r][i] = vaddq_s32(sums[r][i], total);
    }
#endif
}

template <int Rows, int Panels, bool Wide>
ATOM_EDGE_INLINE void dot(const int8_t* weights, size_t panel_stride, const int8_t* rows, int width,
                int count, const Segment*, int, IntegerLanes (&sums)[Rows][Panels]) {
  for (int p = 0; p < Panels; p++) {
    int32x4_t high[Rows][kParts] = {}, low[Rows][kParts] = {};
    dot_plane<Rows>(weights + p * panel_stride, rows, width, count, high);
    if (Wide) dot_plane<Rows>(weights + p * panel_stride, rows + width, width, count, low);
    for (int r = 0; r < Rows; r++)
      for (int i = 0; i < kParts; i++)
        sums[r][p].part[i] = (Integers)(Wide ? (high[r][i] << 8) + low[r][i] : high[r][i]);
  }
}

}  // namespace
}  // namespace atom_edge
