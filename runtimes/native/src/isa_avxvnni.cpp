#include "decoder.h"

namespace atom_edge {
extern const InstructionSet kAvxVnni = {"avxvnni", run};
}
