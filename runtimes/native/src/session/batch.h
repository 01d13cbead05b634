// Sequences over the native graph: their caches, and a run that appends tokens and chooses more.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "session/graph.h"
#include "session/options.h"

namespace atom_edge::session {

// What `exporters/native.py` says of a graph.
struct NativeShape {
    explicit NativeShape(const Graph &graph);

    Shape page;         // [layers, 2, kv_heads, 16 * head_size]
    int64_t vocabulary;
};

// A sequence and how its tokens are chosen.
struct Sequence {
    std::vector<int64_t> waiting; // tokens that the cache does not hold yet
    std::vector<int64_t> history; // tokens that count as repeated; empty without a penalty
    std::vector<int64_t> pages;
    int64_t held = 0;  // tokens that the cache holds
    int64_t drawn = 0; // tokens chosen so far
    uint64_t seed = 0;
};

// What a run chose for a sequence, step by step.
struct Chosen {
    int64_t token;
    double logprob;
    std::vector<atom_edge_rated> top;
};

class Batch {
  public:
    // `rooms`: how many tokens each sequence may get. Memory is taken as tokens come.
    Batch(const Graph &graph, const NativeShape &shape, const Options &options,
          const std::vector<uint32_t> &end_ids, const std::vector<int64_t> &rooms);

    std::vector<Sequence> sequences;

    // Appends up to `most` waiting tokens to each of the sequences `rows`, and chooses nothing.
    void read(const std::vector<size_t> &rows, int64_t most);

    // Appends all waiting tokens, and chooses up to `steps` further ones of each sequence: fewer
    // where it ends. The last of them waits.
    std::vector<std::vector<Chosen>> choose(const std::vector<size_t> &rows, int64_t steps);

  private:
    // The outputs of a run.
    struct Result {
        std::vector<int64_t> tokens, top_tokens;
        std::vector<double> logprobs;
    };

    Result run(const std::vector<size_t> &rows, const std::vector<int64_t> &counts, int64_t steps);

    const Graph &graph_;
    const Options &options_;
    Shape cache_shape_;
    std::unique_ptr<float[]> cache_;
    std::vector<int64_t> end_ids_;
    int64_t top_, rated_; // log-probabilities a token: of the likeliest, and of all
};

} // namespace atom_edge::session
