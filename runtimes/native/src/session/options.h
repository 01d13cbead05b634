// What a bundle and a caller say of a reply; runtimes/options.py and defaults.py say the same.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "atom_edge.h"
#include "text/json.h"

namespace atom_edge::session {

struct Options {
    int64_t max_new_tokens = 128;
    double temperature = 0.8;
    int64_t top_k = 0;
    double top_p = 0.95;
    double min_p = 0;
    double repetition_penalty = 1;
    std::optional<uint64_t> seed;
    std::vector<std::string> stop;
    int64_t logprobs = -1; // none

    // An `Error` (ATOM_EDGE_ARGUMENT) that names the option that is outside its range.
    void check() const;
};

// The options of a reply that its caller leaves out: a "generation_config.json", with the meaning
// that transformers gives it.
struct Defaults {
    Options options;
    std::optional<int64_t> max_length; // of prompt and reply together

    static Defaults read(const json::Value &generation_config);

    int64_t max_new_tokens(size_t prompt_tokens) const;
    // Checked; a `max_new_tokens` of 0 is left for `max_new_tokens`.
    Options chosen(const atom_edge_options *given) const;
};

// Ids that begin and end a text; empty where the bundle names none.
struct SpecialIds {
    std::vector<uint32_t> begin, end, start;

    static SpecialIds read(const json::Value &generation_config, const json::Value &config);
};

} // namespace atom_edge::session
