// What every function of the C interface is wrapped in: no exception leaves it.
#pragma once

#include <cstdio>
#include <new>

#include "error.h"

namespace atom_edge {

// The result of `body`; or `failed`, with `error` saying why.
template <class Result, class Body>
Result guarded(atom_edge_error *error, Result failed, Body body) {
    const auto tell = [&](atom_edge_code code, const char *message) {
        if (error) {
            error->code = code;
            std::snprintf(error->message, sizeof error->message, "%s", message);
        }
        return failed;
    };
    try {
        Result result = body();
        tell(ATOM_EDGE_OK, "");
        return result;
    } catch (const Error &problem) {
        return tell(problem.code, problem.what());
    } catch (const std::bad_alloc &) {
        return tell(ATOM_EDGE_MEMORY, "There is no memory left");
    } catch (const std::exception &problem) {
        return tell(ATOM_EDGE_RUNTIME, problem.what());
    } catch (...) {
        return tell(ATOM_EDGE_RUNTIME, "The callback threw an exception");
    }
}

inline void require(bool given, const char *name) {
    if (!given)
        throw Error(ATOM_EDGE_ARGUMENT, std::string(name) + " is NULL");
}

} // namespace atom_edge
