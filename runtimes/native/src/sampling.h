// From logits to a token, exactly as `runtimes/sampling.py` does it: there is said why.
//
// Weights are integers and their sums exact, so the order in which they are added is free.
#pragma once

#include <math.h>

#include <algorithm>

#include "lanes.h"
#include "step.h"

namespace atom_edge {
namespace {

constexpr int32_t kMostWeight = 1 << 30;
constexpr int kBlock = 64;  // weights that are summed before one of them is looked for

// Logits `[count]` from `at` on; after the last, what is no weight at all.
ATOM_EDGE_INLINE Lanes load_logits(const float* logits, int at, int count) {
  if (at + kLanes <= count) return load(logits + at);
  float values[kLanes];
  for (int i = 0; i < kLanes; i++) values[i] = at + i < count ? logits[at + i] : -INFINITY;
  return load(values);
}

inline float largest_logit(const float* logits, int count) {
  Lanes found = load_logits(logits, 0, count);
  for (int i = kLanes; i < count; i += kLanes) found = larger(load_logits(logits, i, count), found);
  return largest(found);
}

// The first of the largest.
inline int likeliest(const float* logits, int count) {
  const float most = largest_logit(logits, count);
  for (int begin = 0; begin < count; begin += kBlock) {
    const int end = std::min(begin + kBlock, count);
    int matches = 0;
    for (int i = begin; i < end; i++) matches += logits[i] == most;
    for (int i = begin; matches && i < end; i++)
      if (logits[i] == most) return i;
  }
  return 0;  // not one is a number
}

// kMostWeight * 2^x for x up to 0: products are rounded before they are added.
ATOM_EDGE_INLINE Integers power_of_two(Floats x) {
  constexpr float kMost = static_cast<float>(kMostWeight);
  constexpr float kPower[] = {kMost * 1.0f,          kMost * 0.693147004f,   kMost * 0.240222424f,
                              kMost * 0.0555073358f, kMost * 0.00967151299f, kMost * 0.00132647285f};
  x = larger_part(x, broadcast_part(-40.0f));
  const Floats rounded = x + kRounder;
  const Floats fraction = x - (rounded - kRounder);
  Floats power = fraction * kPower[5];
  for (int i = 4; i > 0; i--) power = (power + kPower[i]) * fraction;
  power = power + kPower[0];
  return __builtin_convertvector((Floats)((Integers)power + ((Integers)rounded << 23)), Integers);
}

// Weights of logits `[count]`, 0 from there to the end of the block.
inline void weigh(const float* logits, int count, double temperature, int32_t* weights) {
  const Lanes most = broadcast(largest_logit(logits, count));
  const float sharpness = static_cast<float>(1.4426950408889634 / temperature);
  const int end = (count + kBlock - 1) / kBlock * kBlock;
  for (int i = 0; i < end; i += kLanes) {
    const Lanes scores = (load_logits(logits, i, count) - most) * sharpness;
    IntegerLanes result;
#define PART(name, part_number) result.part[part_number] = power_of_two(scores.name);
    ATOM_EDGE_PARTS(PART)
#undef PART
    memcpy(weights + i, &result, sizeof result);
  }
}

// The sum of a block's weights that are not below `least`.
ATOM_EDGE_INLINE int64_t block_sum(const int32_t* block, int32_t least) {
  int64_t sum = 0;
  for (int i = 0; i < kBlock; i++) sum += block[i] >= least ? block[i] : 0;
  return sum;
}

ATOM_EDGE_INLINE int32_t block_largest(const int32_t* block) {
  int32_t most = 0;
  for (int i = 0; i < kBlock; i++) most = std::max(most, block[i]);
  return most;
}

// Copies the weights that are not below `least`; returns how many they are.
inline int select(const int32_t* weights, int count, int32_t least, int32_t* to) {
  int selected = 0;
  for (int begin = 0; begin < count; begin += kBlock) {
    if (block_largest(weights + begin) < least) continue;
    const int end = std::min(begin + kBlock, count);
    for (int i = begin; i < end; i++) {
      to[selected] = weights[i];
      selected += weights[i] >= least;
    }
  }
  return selected;
}

// The largest value such that all that are not below it have a mass of `needed` together; the
// least of all if there is none. Reorders the values.
template <typename Mass>
inline int32_t least_needed(int32_t* values, int count, int64_t needed, const Mass& mass) {
  int32_t least = kMostWeight;
  while (count > 0) {
    const int32_t a = values[0], b = values[count / 2], c = values[count - 1];
    const int32_t pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
    int above = 0, equal = 0;
    int64_t mass_above = 0;
    for (int i = 0; i < count; i++) {
      const int32_t value = values[i];
      values[i] = values[above];
      values[above] = value;
      mass_above += value > pivot ? mass(value) : 0;
      above += value > pivot;
      equal += value == pivot;
    }
    if (mass_above >= needed) {
      count = above;
      continue;
    }
    least = pivot;
    needed -= mass_above + equal * mass(pivot);
    if (needed <= 0) break;
    int32_t* below = std::partition(values + above, values + count,
                                    [pivot](int32_t value) { return value == pivot; });
    count -= static_cast<int>(below - values);
    values = below;
  }
  return least;
}

// The share p, from 0 to 1, of a whole, rounded up.
inline int64_t share_of(int64_t whole, double p) {
  typedef unsigned __int128 Wide;
  const auto share = static_cast<uint64_t>(p * 9007199254740992.0);  // 2^53
  const Wide product = static_cast<Wide>(whole) * share + ((uint64_t{1} << 53) - 1);
  return static_cast<int64_t>(product >> 53);
}

inline int32_t least_of_top_k(const int32_t* weights, int count, int k, int32_t* memory) {
  // The k-th of the blocks' largest is not above the k-th of all.
  const int blocks = (count + kBlock - 1) / kBlock;
  int32_t least = 1;
  const auto one = [](int32_t) -> int64_t { return 1; };
  if (k <= blocks) {
    for (int i = 0; i < blocks; i++) memory[i] = block_largest(weights + i * kBlock);
    least = std::max(least, least_needed(memory, blocks, k, one));
  }
  const int selected = select(weights, count, least, memory);
  return selected < k ? 1 : least_needed(memory, selected, k, one);
}

inline int32_t least_of_nucleus(const int32_t* weights, int count, int32_t least, double p,
                                int32_t* memory) {
  int64_t whole = 0;
  for (int i = 0; i < count; i += kBlock) whole += block_sum(weights + i, least);
  // All below this hold less than 1 - p together.
  const auto bound = static_cast<int64_t>((1 - p) * static_cast<double>(whole) / count);
  if (bound > least) least = static_cast<int32_t>(bound);
  const int selected = select(weights, count, least, memory);
  const auto itself = [](int32_t weight) -> int64_t { return weight; };
  return least_needed(memory, selected, share_of(whole, p), itself);
}

// Source: SplitMix64, Steele, Lea and Flood, OOPSLA 2014.
inline uint64_t random_number(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// The token at the quantile `number` / 2^64 of those whose weight is not below `least`. Sums of
// blocks take the place of the memory.
inline int draw(const int32_t* weights, int count, int32_t least, uint64_t number,
                int64_t* sums) {
  const int blocks = (count + kBlock - 1) / kBlock;
  uint64_t whole = 0;
  for (int i = 0; i < blocks; i++) {
    sums[i] = block_sum(weights + i * kBlock, least);
    whole += sums[i];
  }
  auto left = static_cast<int64_t>(static_cast<unsigned __int128>(number) * whole >> 64);
  int block = 0;
  while (block + 1 < blocks && left >= sums[block]) left -= sums[block++];
  for (int i = block * kBlock; i < count; i++) {
    if (weights[i] < least) continue;
    if (left < weights[i]) return i;
    left -= weights[i];
  }
  return 0;  // not one is a number
}

inline int choose(const Choice& choice) {
  const Sampling& sampling = *choice.sampling;
  const int count = choice.vocabulary;
  if (sampling.temperature == 0) return likeliest(choice.logits, count);
  int32_t* const weights = choice.memory;
  int32_t* const memory = weights + (count + kBlock - 1) / kBlock * kBlock;
  weigh(choice.logits, count, sampling.temperature, weights);
  int32_t least = 1;
  if (sampling.top_k && sampling.top_k < count)
    least = least_of_top_k(weights, count, static_cast<int>(sampling.top_k), memory);
  if (sampling.top_p < 1)
    least = least_of_nucleus(weights, count, least, sampling.top_p, memory);
  if (sampling.min_p > 0)
    least = std::max(least, static_cast<int32_t>(share_of(kMostWeight, sampling.min_p)));
  const uint64_t number = random_number(choice.seed, choice.drawn);
  return draw(weights, count, least, number, reinterpret_cast<int64_t*>(memory));
}

}  // namespace
}  // namespace atom_edge
