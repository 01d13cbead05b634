#define ATOM_EDGE_PLAIN
#include "decoder.h"
#include "sampling.h"

namespace atom_edge {
extern const InstructionSet kPlain = {"plain", run, choose};
}
