#include "atom_edge.h"

const char *atom_edge_version(void) { return "0.1.0"; }
