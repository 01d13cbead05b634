// The model of a kernel: its attributes and weights, checked.
#pragma once

#include <vector>

#include "model.h"
#include "ort.h"

namespace atom_edge {

// Inputs of the operator, in order.
enum Input {
  kInputIds,
  kCounts,
  kPastLengths,
  kLogitRows,
  kPages,
  kCache,
  kSteps,
  kEndIds,
  kSampling,
  kSeeds,
  kHistory,
  kAlternatives,
  kEmbedding,
  kEmbeddingScales,
  kHead,
  kHeadScales,
  kHeadBias,
  kFinalNorm,
  kAttentionNorm,
  kQkv,
  kQkvScales,
  kQkvBias,
  kQueryNorm,
  kKeyNorm,
  kAttentionOutput,
  kAttentionOutputScales,
  kAttentionOutputBias,
  kFeedForwardNorm,
  kGateUp,
  kGateUpScales,
  kGateUpBias,
  kDown,
  kDownScales,
  kDownBias,
  kInverseFrequencies,
  kInputs
};

enum Output { kLogits, kCacheOut, kTokens, kTopTokens, kLogProbabilities, kOutputs };

// A model and the memory of its layers. It points to weights that onnxruntime owns.
struct LoadedModel {
  // Throws ort::Refused if an attribute is out of range or a weight has another shape than they say.
  LoadedModel(const ort::Api& api, const ort::KernelInfo* info);
  LoadedModel(const LoadedModel&) = delete;

  Model model = {};
  std::vector<Layer> layers;
};

}  // namespace atom_edge
