// Integer products of one segment in plain C++; see `dot_x86.h` for the contract.
#pragma once

#include "values.h"

namespace atom_edge {
namespace {

constexpr int kRowsAtOnce = 1, kWideRowsAtOnce = 1, kPanelsAtOnce = 1, kPanelsOfOneRow = 1;

template <int Rows, int Panels, bool Wide>
ATOM_EDGE_INLINE void dot(const int8_t* weights, size_t panel_stride, const int8_t* rows, int width,
                int count, const Segment*, int, IntegerLanes (&sums)[Rows][Panels]) {
  for (int r = 0; r < Rows; r++)
    for (int p = 0; p < Panels; p++) {
      const int8_t* row = rows + static_cast<size_t>(r) * 2 * width;
      const int8_t* panel = weights + p * panel_stride;
      int32_t total[kLanes] = {};
      for (int k = 0; k < count; k += 4, panel += 64)
        for (int j = 0; j < kLanes; j++)
          for (int i = 0; i < 4; i++) {
            const int value = Wide ? row[k + i] * 256 + row[width + k + i] : row[k + i];
            total[j] += panel[j * 4 + i] * value;
          }
      memcpy(&sums[r][p], total, sizeof total);
    }
}

}  // namespace
}  // namespace atom_edge
