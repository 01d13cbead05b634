// Errors within the library: thrown with a code, caught at the C interface.
#pragma once

#include <stdexcept>
#include <string>

#include "atom_edge.h"

namespace atom_edge {

class Error : public std::runtime_error {
  public:
    Error(atom_edge_code code, const std::string &message)
        : std::runtime_error(message), code(code) {}

    const atom_edge_code code;
};

} // namespace atom_edge
