// Integer products of one segment on 64-bit ARM; see `dot_x86.h` for the contract.
#pragma once

#include "values.h"

namespace atom_edge {
namespace {

constexpr int kRowsAtOnce = 4, kWideRowsAtOnce = 2, kPanelsAtOnce = 1, kPanelsOfOneRow = 1;

// Adds the products of one plane of values, sixteen inputs at a time.
template <int Rows>
ATOM_EDGE_INLINE void dot_plane(const int8_t* weights, const int8_t* rows, int width, int begin, int end,
                      int32x4_t (&sums)[Rows][kParts]) {
#if defined(__ARM_FEATURE_DOTPROD)
  for (int k = begin; k < end; k += 16, weights += 256) {
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
  // Two products of bytes fit into 16 bits, but for -128 * -128 twice: no weight is -128.
  int32x4_t pairs[Rows][kParts][2];
  for (auto& row : pairs)
    for (auto& part : row) part[0] = part[1] = vdupq_n_s32(0);
  for (int k = begin; k < end; k += 8, weights += 128) {
    int8x16_t x[Rows], y[Rows];
    for (int r = 0; r < Rows; r++) {
      const int8_t* row = rows + static_cast<size_t>(r) * 2 * width + k;
      x[r] = vreinterpretq_s8_s32(vld1q_dup_s32(reinterpret_cast<const int32_t*>(row)));
      y[r] = vreinterpretq_s8_s32(vld1q_dup_s32(reinterpret_cast<const int32_t*>(row + 4)));
    }
    for (int i = 0; i < kParts; i++) {
      const int8x16_t first = vld1q_s8(weights + i * 16), second = vld1q_s8(weights + i * 16 + 64);
      for (int r = 0; r < Rows; r++) {
        int16x8_t left = vmull_s8(vget_low_s8(first), vget_low_s8(x[r]));
        int16x8_t right = vmull_high_s8(first, x[r]);
        left = vmlal_s8(left, vget_low_s8(second), vget_low_s8(y[r]));
        right = vmlal_high_s8(right, second, y[r]);
        pairs[r][i][0] = vpadalq_s16(pairs[r][i][0], left);
        pairs[r][i][1] = vpadalq_s16(pairs[r][i][1], right);
      }
    }
  }
  for (int r = 0; r < Rows; r++)
    for (int i = 0; i < kParts; i++)
      sums[r][i] = vaddq_s32(sums[r][i], vpaddq_s32(pairs[r][i][0], pairs[r][i][1]));
#endif
}

template <int Rows, int Panels, bool Wide>
ATOM_EDGE_INLINE void dot(const int8_t* weights, size_t panel_stride, const int8_t* rows, int width,
                int begin, int end, const Segment*, int, IntegerLanes (&sums)[Rows][Panels]) {
  for (int p = 0; p < Panels; p++) {
    int32x4_t high[Rows][kParts] = {}, low[Rows][kParts] = {};
    dot_plane<Rows>(weights + p * panel_stride, rows, width, begin, end, high);
    if (Wide) dot_plane<Rows>(weights + p * panel_stride, rows + width, width, begin, end, low);
    for (int r = 0; r < Rows; r++)
      for (int i = 0; i < kParts; i++)
        sums[r][p].part[i] = (Integers)(Wide ? (high[r][i] << 8) + low[r][i] : high[r][i]);
  }
}

}  // namespace
}  // namespace atom_edge
