// The tokenizer's part of the C interface: no exception leaves it.
#include <algorithm>

#include "api/guarded.h"
#include "text/tokenizer.h"

struct atom_edge_tokenizer {
    atom_edge::Tokenizer inner;
};

using atom_edge::guarded;
using atom_edge::require;

namespace {

constexpr uint64_t LARGEST_FILE = 256 << 20;

} // namespace

atom_edge_tokenizer *atom_edge_tokenizer_open(const char *path, atom_edge_error *error) {
    return guarded(error, static_cast<atom_edge_tokenizer *>(nullptr), [&] {
        require(path, "path");
        const atom_edge::json::Document file(atom_edge::json::read_file(path, LARGEST_FILE), path);
        return new atom_edge_tokenizer{atom_edge::Tokenizer(file.root())};
    });
}

void atom_edge_tokenizer_free(atom_edge_tokenizer *tokenizer) { delete tokenizer; }

size_t atom_edge_tokenizer_encode(const atom_edge_tokenizer *tokenizer, const char *text,
                                  size_t size, uint32_t *ids, size_t room,
                                  atom_edge_error *error) {
    return guarded(error, SIZE_MAX, [&] {
        require(tokenizer, "tokenizer");
        require(text || !size, "text");
        require(ids || !room, "ids");
        const auto found = tokenizer->inner.encode({text, size});
        std::copy_n(found.begin(), std::min(room, found.size()), ids);
        return found.size();
    });
}
