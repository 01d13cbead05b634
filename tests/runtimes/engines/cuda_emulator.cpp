// The kernels of `choose.cu` for the CPU.
#include "cuda_emulator.h"
// clang-format off
#include KERNELS
// clang-format on

extern "C" int launch(const char* name, unsigned blocks, unsigned threads, void** arguments) {
  if (!strcmp(name, "choose")) return launch(choose, blocks, threads, arguments);
  if (!strcmp(name, "remember")) return launch(remember, blocks, threads, arguments);
  if (!strcmp(name, "move")) return launch(move, blocks, threads, arguments);
  return false;
}
