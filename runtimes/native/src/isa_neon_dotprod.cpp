#include "decoder.h"
#include "sampling.h"

namespace atom_edge {
extern const InstructionSet kNeonDotprod = {"neon_dotprod", run, choose};
}
