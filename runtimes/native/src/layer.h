// The parts of the decoder between its products: norms, rotation, the cache, the gate.
#pragma once

#include <math.h>

#include "attention.h"
#include "lanes.h"
#include "model.h"

namespace atom_edge {
namespace {

// x / sqrt(mean square + epsilon) * weight; `width` in memory, `model_width` in the mean.
inline void normalize(const float* x, const float* weight, int width, int model_width,
                      float epsilon, float* to) {
  const float mean = dot(x, x, width) / static_cast<float>(model_width);
  const Lanes inverse = broadcast(1.0f / sqrtf(mean + epsilon));
  for (int i = 0; i < width; i += kLanes)
    store(to + i, load(x + i) * inverse * load(weight + i));
}

// silu(gate) * up, in place of the gates.
inline void gate(float* gates, int width) {
  for (int i = 0; i < width; i += kLanes) {
    const Lanes x = load(gates + i);
    const Lanes sigmoid_divisor = exponential(broadcast(0) - x) + broadcast(1);
    store(gates + i, x / sigmoid_divisor * load(gates + width + i));
  }
}

inline void add_scaled(float* x, const float* y, float scale, int width) {
  for (int i = 0; i < width; i += kLanes) store(x + i, load(x + i) + load(y + i) * scale);
}

// Row `id` of a packed matrix, as floats times `scale`.
inline void unpack_row(const Matrix& matrix, int64_t id, float scale, float* to) {
  const int64_t panel = id / kPanel;
  const int output = static_cast<int>(id % kPanel);
  const int8_t* weights =
      matrix.weights + static_cast<size_t>(panel) * matrix.inputs * kPanel + output * 4;
  const uint16_t* scales =
      matrix.scales + static_cast<size_t>(panel) * matrix.segments * kPanel + output;
  for (int s = 0, i = 0; s < matrix.segments; s++, scales += kPanel) {
    const uint32_t bits = static_cast<uint32_t>(*scales) << 16;
    float segment_scale;
    memcpy(&segment_scale, &bits, sizeof segment_scale);
    segment_scale *= scale;
    const int end = i + matrix.segment < matrix.inputs ? i + matrix.segment : matrix.inputs;
    for (; i < end; i += 4, weights += kPanel * 4)
      for (int j = 0; j < 4; j++) to[i + j] = static_cast<float>(weights[j]) * segment_scale;
  }
}

// Cosine and sine of an angle that is not negative, the same bits on every machine.
inline void cosine_and_sine(float angle, float scale, float* cosine, float* sine) {
  // The angle less whole quarter turns; pi / 2 in two parts, of which the first is short enough
  // for its products to be exact.
  const double kTurner = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds
  const double quarters = (angle * 0.63661977236758138 + kTurner) - kTurner;
  const double x = (angle - quarters * 1.57079632673412561417) - quarters * 6.07710050650619225e-11;
  const double square = x * x;
  // Taylor's series: within 1e-13 up to an eighth of a turn.
  constexpr double kSine[] = {-7.6471637318198165e-13, 1.6059043836821613e-10,
                              -2.5052108385441720e-08, 2.7557319223985893e-06,
                              -1.9841269841269841e-04, 8.3333333333333333e-03,
                              -1.6666666666666667e-01, 1.0};
  constexpr double kCosine[] = {-1.1470745597729725e-11, 2.0876756987868099e-09,
                                -2.7557319223985888e-07, 2.4801587301587302e-05,
                                -1.3888888888888889e-03, 4.1666666666666667e-02,
                                -0.5, 1.0};
  double s = 0, c = 0;
  for (int i = 0; i < 8; i++) {
    s = s * square + kSine[i];
    c = c * square + kCosine[i];
  }
  s *= x;
  const int64_t quadrant = static_cast<int64_t>(quarters) & 3;
  const double turned_cosine = quadrant & 1 ? s : c, turned_sine = quadrant & 1 ? c : s;
  *cosine = static_cast<float>(quadrant == 1 || quadrant == 2 ? -turned_cosine : turned_cosine) *
            scale;
  *sine = static_cast<float>(quadrant >= 2 ? -turned_sine : turned_sine) * scale;
}

// Rotates the halves of the first 2 * pairs values of a head (RoFormer, arXiv 2104.09864).
inline void rotate(float* head, const float* cosine, const float* sine, int pairs) {
  for (int i = 0; i < pairs; i++) {
    const float first = head[i], second = head[pairs + i];
    head[i] = first * cosine[i] - second * sine[i];
    head[pairs + i] = second * cosine[i] + first * sine[i];
  }
}

// Takes from each head of `attended` its part along the token's own value (arXiv 2603.09078).
inline void exclude(float* attended, const float* value, int heads, int head_size) {
  const float square = dot(value, value, head_size);
  const float inverse = 1.0f / (square > 1e-20f ? square : 1e-20f);
  for (int h = 0; h < heads; h++, attended += head_size) {
    const float along = dot(attended, value, head_size) * inverse;
    for (int i = 0; i < head_size; i += kLanes)
      store(attended + i, load(attended + i) - load(value + i) * along);
  }
}

// Writes a token's keys and values `[kv_heads, head_size]` into its page.
inline void remember(const Model& model, float* page, int place, const float* keys,
                     const float* values) {
  const int size = model.head_size;
  for (int h = 0; h < model.kv_heads; h++) {
    float* key_page = page + static_cast<size_t>(h) * size * kPageTokens + place;
    for (int d = 0; d < size; d++) key_page[d * kPageTokens] = keys[h * size + d];
    float* value_page = page + model.page_part() + static_cast<size_t>(h) * size * kPageTokens;
    memcpy(value_page + place * size, values + h * size, sizeof(float) * size);
  }
}

}  // namespace
}  // namespace atom_edge
