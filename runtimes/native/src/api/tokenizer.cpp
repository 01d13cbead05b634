// The tokenizer's part of the C interface: no exception leaves it.
#include <algorithm>
#include <cstdio>
#include <new>

#include "error.h"
#include "text/tokenizer.h"

struct atom_edge_tokenizer {
    atom_edge::Tokenizer inner;
};

namespace {

constexpr uint64_t LARGEST_FILE = 256 << 20;

template <class Result, class Body>
Result guarded(atom_edge_error *error, Result failed, Body body) {
    atom_edge_code code = ATOM_EDGE_OK;
    const auto tell = [&](atom_edge_code what, const char *message) {
        code = what;
        if (error)
            std::snprintf(error->message, sizeof error->message, "%s", message);
    };
    Result result = failed;
    tell(ATOM_EDGE_OK, "");
    try {
        result = body();
    } catch (const atom_edge::Error &problem) {
        tell(problem.code, problem.what());
    } catch (const std::bad_alloc &) {
        tell(ATOM_EDGE_MEMORY, "There is no memory left");
    } catch (const std::exception &problem) {
        tell(ATOM_EDGE_BUNDLE, problem.what());
    }
    if (error)
        error->code = code;
    return result;
}

void require(bool given, const char *name) {
    if (!given)
        throw atom_edge::Error(ATOM_EDGE_ARGUMENT, std::string(name) + " is NULL");
}

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
