#include "decoder.h"

namespace atom_edge {
extern const InstructionSet kNeon = {"neon", run};
}
