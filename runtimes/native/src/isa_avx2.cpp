#include "decoder.h"

namespace atom_edge {
extern const InstructionSet kAvx2 = {"avx2", run};
}
