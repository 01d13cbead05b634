// What a run is asked for: the operator's inputs, judged.
#pragma once

#include <vector>

#include "loader.h"
#include "step.h"

namespace atom_edge {

// A sequence whose next tokens are chosen.
struct Sequence {
  int64_t length;  // tokens of it that are in the cache after the new ones
  const int64_t* pages;
  Sampling sampling;
  uint64_t seed;
  uint64_t drawn;
  std::vector<int64_t> seen;  // tokens that count as repeated, each once; if there is a penalty
};

struct Request {
  // Throws ort::Refused.
  Request(const ort::Api& api, ort::KernelContext* context, const Model& model);

  int64_t batch = 0;
  std::vector<Token> tokens;
  int64_t wanted = 0;  // rows of logits
  const void* cache = nullptr;
  std::vector<int64_t> cache_shape;

  // The loop; the rest is of use where steps are above 0.
  int64_t steps = 0;
  int64_t alternatives = -1;
  std::vector<Sequence> sequences;
  const int64_t* end_ids = nullptr;
  int64_t end_count = 0;

 private:
  void read_loop(const ort::Api& api, ort::KernelContext* context, const Model& model);
};

}  // namespace atom_edge
