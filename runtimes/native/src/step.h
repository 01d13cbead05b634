// The step: new tokens of a batch through the decoder. One function for each instruction set.
#pragma once

#include <stdint.h>

#include "model.h"

namespace atom_edge {

// A new token of a sequence.
struct Token {
  int64_t id;
  int64_t position;
  const int64_t* pages;  // of its sequence
  bool wanted;           // whether its logits are asked for
};

// Who computes: `run` calls work(data, i) for every i below count, from several threads perhaps.
struct Team {
  void* context;
  void (*run)(void* context, void (*work)(void*, size_t), size_t count, void* data);
};

struct Step {
  const Model* model;
  const Token* tokens;  // of a sequence in order, sequence after sequence
  int64_t count;
  float* cache;     // pages
  float* logits;    // [wanted tokens, vocabulary], in the order of the tokens
  char* workspace;  // `workspace_bytes` of memory
  Team team;
};

// Tokens that go through the model together; further ones follow in another pass.
constexpr int kMostTokens = 128;

// Bytes that one token takes in each part of the memory of a pass.
struct Workspace {
  Workspace(const Model& model, int64_t count);

  static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }
  size_t total() const;  // bytes of all rows

  size_t rows;
  size_t hidden;    // the residual stream
  size_t narrow;    // what goes into and comes out of products, one model width
  size_t broad;     // queries, keys and values; gates and what they gate
  size_t angles;    // cosines, then sines
  size_t values;    // of quantized rows
  size_t segments;  // of quantized rows
};

// How a token is chosen: see `runtimes/options.py`.
struct Sampling {
  double temperature;
  int64_t top_k;
  double top_p;
  double min_p;
  double penalty;
};

struct Choice {
  const float* logits;  // [vocabulary]
  int vocabulary;
  const Sampling* sampling;  // the penalty is in the logits
  uint64_t seed;
  uint64_t drawn;   // numbers of the seed that are used up
  int32_t* memory;  // `choice_memory` of it
};

inline size_t choice_memory(int vocabulary) { return 2 * (static_cast<size_t>(vocabulary) + 64); }

struct InstructionSet {
  const char* name;
  void (*run)(const Step&);
  int (*choose)(const Choice&);
};

// The best set that the processor has and the library was built with, or the one that the
// environment variable ATOM_EDGE_ISA names; null if that one cannot run here.
const InstructionSet* instruction_set();

}  // namespace atom_edge
