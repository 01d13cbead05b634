// The kernels of `choose.cu` by threads that run at once, for a sanitizer to watch.
#include <barrier>
#include <cstdio>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "cuda_intrinsics.h"

static thread_local Index threadIdx;
static Index blockIdx, blockDim{32};
static std::barrier<> barrier(32);
static long long slots[32];

inline void __syncthreads() { barrier.arrive_and_wait(); }

template <typename Value>
Value __shfl_xor_sync(unsigned, Value value, int distance) {
  memcpy(&slots[threadIdx.x], &value, sizeof value);
  __syncthreads();
  memcpy(&value, &slots[threadIdx.x ^ distance], sizeof value);
  __syncthreads();
  return value;
}

#include KERNELS

static void run(int blocks, const std::function<void()>& kernel) {
  for (blockIdx.x = 0; blockIdx.x < static_cast<unsigned>(blocks); blockIdx.x++) {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < blockDim.x; i++) {
      threads.emplace_back([&kernel, i] {
        threadIdx.x = i;
        kernel();
      });
    }
  }
}

int main() {
  constexpr int kRows = 6, kSteps = 2, kSeen = 40, kWords = (VOCABULARY + 31) / 32;
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> logits(kRows * VOCABULARY);
  for (float& logit : logits) logit = normal(random);
  std::vector<Sequence> sequences(kRows);
  for (int i = 0; i < kRows; i++) {
    Sequence& sequence = sequences[i];
    sequence.seed = i;
    sequence.top_p = i % 2 ? kAll / 10 * 9 : kAll;
    sequence.sharpness = i == 5 ? 0 : i == 4 ? 0.01f : 1.2f;
    sequence.penalty = i == 3 ? 1.3f : 1;
    sequence.top_k = i % 3 ? 40 : 0;
    sequence.least = i == 2 ? kMost / 1024 : 0;
    sequence.place = i;
    sequence.room = 9;
  }
  std::vector<unsigned> seen(kRows * kWords);
  std::vector<Integer> history(kRows * kSeen), ends{5}, tokens(kRows), chosen(kRows * kSteps);
  for (Integer& token : history) token = random() % 64;
  std::vector<int> lengths(kRows), memory(kRows * VOCABULARY);
  run(kRows, [&] { remember(seen.data(), history.data(), kSeen); });
  for (int step = 0; step < kSteps; step++) {
    run(kRows, [&] {
      choose(sequences.data(), logits.data(), seen.data(), ends.data(), 1, memory.data(),
             tokens.data(), lengths.data(), chosen.data(), step, kSteps);
    });
  }
  for (const Integer token : chosen) printf("%lld\n", token);
}
