// Tables of Unicode. `python -m atom_edge.runtimes.native.unicode_table` writes their contents.
#pragma once

#include <cstddef>
#include <cstdint>

namespace atom_edge::unicode {

// Sorted by character: the first one of a range << 8 | what holds up to the next range.
extern const uint32_t KINDS[], COMBINING_CLASSES[];
extern const size_t KIND_COUNT, COMBINING_CLASS_COUNT;

// A canonical decomposition; the second character is 0 where a single one takes its place.
struct Pair {
    char32_t composed, first, second;
};

extern const Pair DECOMPOSITIONS[]; // sorted by what is composed
extern const size_t DECOMPOSITION_COUNT;

// Indices of those decompositions that are composed again, sorted by both characters.
extern const uint16_t COMPOSITIONS[];
extern const size_t COMPOSITION_COUNT;

} // namespace atom_edge::unicode
