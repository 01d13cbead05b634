#include "decoder.h"
#include "sampling.h"

namespace atom_edge {
extern const InstructionSet kAvx2 = {"avx2", run, choose};
}
