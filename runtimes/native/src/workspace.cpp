#include <algorithm>

#include "step.h"

namespace atom_edge {

Workspace::Workspace(const Model& model, int64_t count)
    : rows(static_cast<size_t>(std::min<int64_t>(count, kMostTokens))) {
  int inputs = 0, segment_count = 0;
  const auto visit = [&](const Matrix& matrix) {
    inputs = std::max(inputs, matrix.inputs);
    segment_count = std::max(segment_count, matrix.segments);
  };
  visit(model.head);
  for (int i = 0; i < model.layers; i++) {
    const Layer& layer = model.layer[i];
    for (const Matrix* matrix : {&layer.qkv, &layer.attention_output, &layer.gate_up, &layer.down})
      visit(*matrix);
  }
  const int qkv = model.query_width() + 2 * model.kv_width();
  hidden = sizeof(float) * model.hidden;
  narrow = aligned(sizeof(float) * std::max(model.hidden, model.query_width()));
  broad = aligned(sizeof(float) * std::max(qkv, 2 * model.feed_forward));
  angles = 2 * aligned(sizeof(float) * model.rotary_pairs);
  values = 2 * static_cast<size_t>(inputs);
  segments = 8 * static_cast<size_t>(segment_count);
}

size_t Workspace::total() const {
  size_t bytes = 0;
  for (size_t part : {hidden, narrow, broad, angles, values, segments}) bytes += aligned(part);
  return bytes * rows;
}

}  // namespace atom_edge
