// From logits to tokens on a GPU, exactly as `runtimes/sampling.py` does it: there is said why.
//
// A block of threads chooses for one sequence. Weights are integers and their sums exact, so the
// order in which threads add them is free; every product of float32 is rounded before it is added.
//
// VOCABULARY is defined by who compiles this. Whatever is true of one thread's way through the
// code is true of its whole block's: all meet at each barrier.

typedef long long Integer;
typedef unsigned long long Natural;

constexpr int kMost = 1 << 30;
constexpr int kThreadsAtMost = 256;
constexpr int kWarp = 32;
// Weights that fit into a block's own memory; those of a larger vocabulary lie in the device's.
constexpr int kHeld = VOCABULARY <= 8192 ? VOCABULARY : 0;
// Weights of one power of two that are searched by themselves.
constexpr int kFewAtMost = 1024;
constexpr int kNoToken = -1, kNotFinite = -2;
constexpr Natural kAll = 1ull << 53;

// One sequence that takes part; `cuda_choosing.py` has the same fields.
struct Sequence {
  Natural seed, drawn;
  Natural top_p;    // in units of 2^-53
  float sharpness;  // log2(e) / temperature; 0 for the likeliest token
  float penalty;
  int top_k;
  int least;  // the weight that min-p asks for
  int place;  // which sequence of the cache it is
  int room;   // tokens that it may still get
  int ended;
};

struct Sum {
  __device__ Natural operator()(Natural a, Natural b) const { return a + b; }
};

struct Larger {
  __device__ float operator()(float a, float b) const { return a > b ? a : b; }
};

struct Smaller {
  __device__ int operator()(int a, int b) const { return a < b ? a : b; }
};

// What a weight counts for.
struct One {
  __device__ Natural operator()(int) const { return 1; }
};

struct Itself {
  __device__ Natural operator()(int weight) const { return weight; }
};

// The values of all threads of the block, combined; every thread gets the result.
template <typename Value, typename Combine>
__device__ Value combine(Value value, Combine both) {
  __shared__ Value of_warp[kThreadsAtMost / kWarp];
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value = both(value, __shfl_xor_sync(0xffffffffu, value, distance));
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = of_warp[0];
  for (int warp = 1; warp < static_cast<int>(blockDim.x) / kWarp; warp++)
    value = both(value, of_warp[warp]);
  __syncthreads();
  return value;
}

// The logits of one sequence, those of seen tokens made less likely.
struct Logits {
  const float* values;
  const unsigned* seen;  // a bit for each token, or null
  float penalty;

  __device__ float at(int token) const {
    const float value = values[token];
    if (!seen || !(seen[token / 32] >> token % 32 & 1)) return value;
    return value > 0 ? __fdiv_rn(value, penalty) : __fmul_rn(value, penalty);
  }

  // Infinite if one is not a number.
  __device__ float largest() const {
    float most = -__int_as_float(0x7f800000);
    for (int i = threadIdx.x; i < VOCABULARY; i += blockDim.x) {
      const float value = at(i);
      most = Larger()(most, value == value ? value : __int_as_float(0x7f800000));
    }
    return combine(most, Larger());
  }

  __device__ int first(float wanted) const {
    int found = VOCABULARY;
    for (int i = threadIdx.x; i < VOCABULARY; i += blockDim.x)
      if (at(i) == wanted) found = Smaller()(found, i);
    return combine(found, Smaller());
  }
};

// kMost * 2^x for x up to 0.
__device__ int power_of_two(float x) {
  constexpr float kRounder = 12582912.0f, kScale = static_cast<float>(kMost);
  constexpr float kPower[] = {kScale * 1.0f,          kScale * 0.693147004f,
                              kScale * 0.240222424f,  kScale * 0.0555073358f,
                              kScale * 0.00967151299f, kScale * 0.00132647285f};
  x = x > -40.0f ? x : -40.0f;
  const float rounded = __fadd_rn(x, kRounder);
  const float fraction = __fsub_rn(x, __fsub_rn(rounded, kRounder));
  float power = __fmul_rn(fraction, kPower[5]);
  for (int i = 4; i > 0; i--) power = __fmul_rn(__fadd_rn(power, kPower[i]), fraction);
  power = __fadd_rn(power, kPower[0]);
  const unsigned exponent = static_cast<unsigned>(__float_as_int(rounded)) << 23;
  return static_cast<int>(__int_as_float(static_cast<int>(__float_as_int(power) + exponent)));
}

// Weights of one sequence, of which only those that are not below `least` count.
struct Weights {
  int* values;

  __device__ void fill(const Logits& logits, float most, float sharpness) {
    for (int i = threadIdx.x; i < VOCABULARY; i += blockDim.x)
      values[i] = power_of_two(__fmul_rn(__fsub_rn(logits.at(i), most), sharpness));
    __syncthreads();
  }

  // The largest `least` from `low` on that leaves so much, by `Measure`; `low` if none does.
  //
  // First its power of two, among all weights; then among the few of that power.
  template <typename Measure>
  __device__ int least_that_leaves(Natural needed, int low) const {
    __shared__ int few[kFewAtMost];
    __shared__ int found;
    const Measure measure;
    int power = -1, too_high = 31;
    while (too_high - power > 1) {
      const int middle = (power + too_high) / 2;
      const int least = 1 << middle;
      (sum<Measure>(values, VOCABULARY, least > low ? least : low) >= needed ? power : too_high) =
          middle;
    }
    if (power < 0) return low;
    if (power == 30) return kMost;
    int begin = 1 << power, end = begin << 1;
    if (begin < low) begin = low;
    if (threadIdx.x == 0) found = 0;
    __syncthreads();
    Natural above = 0;
    for (int i = threadIdx.x; i < VOCABULARY; i += blockDim.x) {
      const int value = values[i];
      if (value >= end) {
        above += measure(value);
      } else if (value >= begin) {
        const int place = atomicAdd(&found, 1);
        if (place < kFewAtMost) few[place] = value;
      }
    }
    above = combine(above, Sum());
    const bool fit = found <= kFewAtMost;
    const int* const some = fit ? few : values;
    const int count = fit ? found : VOCABULARY;
    const Natural left = fit ? needed - above : needed;
    while (end - begin > 1) {
      const int middle = begin + (end - begin) / 2;
      (sum<Measure>(some, count, middle) >= left ? begin : end) = middle;
    }
    __syncthreads();  // before the next search writes into the few
    return begin;
  }

  template <typename Measure>
  __device__ static Natural sum(const int* weights, int count, int least) {
    const Measure measure;
    Natural sum = 0;
    for (int i = threadIdx.x; i < count; i += blockDim.x)
      if (weights[i] >= least) sum += measure(weights[i]);
    return combine(sum, Sum());
  }

  __device__ int least_of_top_k(int k) const { return least_that_leaves<One>(k, 1); }

  // Of the weights from `least` on, those that hold a share of them together.
  __device__ int least_of_nucleus(int least, Natural share) const {
    const Natural whole = sum<Itself>(values, VOCABULARY, least);
    const Natural low_bits = whole * share, high_bits = __umul64hi(whole, share);
    // In 128 bits, rounded up: shifted by 53.
    const Natural needed = (high_bits << 11 | low_bits >> 53) + ((low_bits & (kAll - 1)) != 0);
    return least_that_leaves<Itself>(needed, least);
  }

  // The token at the quantile `number` / 2^64.
  __device__ int draw(int least, Natural number) const {
    __shared__ Natural sums[kThreadsAtMost];
    __shared__ int token;
    const int thread = threadIdx.x, threads = blockDim.x;
    const int each = (VOCABULARY + threads - 1) / threads;
    const int begin = thread * each;
    const int end = begin + each < VOCABULARY ? begin + each : VOCABULARY;
    Natural own = 0;
    for (int i = begin; i < end; i++) own += values[i] >= least ? values[i] : 0;
    Natural up_to = own;
    sums[thread] = own;
    __syncthreads();
    for (int distance = 1; distance < threads; distance *= 2) {
      const Natural before = thread >= distance ? sums[thread - distance] : 0;
      __syncthreads();
      sums[thread] = up_to += before;
      __syncthreads();
    }
    const Natural target = __umul64hi(number, sums[threads - 1]);
    if (target < up_to && target >= up_to - own) {
      Natural left = target - (up_to - own);
      for (int i = begin; i < end; i++) {
        if (values[i] < least) continue;
        token = i;
        if (left < static_cast<Natural>(values[i])) break;
        left -= values[i];
      }
    }
    __syncthreads();
    return token;
  }
};

// Source: SplitMix64, Steele, Lea and Flood, OOPSLA 2014.
__device__ Natural random_number(Natural seed, Natural index) {
  Natural z = seed + (index + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

__device__ int choose_one(const Sequence& sequence, const Logits& logits, int* weight_memory) {
  const float most = logits.largest();
  if (!(__fsub_rn(most, most) == 0)) return kNotFinite;
  if (sequence.sharpness == 0) return logits.first(most);
  Weights weights{weight_memory};
  weights.fill(logits, most, sequence.sharpness);
  int least = 1;
  if (sequence.top_k > 0 && sequence.top_k < VOCABULARY)
    least = weights.least_of_top_k(sequence.top_k);
  if (sequence.top_p < kAll) least = weights.least_of_nucleus(least, sequence.top_p);
  if (least < sequence.least) least = sequence.least;
  return weights.draw(least, random_number(sequence.seed, sequence.drawn));
}

// Chooses token number `step` of each sequence; a block for each.
//
//   sequences [N]; logits [B, VOCABULARY]
//   seen [N, words], a bit for each token, or null
//   end_ids [ends], the tokens that end a sequence
//   memory [N, VOCABULARY], or null where the weights fit into the block's
//   token_ids [B], lengths [B]: what the next step of the model feeds, and behind how many
//   chosen [N, steps]
extern "C" __global__ void choose(Sequence* sequences, const float* logits, unsigned* seen,
                                  const Integer* end_ids, int ends, int* memory,
                                  Integer* token_ids, int* lengths, Integer* chosen, int step,
                                  int steps) {
  __shared__ int held[kHeld ? kHeld : 1];
  const int row = blockIdx.x;
  constexpr int kWords = (VOCABULARY + 31) / 32;
  const Sequence sequence = sequences[row];
  Integer* const result = chosen + static_cast<Integer>(row) * steps + step;
  if (sequence.ended) {
    if (threadIdx.x == 0) *result = kNoToken;
    return;
  }
  unsigned* const own = seen ? seen + static_cast<Integer>(row) * kWords : nullptr;
  const Logits values{logits + static_cast<Integer>(sequence.place) * VOCABULARY,
                      sequence.penalty == 1 ? nullptr : own, sequence.penalty};
  int* const weights = kHeld ? held : memory + static_cast<Integer>(row) * VOCABULARY;
  const int token = choose_one(sequence, values, weights);
  if (threadIdx.x != 0) return;
  *result = token;
  bool ended = token == kNotFinite || sequence.room == 1;
  for (int i = 0; i < ends; i++) ended |= end_ids[i] == token;
  sequences[row].ended = ended;
  sequences[row].drawn = sequence.drawn + 1;
  sequences[row].room = sequence.room - 1;
  // The model has been fed the token that was chosen before.
  if (step > 0) lengths[sequence.place]++;
  if (token < 0) return;
  token_ids[sequence.place] = token;
  if (own) own[token / 32] |= 1u << token % 32;
}

// Marks the tokens `history` [N, length] as seen, as far as they are not -1; a block for each row.
extern "C" __global__ void remember(unsigned* seen, const Integer* history, int length) {
  constexpr int kWords = (VOCABULARY + 31) / 32;
  unsigned* const own = seen + static_cast<Integer>(blockIdx.x) * kWords;
  for (int i = threadIdx.x; i < kWords; i += blockDim.x) own[i] = 0;
  __syncthreads();
  const Integer* const tokens = history + static_cast<Integer>(blockIdx.x) * length;
  for (int i = threadIdx.x; i < length; i += blockDim.x)
    if (tokens[i] >= 0) atomicOr(own + tokens[i] / 32, 1u << tokens[i] % 32);
}

// Copies rows of so many words to those that `targets` names; a block for each.
extern "C" __global__ void move(unsigned* to, const unsigned* from, const int* targets,
                                int words) {
  unsigned* const target = to + static_cast<Integer>(targets[blockIdx.x]) * words;
  const unsigned* const source = from + static_cast<Integer>(blockIdx.x) * words;
  for (int i = threadIdx.x; i < words; i += blockDim.x) target[i] = source[i];
}
