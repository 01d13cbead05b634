// From what the caller gives to the token ids that the model is given, as runtimes/prompt.py does.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "session/options.h"
#include "text/tokenizer.h"

namespace atom_edge {

struct Prompt {
    std::vector<uint32_t> ids; // at least one, and at most the context's length less one
    size_t truncated = 0;      // how many were dropped at the start
};

class PromptEncoder {
  public:
    // `settings` is the tokenizer.json; `adds_begin`: whether a text gets the token that begins one
    // by the word of the tokenizer_config.json.
    PromptEncoder(const Tokenizer &tokenizer, const json::Value &settings, const SpecialIds &ids,
                  bool adds_begin, size_t vocabulary, size_t context_length);

    Prompt operator()(std::string_view text) const;
    Prompt operator()(std::vector<uint32_t> ids) const;

  private:
    const Tokenizer &tokenizer_;
    std::vector<uint32_t> before_, after_; // what the post-processor adds
    std::vector<uint32_t> prefix_, beginning_;
    size_t vocabulary_, context_length_;
};

} // namespace atom_edge
