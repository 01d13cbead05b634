#include "decoder.h"
#include "sampling.h"

namespace atom_edge {
extern const InstructionSet kNeon = {"neon", run, choose};
}
