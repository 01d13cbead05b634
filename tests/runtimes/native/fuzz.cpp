// Feeds the operator what no caller should: an onnxruntime of our own hands it models and inputs in
// memory that ends where their shapes end. Whatever comes in, it answers with outputs or an error.
//
//     fuzz SEED SECONDS
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "loader.h"

using atom_edge::ort::ApiBase;
using atom_edge::ort::CustomOp;
using Shape = std::vector<int64_t>;

extern "C" void* RegisterCustomOps(void* options, const ApiBase* base);

namespace {

namespace ort = atom_edge::ort;

constexpr float kNoNumber = std::numeric_limits<float>::quiet_NaN();

std::mt19937_64 random_bits;

int64_t below(int64_t limit) {
  return static_cast<int64_t>(random_bits() % static_cast<uint64_t>(limit));
}
bool one_in(int64_t n) { return below(n) == 0; }

template <typename T>
T& any_of(std::vector<T>& from) {
  return from[static_cast<size_t>(below(static_cast<int64_t>(from.size())))];
}
int64_t pick(std::vector<int64_t> from) { return any_of(from); }

int64_t odd_number() {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  return pick({-kMost - 1, -2, -1, 0, 1, 2, 3, 15, 16, 17, 100, 1 << 20, 1LL << 32, kMost});
}

struct Value {
  int type = ort::kFloat;
  Shape shape;
  std::unique_ptr<char[]> data;

  static size_t width(int type) {
    switch (type) {
      case ort::kInt8: return 1;
      case ort::kBfloat16: return 2;
      case ort::kFloat: return 4;
      default: return 8;
    }
  }
  size_t count() const {
    size_t count = 1;
    for (const int64_t size : shape) count *= static_cast<size_t>(size);
    return count;
  }
  void allocate() { data.reset(new char[count() * width(type)]()); }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data.get());
  }
};

Value floats(const Shape& shape, float scale) {
  Value value{ort::kFloat, shape, nullptr};
  value.allocate();
  std::normal_distribution<float> normal(0, scale);
  for (size_t i = 0; i < value.count(); i++) value.as<float>()[i] = normal(random_bits);
  return value;
}

Value integers(const Shape& shape, const std::vector<int64_t>& content) {
  Value value{ort::kInt64, shape, nullptr};
  value.allocate();
  std::copy(content.begin(), content.end(), value.as<int64_t>());
  return value;
}

struct Status {
  std::string text;
};

struct Info {
  std::map<std::string, int64_t> numbers;
  std::map<std::string, float> reals;
  Shape rotated;
  std::vector<Value> inputs;
};

struct Context {
  std::vector<Value>* inputs;
  std::vector<Value> outputs;
  bool share_cache = false;
};

// The functions of onnxruntime's table that the operator calls, by their places.
const CustomOp* op;
void* table[300];

template <typename Function>
void place(size_t at, Function* function) {
  table[at] = reinterpret_cast<void*>(function);
}

template <typename T>
Status* found(const std::map<std::string, T>& in, const char* name, T* value) {
  const auto entry = in.find(name);
  if (entry == in.end()) return new Status{std::string("no attribute ") + name};
  *value = entry->second;
  return nullptr;
}

void fill_table() {
  place(0, +[](int, const char* text) { return new Status{text}; });
  place(2, +[](const Status* status) { return status->text.c_str(); });
  place(93, +[](Status* status) { delete status; });
  place(26, +[](const char*, void** domain) -> Status* {
    *domain = table;
    return nullptr;
  });
  place(27, +[](void*, const CustomOp* given) -> Status* {
    op = given;
    return nullptr;
  });
  place(28, +[](void*, void*) -> Status* { return nullptr; });
  place(51, +[](const Value* value, void** data) -> Status* {
    *data = value->data.get();
    return nullptr;
  });
  place(65, +[](const Value* value, const Value** shape) -> Status* {
    *shape = value;
    return nullptr;
  });
  place(99, +[](const Value*) {});
  place(60, +[](const Value* value, int* type) -> Status* {
    *type = value->type;
    return nullptr;
  });
  place(61, +[](const Value* value, size_t* rank) -> Status* {
    *rank = value->shape.size();
    return nullptr;
  });
  place(62, +[](const Value* value, int64_t* sizes, size_t rank) -> Status* {
    std::copy_n(value->shape.begin(), rank, sizes);
    return nullptr;
  });
  place(85, +[](const Info* info, const char* name, float* value) {
    return found(info->reals, name, value);
  });
  place(86, +[](const Info* info, const char* name, int64_t* value) {
    return found(info->numbers, name, value);
  });
  place(163, +[](const Info* info, const char*, int64_t* values, size_t* size) -> Status* {
    if (values) std::copy_n(info->rotated.begin(), *size, values);
    *size = info->rotated.size();
    return nullptr;
  });
  place(249, +[](const Info* info, size_t index, int* constant, const Value** value) -> Status* {
    *value = &info->inputs[index];
    *constant = (*value)->data != nullptr;
    return nullptr;
  });
  place(90, +[](Context* context, size_t index, const Value** value) -> Status* {
    *value = &(*context->inputs)[index];
    return nullptr;
  });
  place(91, +[](Context* context, size_t index, const int64_t* sizes, size_t rank,
                Value** value) -> Status* {
    Value& output = context->outputs[index];
    const int types[] = {ort::kFloat, ort::kFloat, ort::kInt64, ort::kInt64, ort::kDouble};
    output.type = types[index];
    output.shape.assign(sizes, sizes + rank);
    if (output.count() > 1 << 24) return new Status{"no memory"};
    if (index == atom_edge::kCacheOut && context->share_cache) {
      *value = &(*context->inputs)[atom_edge::kCache];
      return nullptr;
    }
    output.allocate();
    *value = &output;
    return nullptr;
  });
  place(274, +[](Context*, void (*work)(void*, size_t), size_t count, size_t,
                 void* data) -> Status* {
    for (size_t i = count; i > 0; i--) work(data, i - 1);
    return nullptr;
  });
}

int64_t padded(int64_t width) { return (width + 15) / 16 * 16; }

// A model that is right, of random sizes and options.
Info good_model() {
  Info info;
  auto& n = info.numbers;
  const int64_t layers = n["layers"] = 1 + below(2), kv_heads = n["kv_heads"] = 1 + below(2);
  const int64_t heads = n["heads"] = kv_heads * (1 + below(4));
  const int64_t head_size = n["head_size"] = 1 + below(40), hidden = n["hidden"] = 1 + below(70);
  const int64_t feed_forward = n["feed_forward"] = 1 + below(70);
  const int64_t vocabulary = n["vocabulary"] = 1 + below(150);
  const int64_t pairs = n["rotary_pairs"] = below(head_size / 2 + 1);
  n["exclusive"] = below(2);
  const int64_t segment = n["segment"] = pick({0, 16, 32, 96, 256});
  n["activation_bits"] = segment && one_in(2) ? 16 : 8;
  n["activation_by_row"] = below(2);
  for (const char* name : {"epsilon", "rotary_scale", "attention_scale", "embedding_scale",
                           "residual_scale", "logit_scale"})
    info.reals[name] = one_in(2) ? 1 : 0.3f;
  for (int64_t i = 0; i < layers; i++) info.rotated.push_back(below(2));

  info.inputs.resize(atom_edge::kInputs);
  const auto matrix = [&](int input, int64_t count, int64_t outputs, int64_t inputs,
                          bool has_bias) {
    const int64_t segments = segment ? (inputs + segment - 1) / segment : 1;
    Value weights{ort::kInt8, {count, outputs / 16, inputs / 4, 16, 4}, nullptr};
    weights.allocate();
    for (size_t i = 0; i < weights.count(); i++) weights.data[i] = static_cast<char>(random_bits());
    Value scales{ort::kBfloat16, {count, outputs / 16, segments, 16}, nullptr};
    scales.allocate();
    const uint16_t scale = one_in(8) ? static_cast<uint16_t>(random_bits()) : 0x3c00;  // or 1 / 128
    std::fill_n(scales.as<uint16_t>(), scales.count(), scale);
    info.inputs[static_cast<size_t>(input)] = std::move(weights);
    info.inputs[static_cast<size_t>(input) + 1] = std::move(scales);
    if (has_bias)
      info.inputs[static_cast<size_t>(input) + 2] =
          floats(one_in(2) ? Shape{0} : Shape{count, outputs}, 1);
  };
  const int64_t width = padded(hidden), size = padded(head_size), wide = padded(feed_forward);
  const int64_t query = heads * size;
  matrix(atom_edge::kEmbedding, 1, padded(vocabulary), width, false);
  matrix(atom_edge::kHead, 1, padded(vocabulary), width, true);
  info.inputs[atom_edge::kFinalNorm] = floats({width}, 1);
  info.inputs[atom_edge::kAttentionNorm] = floats({layers, width}, 1);
  matrix(atom_edge::kQkv, layers, query + 2 * kv_heads * size, width, true);
  info.inputs[atom_edge::kQueryNorm] = floats(one_in(2) ? Shape{0} : Shape{layers, size}, 1);
  info.inputs[atom_edge::kKeyNorm] = floats(one_in(2) ? Shape{0} : Shape{layers, size}, 1);
  matrix(atom_edge::kAttentionOutput, layers, width, query, true);
  info.inputs[atom_edge::kFeedForwardNorm] = floats({layers, width}, 1);
  matrix(atom_edge::kGateUp, layers, 2 * wide, width, true);
  matrix(atom_edge::kDown, layers, width, wide, true);
  Value frequencies = floats({pairs}, 1);
  for (size_t i = 0; i < frequencies.count(); i++)
    frequencies.as<float>()[i] = 1 / (1.0f + static_cast<float>(i));
  info.inputs[atom_edge::kInverseFrequencies] = std::move(frequencies);
  return info;
}

// Another shape, with memory of that shape.
void reshape(Value& value) {
  if (value.shape.empty() || one_in(6)) {
    value.shape.push_back(below(3));
  } else if (one_in(4)) {
    value.shape.pop_back();
  } else {
    int64_t& size = any_of(value.shape);
    size = one_in(2) ? below(20) : size > 0 ? size - 1 : 1;
  }
  if (value.count() > 1 << 20) value.shape = {0};
  value.allocate();
}

void spoil_model(Info& info) {
  if (one_in(2)) {
    auto entry = info.numbers.begin();
    std::advance(entry, below(static_cast<int64_t>(info.numbers.size())));
    entry->second = one_in(2) ? odd_number() : entry->second + below(3) - 1;
  } else if (one_in(8)) {
    info.rotated.push_back(1);
  } else if (one_in(8)) {
    auto entry = info.reals.begin();
    std::advance(entry, below(static_cast<int64_t>(info.reals.size())));
    entry->second = one_in(2) ? kNoNumber : std::numeric_limits<float>::infinity();
  } else {
    const int64_t first = atom_edge::kEmbedding;
    Value& value = info.inputs[static_cast<size_t>(first + below(atom_edge::kInputs - first))];
    switch (below(4)) {
      case 0: value.data.reset(); break;
      case 1:
        value.type = static_cast<int>(pick({ort::kFloat, ort::kInt8, ort::kBfloat16, ort::kInt64}));
        value.allocate();
        break;
      case 2:
        for (size_t i = 0; i < value.count() * Value::width(value.type); i++)
          value.data[i] = static_cast<char>(random_bits());
        break;
      default: reshape(value);
    }
  }
}

// Inputs of a run that are right for a model that was right.
std::vector<Value> good_inputs(const Info& info) {
  const auto number = [&](const char* name) {
    return std::min<int64_t>(std::max<int64_t>(info.numbers.at(name), 1), 200);
  };
  const int64_t vocabulary = number("vocabulary"), batch = 1 + below(4), tokens = 1 + below(20);
  const int64_t pages = 1 + below(4), steps = one_in(2) ? 0 : 1 + below(5);
  std::vector<int64_t> ids, counts, past, rows, table_of_pages, seeds, history;
  for (int64_t b = 0; b < batch; b++) {
    const int64_t count = 1 + below(std::min<int64_t>(tokens, pages * 16 - 5));
    counts.push_back(count);
    past.push_back(below(pages * 16 - count - steps + 1));
    for (int64_t t = 0; t < tokens; t++) {
      ids.push_back(below(vocabulary));
      if (t < count && one_in(3)) rows.push_back(b * tokens + t);
    }
    for (int64_t i = 0; i < pages; i++) table_of_pages.push_back(b * pages + i);
    seeds.push_back(static_cast<int64_t>(random_bits()));
    seeds.push_back(below(100));
    for (int64_t i = 0; i < 3; i++) history.push_back(below(vocabulary + 1) - 1);
  }
  std::vector<Value> inputs(atom_edge::kEmbedding);
  inputs[atom_edge::kInputIds] = integers({batch, tokens}, ids);
  inputs[atom_edge::kCounts] = integers({batch}, counts);
  inputs[atom_edge::kPastLengths] = integers({batch}, past);
  inputs[atom_edge::kLogitRows] = integers({static_cast<int64_t>(rows.size())}, rows);
  inputs[atom_edge::kPages] = integers({batch, pages}, table_of_pages);
  const int64_t page = 16 * padded(number("head_size"));
  inputs[atom_edge::kCache] =
      floats({batch * pages, number("layers"), 2, number("kv_heads"), page}, 1);
  inputs[atom_edge::kSteps] = integers({1}, {steps});
  inputs[atom_edge::kEndIds] = integers({2}, {below(vocabulary), odd_number()});
  Value sampling{ort::kDouble, {batch, 5}, nullptr};
  sampling.allocate();
  for (int64_t b = 0; b < batch; b++) {
    const double row[] = {one_in(3) ? 0 : 0.8, static_cast<double>(below(60)),
                          one_in(2) ? 1 : 0.9, one_in(2) ? 0 : 0.1, one_in(2) ? 1 : 1.3};
    std::copy_n(row, 5, sampling.as<double>() + 5 * b);
  }
  inputs[atom_edge::kSampling] = std::move(sampling);
  inputs[atom_edge::kSeeds] = integers({batch, 2}, seeds);
  inputs[atom_edge::kHistory] = integers({batch, 3}, history);
  inputs[atom_edge::kAlternatives] = integers({1}, {std::min<int64_t>(below(5) - 1, vocabulary)});
  return inputs;
}

void spoil_inputs(std::vector<Value>& inputs) {
  Value& value = any_of(inputs);
  const auto count = static_cast<int64_t>(value.count());
  if (one_in(2) || count == 0) return reshape(value);
  const int64_t at = below(count);
  const int64_t odd = odd_number();
  if (value.type == ort::kInt64) {
    int64_t& number = value.as<int64_t>()[at];
    number = one_in(2) || number < 0 ? odd : number / 2 + below(5) - 2;
  } else if (value.type == ort::kFloat) {
    value.as<float>()[at] = kNoNumber;
  } else {
    value.as<double>()[at] = one_in(2) ? kNoNumber : static_cast<double>(odd);
  }
}

// Whether there was an error, which must say something.
bool refused(void* answer) {
  if (!answer) return false;
  const std::unique_ptr<Status> status(static_cast<Status*>(answer));
  if (status->text.rfind("atom_edge.Decoder: ", 0) != 0) abort();
  return true;
}

}  // namespace

int main(int, char** arguments) {
  random_bits.seed(strtoull(arguments[1], nullptr, 10));
  const std::chrono::duration<double> budget(atof(arguments[2]));
  fill_table();
  const ApiBase base = {[](uint32_t) -> const void* { return table; }, nullptr};
  RegisterCustomOps(nullptr, &base);
  long models = 0, bad_models = 0, runs = 0, bad_runs = 0, spoiled = 0;
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < budget) {
    Info info = good_model();
    const bool model_spoiled = one_in(2);
    if (model_spoiled) spoil_model(info);
    void* kernel = nullptr;
    models++;
    const auto* given = reinterpret_cast<const ort::KernelInfo*>(&info);
    if (refused(op->create_kernel_2(op, table, given, &kernel))) {
      bad_models++;
      if (!model_spoiled) abort();
      continue;
    }
    for (int i = 0; i < 8; i++) {
      std::vector<Value> inputs = good_inputs(info);
      const bool run_spoiled = one_in(2);
      if (run_spoiled) spoil_inputs(inputs);
      spoiled += run_spoiled;
      Context context{&inputs, std::vector<Value>(atom_edge::kOutputs), one_in(2)};
      runs++;
      if (refused(op->compute_2(kernel, reinterpret_cast<ort::KernelContext*>(&context)))) {
        bad_runs++;
        if (!run_spoiled && !model_spoiled) abort();
      }
    }
    op->destroy(kernel);
  }
  printf("%ld models, %ld refused; %ld runs, %ld spoiled, %ld refused\n", models, bad_models, runs,
         spoiled, bad_runs);
}
