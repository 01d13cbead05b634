// UTF-8, and what a tokenizer asks of Unicode: kinds of characters and the normal form NFC.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace atom_edge::unicode {

enum class Kind : uint8_t { other, letter, number, space };

// \p{L}, \p{N}, \s or none of them, of a version of Unicode that unicode_table.cpp names.
Kind kind_of(char32_t character);

struct Character {
    char32_t code;
    size_t size; // bytes
};

// The first character of a text that is valid and not empty.
Character first(std::string_view text);

// Whether a text is UTF-8: no surrogates, no overlong forms, nothing cut off.
bool is_valid(std::string_view text);

// The bytes of the sequence that a byte begins: 1 to 4; 0 for one that begins none.
size_t sequence_size(uint8_t byte);

// Writes a character and returns the end of what was written.
char *encode(char32_t character, char *out);
void append(std::string &text, char32_t character);

// The canonical composition of a valid text.
std::string nfc(std::string_view text);

} // namespace atom_edge::unicode
