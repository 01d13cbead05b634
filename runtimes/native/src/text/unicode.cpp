#include "text/unicode.h"

#include <algorithm>
#include <vector>

#include "text/unicode_table.h"

namespace atom_edge::unicode {

namespace {

// Hangul syllables are composed by rule (The Unicode Standard, 3.12).
constexpr char32_t SYLLABLES = 0xAC00, LEADING = 0x1100, VOWELS = 0x1161, TRAILING = 0x11A7;
constexpr char32_t LEADING_COUNT = 19, VOWEL_COUNT = 21, TRAILING_COUNT = 28;
constexpr char32_t SYLLABLE_COUNT = LEADING_COUNT * VOWEL_COUNT * TRAILING_COUNT;

// The value of the last range of a sorted table that begins at or before a character.
uint8_t look_up(const uint32_t *ranges, size_t count, char32_t character) {
    const uint32_t key = uint32_t(character) << 8 | 0xFF;
    const uint32_t *after = std::upper_bound(ranges, ranges + count, key);
    return after == ranges ? 0 : uint8_t(after[-1]);
}

uint8_t combining_class(char32_t character) {
    return character < 0x300 ? 0 : look_up(COMBINING_CLASSES, COMBINING_CLASS_COUNT, character);
}

void decompose(char32_t character, std::u32string &out) {
    if (character - SYLLABLES < SYLLABLE_COUNT) {
        const char32_t index = character - SYLLABLES;
        out += LEADING + index / (VOWEL_COUNT * TRAILING_COUNT);
        out += VOWELS + index / TRAILING_COUNT % VOWEL_COUNT;
        if (index % TRAILING_COUNT)
            out += TRAILING + index % TRAILING_COUNT;
        return;
    }
    const Pair *end = DECOMPOSITIONS + DECOMPOSITION_COUNT;
    const Pair *found = std::lower_bound(
        DECOMPOSITIONS, end, character,
        [](const Pair &pair, char32_t wanted) { return pair.composed < wanted; });
    if (found == end || found->composed != character) {
        out += character;
        return;
    }
    decompose(found->first, out);
    if (found->second)
        decompose(found->second, out);
}

// The composition of two characters; 0 where there is none.
char32_t compose(char32_t first, char32_t second) {
    if (first - LEADING < LEADING_COUNT && second - VOWELS < VOWEL_COUNT)
        return SYLLABLES +
               ((first - LEADING) * VOWEL_COUNT + (second - VOWELS)) * TRAILING_COUNT;
    if (first - SYLLABLES < SYLLABLE_COUNT && (first - SYLLABLES) % TRAILING_COUNT == 0 &&
        second > TRAILING && second < TRAILING + TRAILING_COUNT)
        return first + (second - TRAILING);
    const uint16_t *end = COMPOSITIONS + COMPOSITION_COUNT;
    const auto before = [](uint16_t index, std::pair<char32_t, char32_t> wanted) {
        const Pair &pair = DECOMPOSITIONS[index];
        return std::make_pair(pair.first, pair.second) < wanted;
    };
    const uint16_t *found =
        std::lower_bound(COMPOSITIONS, end, std::make_pair(first, second), before);
    if (found == end)
        return 0;
    const Pair &pair = DECOMPOSITIONS[*found];
    return pair.first == first && pair.second == second ? pair.composed : 0;
}

// Puts runs of combining characters in their canonical order.
void reorder(std::u32string &text) {
    for (size_t begin = 0; begin < text.size();) {
        if (combining_class(text[begin]) == 0) {
            ++begin;
            continue;
        }
        size_t end = begin;
        while (end < text.size() && combining_class(text[end]) != 0)
            ++end;
        std::stable_sort(text.begin() + ptrdiff_t(begin), text.begin() + ptrdiff_t(end),
                         [](char32_t a, char32_t b) {
                             return combining_class(a) < combining_class(b);
                         });
        begin = end;
    }
}

// Composes in place what follows each starter and is not blocked from it.
void recompose(std::u32string &text) {
    size_t out = 0, starter = text.npos;
    int last_class = -1; // of what was kept after the starter; -1 for nothing
    for (const char32_t character : std::u32string(text)) {
        const int current = combining_class(character);
        if (starter != text.npos && last_class < current) {
            if (const char32_t composed = compose(text[starter], character)) {
                text[starter] = composed;
                continue;
            }
        }
        if (current == 0) {
            starter = out;
            last_class = -1;
        } else {
            last_class = current;
        }
        text[out++] = character;
    }
    text.resize(out);
}

} // namespace

Kind kind_of(char32_t character) {
    return Kind(look_up(KINDS, KIND_COUNT, character));
}

Character first(std::string_view text) {
    const auto byte = [&](size_t index) { return char32_t(uint8_t(text[index])); };
    const char32_t lead = byte(0);
    if (lead < 0x80)
        return {lead, 1};
    if (lead < 0xE0)
        return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
    if (lead < 0xF0)
        return {(lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
    return {(lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F),
            4};
}

size_t sequence_size(uint8_t byte) {
    if (byte < 0x80)
        return 1;
    if (byte < 0xC2 || byte > 0xF4)
        return 0;
    return byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

bool is_valid(std::string_view text) {
    while (!text.empty()) {
        const size_t size = sequence_size(uint8_t(text[0]));
        if (size == 0 || size > text.size())
            return false;
        for (size_t i = 1; i < size; ++i)
            if ((uint8_t(text[i]) & 0xC0) != 0x80)
                return false;
        const char32_t code = first(text).code;
        const bool overlong = (size == 3 && code < 0x800) || (size == 4 && code < 0x10000);
        if (overlong || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF)
            return false;
        text.remove_prefix(size);
    }
    return true;
}

char *encode(char32_t character, char *out) {
    if (character < 0x80) {
        *out++ = char(character);
        return out;
    }
    const int more = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
    static constexpr uint8_t LEADS[] = {0, 0xC0, 0xE0, 0xF0};
    *out++ = char(LEADS[more] | character >> 6 * more);
    for (int i = more - 1; i >= 0; --i)
        *out++ = char(0x80 | (character >> 6 * i & 0x3F));
    return out;
}

void append(std::string &text, char32_t character) {
    char bytes[4];
    text.append(bytes, size_t(encode(character, bytes) - bytes));
}

std::string nfc(std::string_view text) {
    // Below U+0300 every text is in normal form: every byte is below 0xCC.
    if (std::all_of(text.begin(), text.end(), [](char c) { return uint8_t(c) < 0xCC; }))
        return std::string(text);
    std::u32string characters;
    for (std::string_view rest = text; !rest.empty();) {
        const Character next = first(rest);
        decompose(next.code, characters);
        rest.remove_prefix(next.size);
    }
    reorder(characters);
    recompose(characters);
    std::string out;
    for (const char32_t character : characters)
        append(out, character);
    return out;
}

} // namespace atom_edge::unicode
