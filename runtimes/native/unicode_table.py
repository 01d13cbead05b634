"""Write `src/text/unicode_table.cpp`: what the C++ tokenizer knows of Unicode.

    python -m atom_edge.runtimes.native.unicode_table

The tables are those of the package `tokenizers`, asked one character at a time, because its ids
are what the C++ must repeat: kinds of characters from Oniguruma (Unicode 16.0 in tokenizers 0.22),
normal forms from a crate with an older Unicode. Python's `unicodedata` only proposes what to ask.
Takes a minute.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import Regex
from tokenizers.normalizers import NFC, NFD
from tokenizers.pre_tokenizers import Split

OUTPUT = Path(__file__).parent / "src" / "text" / "unicode_table.cpp"
KINDS = {r"\p{L}": 1, r"\p{N}": 2, r"\s": 3}
CHUNK = 4096
# The combining class of U+0345 is above that of every other character.
LAST_MARK = "\u0345"


def characters() -> Iterator[int]:
    """Every code point that UTF-8 can hold."""
    yield from range(0xD800)
    yield from range(0xE000, sys.maxunicode + 1)


def kinds() -> dict[int, int]:
    """The kind of each character that has one."""
    found = {}
    everything = list(characters())
    for pattern, kind in KINDS.items():
        split = Split(Regex(pattern), "removed")
        for start in range(0, len(everything), CHUNK):
            chunk = everything[start : start + CHUNK]
            kept: set[int] = set()
            for _, (first, end) in split.pre_tokenize_str("".join(map(chr, chunk))):
                kept.update(range(first, end))
            found.update({c: kind for index, c in enumerate(chunk) if index not in kept})
    return found


def combining_classes() -> dict[int, int]:
    """The combining class of each character that is reordered."""
    normalize = NFD().normalize_str
    found = {}
    for code in characters():
        mark = chr(code)
        moves = mark == LAST_MARK or normalize(LAST_MARK + mark) == mark + LAST_MARK
        if moves and normalize(mark) == mark:
            found[code] = unicodedata.combining(mark)
            if not found[code]:
                raise SystemExit(f"Python's unicodedata is too old to know U+{code:04X}.")
    return found


def decompositions() -> dict[int, tuple[int, int]]:
    """One step of each canonical decomposition, Hangul left out; 0 for no second character."""
    normalize = NFD().normalize_str
    found = {}
    for code in characters():
        hangul = 0xAC00 <= code <= 0xD7A3
        if hangul or normalize(chr(code)) == chr(code):
            continue
        parts = [int(part, 16) for part in unicodedata.decomposition(chr(code)).split()]
        assert normalize("".join(map(chr, parts))) == normalize(chr(code))
        first, second = (*parts, 0)[:2]
        found[code] = (first, second)
    return found


def ranges(values: dict[int, int]) -> list[int]:
    """The table of `look_up` in unicode.cpp."""
    table, last = [], 0
    for code in range(sys.maxunicode + 1):
        value = values.get(code, 0)
        if value != last:
            table.append(code << 8 | value)
            last = value
    return table


def array(declaration: str, values: Iterable[str]) -> str:
    """A C++ array of some values, filled into lines."""
    lines, line = [f"const {declaration}[] = {{"], "   "
    for value in values:
        if len(line) + len(value) + 2 > 100:
            lines.append(line)
            line = "   "
        line += f" {value},"
    return "\n".join([*lines, line, "};"])


def main() -> None:
    """Write the file."""
    kind_table, class_table = ranges(kinds()), ranges(combining_classes())
    pairs = sorted(decompositions().items())
    normalize = NFC().normalize_str
    recomposed = [
        (parts, index)
        for index, (code, parts) in enumerate(pairs)
        if parts[1] and normalize("".join(map(chr, parts))) == chr(code)
    ]
    triples = (f"{{{code:#x}, {first:#x}, {second:#x}}}" for code, (first, second) in pairs)
    indices = (str(index) for _, index in sorted(recomposed))
    OUTPUT.write_text(
        f"""\
// Written by unicode_table.py from tokenizers {tokenizers.__version__}: kinds of Unicode 16.0.
#include "text/unicode_table.h"

namespace atom_edge::unicode {{

{array("uint32_t KINDS", map(hex, kind_table))}
const size_t KIND_COUNT = {len(kind_table)};

{array("uint32_t COMBINING_CLASSES", map(hex, class_table))}
const size_t COMBINING_CLASS_COUNT = {len(class_table)};

{array("Pair DECOMPOSITIONS", triples)}
const size_t DECOMPOSITION_COUNT = {len(pairs)};

{array("uint16_t COMPOSITIONS", indices)}
const size_t COMPOSITION_COUNT = {len(recomposed)};

}} // namespace atom_edge::unicode
"""
    )


if __name__ == "__main__":
    main()
