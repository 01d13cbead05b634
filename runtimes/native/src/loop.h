// The loop inside the operator: choose the next token of every sequence, append it, and so on.
#pragma once

#include <vector>

#include "request.h"
#include "step.h"

namespace atom_edge {

// Outputs of S steps of B sequences with A alternatives.
struct Results {
  int64_t* tokens;            // [B, S]
  int64_t* top_tokens;        // [B, S, A]
  double* log_probabilities;  // [B, S, 1 + A], or nothing
};

struct LoopMemory {
  std::vector<float> logits;
  std::vector<float> penalized;
  std::vector<int32_t> choice;
};

class Loop {
 public:
  // `step` runs the request's new tokens; its logits are only of those that the request wants.
  Loop(const InstructionSet& set, const Step& step, Request& request, LoopMemory& memory);

  void run(const Results& results);

 private:
  void append_request();
  void append(const std::vector<Token>& tokens, const std::vector<size_t>& of);
  const float* logits(size_t row) const;
  float* make_room(size_t rows);
  int64_t choose(size_t sequence);
  void rate(size_t sequence, int64_t token, int64_t* top_tokens, double* log_probabilities);
  bool ends(int64_t token) const;

  const InstructionSet& set_;
  const Step step_;
  Request& request_;
  LoopMemory& memory_;
  std::vector<const float*> last_;  // logits of each sequence's last token
};

}  // namespace atom_edge
