#include "decoder.h"
#include "sampling.h"

namespace atom_edge {
extern const InstructionSet kAvxVnni = {"avxvnni", run, choose};
}
