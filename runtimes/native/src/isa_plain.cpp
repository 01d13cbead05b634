#define ATOM_EDGE_PLAIN
#include "decoder.h"

namespace atom_edge {
extern const InstructionSet kPlain = {"plain", run};
}
