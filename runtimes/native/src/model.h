// What the operator computes: sizes, options and weights of a decoder. Nothing here is owned.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace atom_edge {

constexpr int kPageTokens = 16;
// Outputs that are packed together, and the multiple to which every width is padded.
constexpr int kPanel = 16;

// int8 weights `[outputs / 16, inputs / 4, 16, 4]`: sixteen outputs side by side, four inputs each,
// which the multiply-accumulate instructions of x86-64 and ARM read as they lie.
// bfloat16 scales `[outputs / 16, segments, 16]`, one for each output and segment of its inputs.
struct Matrix {
  int outputs;  // multiples of 16, zeros in what is padded
  int inputs;
  int segment;  // inputs that share a scale; the last segment may be shorter
  int segments;
  const int8_t* weights;
  const uint16_t* scales;
  const float* bias;  // [outputs], or null
};

struct Layer {
  const float* attention_norm;  // [hidden]
  Matrix qkv;                   // heads, then kv_heads keys, then kv_heads values
  const float* query_norm;      // [head_size], or null
  const float* key_norm;
  Matrix attention_output;
  const float* feed_forward_norm;
  Matrix gate_up;  // feed_forward gates, then as many of what they gate
  Matrix down;
  bool rotated;
};

struct Model {
  int layers;
  int heads;
  int kv_heads;
  // Widths in memory, multiples of 16.
  int hidden;
  int head_size;
  int feed_forward;
  // Widths of the model itself; they divide means.
  int model_hidden;
  int model_head_size;
  int vocabulary;
  int rotary_pairs;  // halves of the first 2 * rotary_pairs of a head are rotated
  const float* inverse_frequencies;
  float rotary_scale;  // factor of cosine and sine
  float epsilon;
  float attention_scale;
  float embedding_scale;
  float residual_scale;
  float logit_scale;
  bool exclusive;           // XSA: attention gives up its part along the token's own value
  bool wide;                // activations in 16 bits, not 8
  bool activation_by_row;   // one scale a token, not one a segment
  Matrix embedding;
  Matrix head;
  const float* final_norm;
  const Layer* layer;

  int query_width() const { return heads * head_size; }
  int kv_width() const { return kv_heads * head_size; }
  // Floats of one layer's keys (and as many values) in a page, and of the whole page.
  size_t page_part() const { return static_cast<size_t>(kv_width()) * kPageTokens; }
  size_t page_size() const { return page_part() * 2 * layers; }
};

}  // namespace atom_edge
