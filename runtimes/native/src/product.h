// Matrix products of quantized rows with packed weights.
//
// An output is a sum over segments, in order, of an exact integer product times its two scales.
// Tiles of rows and panels share loads and change no bit of it.
#pragma once

#include "model.h"
#include "step.h"
#if defined(ATOM_EDGE_PLAIN)
#include "dot_plain.h"
#elif defined(__x86_64__)
#include "dot_x86.h"
#elif defined(__aarch64__)
#include "dot_neon.h"
#endif

namespace atom_edge {
namespace {

// Quantized rows of one width.
struct Rows {
  const int8_t* values;     // [count, 2 * width]
  const Segment* segments;  // [count, segments]
  int count;
  bool wide;
};

// Calls work(i) for every i below count, by the team if there is enough to do.
template <typename Work>
inline void share(const Team& team, size_t count, bool enough, const Work& work) {
  if (!enough || !team.run || count < 2) {
    for (size_t i = 0; i < count; i++) work(i);
    return;
  }
  auto call = [](void* data, size_t i) { (*static_cast<const Work*>(data))(i); };
  team.run(team.context, call, count, const_cast<Work*>(&work));
}

// Where a product goes: `[rows, stride]`, of whose columns the last panel may have fewer than 16.
struct Target {
  float* values;
  size_t stride;
  int columns;
};

// The running totals of a tile are needed once a segment: where registers are too few for them and
// for the integer sums, it is they that wait in memory. A compiler left alone moves both about.
#if defined(__AVX512F__)
constexpr int kSumsInRegisters = 13;
#elif defined(__x86_64__)
constexpr int kSumsInRegisters = 5;
#else
constexpr int kSumsInRegisters = 12;
#endif
template <typename T>
ATOM_EDGE_INLINE void keep_in_memory(T& values) {
  asm("" : "+m"(values));
}

// On x86-64 a function of its own: inlined, it gets other registers in every place.
#if defined(__x86_64__)
#define ATOM_EDGE_TILE __attribute__((noinline))
#else
#define ATOM_EDGE_TILE inline
#endif
// Length is that of the segments, known beforehand, or 0.
template <int R, int P, bool Wide, int Length>
ATOM_EDGE_TILE void tile(const Matrix& matrix, int panel, const Rows& rows, int first, const Target& to) {
  Lanes total[R][P];
  for (auto& row : total)
    for (auto& lanes : row) lanes = broadcast(0);
  const int width = matrix.inputs, segments = matrix.segments;
  const size_t panel_stride = static_cast<size_t>(width) * kPanel;
  const size_t scale_stride = static_cast<size_t>(segments) * kPanel;
  const int8_t* weights = matrix.weights + panel * panel_stride;
  const uint16_t* scales = matrix.scales + panel * scale_stride;
  const int8_t* values = rows.values + static_cast<size_t>(first) * 2 * width;
  const Segment* segment = rows.segments + static_cast<size_t>(first) * segments;
  for (int left = width; left > 0; segment++, scales += kPanel) {
    const int length = Length ? Length : left < matrix.segment ? left : matrix.segment;
    IntegerLanes sums[R][P];
    if constexpr (R * P * kParts > kSumsInRegisters) keep_in_memory(total);
    dot<R, P, Wide>(weights, panel_stride, values, width, length, segment, segments, sums);
    for (int p = 0; p < P; p++) {
      const Lanes scale = load_bfloat16(scales + p * scale_stride);
      for (int r = 0; r < R; r++)
        total[r][p] = fused(to_floats(sums[r][p]), scale * segment[r * segments].scale,
                            total[r][p]);
    }
    left -= length;
    weights += length * kPanel;
    values += length * kValueBytes<Wide>;
  }
  for (int p = 0; p < P; p++) {
    const int column = (panel + p) * kPanel;
    for (int r = 0; r < R; r++) {
      if (matrix.bias) total[r][p] = total[r][p] + load(matrix.bias + column);
      float* out = to.values + (first + r) * to.stride + column;
      if (column + kPanel <= to.columns) {
        store(out, total[r][p]);
      } else {
        float last[kPanel];
        store(last, total[r][p]);
        memcpy(out, last, sizeof(float) * (to.columns - column));
      }
    }
  }
}

// All rows from `first` on by the panels from `panel` on, in tiles of R rows and then of fewer.
template <int R, int P, bool Wide, int Length>
inline void tiles(const Matrix& matrix, int panel, const Rows& rows, int first, const Target& to) {
  for (; first + R <= rows.count; first += R)
    tile<R, P, Wide, Length>(matrix, panel, rows, first, to);
  if constexpr (R > 1)
    if (first < rows.count) tiles<R - 1, P, Wide, Length>(matrix, panel, rows, first, to);
}

template <int R, int P, bool Wide, int Length>
inline void panels(const Matrix& matrix, int begin, int end, const Rows& rows, const Target& to) {
  for (; begin + P <= end; begin += P) tiles<R, P, Wide, Length>(matrix, begin, rows, 0, to);
  for (; begin < end; begin++) tiles<R, 1, Wide, Length>(matrix, begin, rows, 0, to);
}

template <bool Wide, int Length>
inline void panels(const Matrix& matrix, int begin, int end, const Rows& rows, const Target& to) {
  constexpr int kRows = Wide ? kWideRowsAtOnce : kRowsAtOnce;
  if (rows.count == 1)
    panels<1, kPanelsOfOneRow, Wide, Length>(matrix, begin, end, rows, to);
  else
    panels<kRows, kPanelsAtOnce, Wide, Length>(matrix, begin, end, rows, to);
}

// Segments of the usual length have loops of their own.
constexpr int kUsualSegment = 32;
template <bool Wide>
inline void panels(const Matrix& matrix, int begin, int end, const Rows& rows, const Target& to) {
  if (matrix.segment == kUsualSegment && matrix.inputs % kUsualSegment == 0)
    panels<Wide, kUsualSegment>(matrix, begin, end, rows, to);
  else
    panels<Wide, 0>(matrix, begin, end, rows, to);
}

// Products that are shared have at least so many multiplications for each to take.
constexpr size_t kShare = 1 << 17;
constexpr int kMostShares = 16;

inline void product(const Team& team, const Matrix& matrix, const Rows& rows, const Target& to) {
  const size_t work = static_cast<size_t>(matrix.outputs) * matrix.inputs * rows.count;
  const int count = (to.columns + kPanel - 1) / kPanel;
  int shares = static_cast<int>(work / kShare < kMostShares ? work / kShare : kMostShares);
  // Whole groups of panels in every share.
  const int groups = (count + kPanelsOfOneRow - 1) / kPanelsOfOneRow;
  shares = shares < 1 ? 1 : shares > groups ? groups : shares;
  share(team, shares, shares > 1, [&](size_t i) {
    const int n = static_cast<int>(i);
    const int begin = groups * n / shares * kPanelsOfOneRow;
    int end = groups * (n + 1) / shares * kPanelsOfOneRow;
    if (end > count) end = count;
    if (rows.wide)
      panels<true>(matrix, begin, end, rows, to);
    else
      panels<false>(matrix, begin, end, rows, to);
  });
}

}  // namespace
}  // namespace atom_edge
