#include "decoder.h"
#include "sampling.h"

namespace atom_edge {
extern const InstructionSet kAvx512Vnni = {"avx512vnni", run, choose};
}
