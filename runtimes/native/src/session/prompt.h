// From what the caller gives to the token ids that the model is given, as runtimes/prompt.py does.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "session/options.h"
#include "text/tokenizer.h"

namespace atom_edge::session {

struct Prompt {
    std::vector<uint32_t> ids; // at least one, and at most the context's length less one
    size_t truncated = 0;      // how many were dropped at the start
};

// The last of the ids that leave room for a reply; an `Error` for one that does not exist.
Prompt fit(std::vector<uint32_t> ids, size_t vocabulary, size_t context_length);

class PromptEncoder {
  public:
    // `settings` is the tokenizer.json; `adds_begin`: whether a text gets the token that begins one
    // by the word of the tokenizer_config.json.
    PromptEncoder(const Tokenizer &tokenizer, const json::Value &settings, const SpecialIds &ids,
                  bool adds_begin);

    std::vector<uint32_t> operator()(std::string_view text) const;
    // What begins a document in place of nothing.
    std::vector<uint32_t> operator()(std::vector<uint32_t> ids) const;

  private:
    const Tokenizer &tokenizer_;
    std::vector<uint32_t> before_, after_; // what the post-processor adds
    std::vector<uint32_t> prefix_, beginning_;
};

} // namespace atom_edge::session
