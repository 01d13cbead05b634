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
    enum class Rule { gpt2, llama3, qwen2, each_digit, bytes };
    Rule rule;
    bool prefix_space = false; // of `gpt2` and `bytes`: a space is put before a word without one

    Words apply(const Words &words) const;
};

// The steps of a "pre_tokenizer"; an `Error` that names what is not known.
std::vector<Split> read_splits(const json::Value &settings);

// A word in GPT-2's reversible alphabet, where every byte is a printable character.
std::string byte_alphabet(std::string_view word);

// The bytes that a word in that alphabet stands for; false if it has a character of no byte.
bool from_byte_alphabet(std::string_view word, std::string &bytes);

} // namespace atom_edge
