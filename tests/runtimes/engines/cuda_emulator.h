// CUDA's kernels on the CPU: the threads of a block take turns from one barrier to the next.
#pragma once

#include <ucontext.h>

#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "cuda_intrinsics.h"

static Index threadIdx, blockIdx, blockDim;

class Block {
 public:
  Block(unsigned threads, std::function<void()> kernel)
      : fibers_(threads), stacks_(threads, std::vector<char>(64 << 10)), kernel_(std::move(kernel)) {
    running() = this;
    for (unsigned i = 0; i < threads; i++) {
      getcontext(&fibers_[i]);
      fibers_[i].uc_stack.ss_sp = stacks_[i].data();
      fibers_[i].uc_stack.ss_size = stacks_[i].size();
      fibers_[i].uc_link = nullptr;
      makecontext(&fibers_[i], &Block::enter, 0);
    }
  }

  // Whether all threads came to the same barriers.
  bool run() {
    for (bool first = true; ended_ < fibers_.size(); first = false) {
      if (!first && ended_) return false;
      for (unsigned i = 0; i < fibers_.size(); i++) {
        threadIdx.x = i;
        swapcontext(&scheduler_, &fibers_[i]);
      }
    }
    return true;
  }

  static Block*& running() {
    static Block* block;
    return block;
  }

  void wait() { swapcontext(&fibers_[threadIdx.x], &scheduler_); }

  long long slots[1024];

 private:
  static void enter() {
    Block* block = running();
    block->kernel_();
    block->ended_++;
    block->wait();
  }

  std::vector<ucontext_t> fibers_;
  std::vector<std::vector<char>> stacks_;
  std::function<void()> kernel_;
  ucontext_t scheduler_;
  unsigned ended_ = 0;
};

inline void __syncthreads() { Block::running()->wait(); }

template <typename Value>
Value __shfl_xor_sync(unsigned, Value value, int distance) {
  memcpy(&Block::running()->slots[threadIdx.x], &value, sizeof value);
  __syncthreads();
  memcpy(&value, &Block::running()->slots[threadIdx.x ^ distance], sizeof value);
  __syncthreads();
  return value;
}

// A kernel over its arguments as the driver's interface takes them: an address of each.
template <typename... Arguments, size_t... Numbers>
bool launch(void (*kernel)(Arguments...), unsigned blocks, unsigned threads, void** arguments,
            std::index_sequence<Numbers...>) {
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
    Block block(threads, [&] { kernel(*static_cast<Arguments*>(arguments[Numbers])...); });
    if (!block.run()) return false;
  }
  return true;
}

template <typename... Arguments>
bool launch(void (*kernel)(Arguments...), unsigned blocks, unsigned threads, void** arguments) {
  return launch(kernel, blocks, threads, arguments, std::index_sequence_for<Arguments...>());
}
