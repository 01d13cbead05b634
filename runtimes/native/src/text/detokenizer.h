// Token ids to text, one at a time, as atom_edge/detokenizer.py does it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/json.h"
#include "text/tokenizer.h"

namespace atom_edge {

// What the "decoder" of a tokenizer.json says: how a token becomes bytes.
struct Decoding {
    bool byte_level = true; // else SentencePiece's, with its tokens such as <0xE2>
    std::vector<std::pair<std::string, std::string>> replaced;
    std::string strip; // what a text loses at its very beginning

    // An `Error` that names what is not known.
    static Decoding read(const json::Value &settings);

    std::string bytes_of(const std::string &token) const;
};

// Bytes to UTF-8 as they come: what cannot be part of a character becomes U+FFFD, and what may
// become one is held back.
class Utf8Decoder {
  public:
    void push(std::string_view bytes, std::string &text);
    void flush(std::string &text);

  private:
    std::string held_; // the beginning of a character
};

class Detokenizer {
  public:
    // `after`: the ids that the text goes on from.
    Detokenizer(const Tokenizer &tokenizer, const Decoding &decoding,
                const std::vector<uint32_t> &after);

    // The text that is certain with the next token, whole characters.
    std::string push(uint32_t id);
    // Ends the text: what was held back.
    std::string flush();

  private:
    std::string bytes_of(uint32_t id) const;
    std::string begin(std::string text);

    const Tokenizer &tokenizer_;
    const Decoding &decoding_;
    bool started_;
    Utf8Decoder decoder_;
};

} // namespace atom_edge
