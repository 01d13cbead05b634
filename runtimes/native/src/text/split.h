// Pre-tokenizers: how a text is cut into the words that BPE sees one by one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/json.h"

namespace atom_edge {

using Words = std::vector<std::string>;

// One step of a pre-tokenizer.
struct Split {
    enum class Rule { gpt2, llama3, qwen2, each_digit, bytes, metaspace, after };
    enum class Prefix { never, first, always };
    Rule rule;
    Prefix prefix = Prefix::never; // which words begin with a space: put there if there is none
    std::string mark;              // of `metaspace`, in place of a space; of `after`, where to cut
    bool cuts = true;              // of `metaspace`: whether it cuts before every mark

    // `begins`: whether the first of the words begins the whole text.
    Words apply(const Words &words, bool begins) const;

  private:
    Words metaspaced(const std::string &word, bool begins) const;
};

// The steps of a "pre_tokenizer"; an `Error` that names what is not known.
std::vector<Split> read_splits(const json::Value &settings);

// A word in GPT-2's reversible alphabet, where every byte is a printable character.
std::string byte_alphabet(std::string_view word);

// The bytes that a word in that alphabet stands for; false if it has a character of no byte.
bool from_byte_alphabet(std::string_view word, std::string &bytes);

} // namespace atom_edge
