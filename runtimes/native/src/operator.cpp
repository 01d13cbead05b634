// The operator `Decoder` of the domain `atom_edge`: its outputs made, the step or the loop called.
// What the inputs and outputs are is written in `exporters/native.py`.
#include <string.h>

#include <memory>
#include <mutex>

#include "atom_edge.h"
#include "loop.h"
#include "request.h"

namespace atom_edge {
namespace {

using ort::Refused;

struct Memory {
  std::vector<char> bytes;
  LoopMemory loop;

  char* workspace(size_t size) {
    if (bytes.size() < size + 64) bytes.resize(size + 64);
    return bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64;
  }
};

// Memory for runs. Each run takes one; there are as many as runs at a time.
class Memories {
 public:
  std::unique_ptr<Memory> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return std::make_unique<Memory>();
    std::unique_ptr<Memory> memory = std::move(idle_.back());
    idle_.pop_back();
    return memory;
  }
  void give_back(std::unique_ptr<Memory> memory) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(memory));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Memory>> idle_;
};

class Kernel {
 public:
  Kernel(const ort::Api& api, const ort::KernelInfo* info)
      : api_(api), loaded_(api, info), set_(instruction_set()) {
    if (!set_) throw Refused("ATOM_EDGE_ISA names no instruction set of this processor");
  }

  void compute(ort::KernelContext* context) {
    const Model& model = loaded_.model;
    Request request(api_, context, model);
    const int64_t alternatives = request.alternatives;
    auto* logits = static_cast<float*>(
        api_.output(context, kLogits, {request.wanted, model.vocabulary}));
    float* cache = prepare_cache(context, request);
    const int64_t batch = request.batch, steps = request.steps;
    const int64_t top = alternatives > 0 ? alternatives : 0;
    const Results results = {
        static_cast<int64_t*>(api_.output(context, kTokens, {batch, steps})),
        static_cast<int64_t*>(api_.output(context, kTopTokens, {batch, steps, top})),
        static_cast<double*>(api_.output(context, kLogProbabilities,
                                         {batch, steps, alternatives < 0 ? 0 : 1 + top})),
    };

    Team team = {nullptr, nullptr};
    struct Threads {
      const ort::Api* api;
      ort::KernelContext* context;
    } threads = {&api_, context};
    team.context = &threads;
    team.run = [](void* data, void (*work)(void*, size_t), size_t count, void* argument) {
      const auto* threads = static_cast<const Threads*>(data);
      threads->api->parallel_for(threads->context, work, count, argument);
    };
    std::unique_ptr<Memory> memory = memories_.take();
    const auto count = static_cast<int64_t>(request.tokens.size());
    const Step step = {&model, request.tokens.data(), count, cache, logits,
                       memory->workspace(Workspace(model, count).total()), team};
    if (steps)
      Loop(*set_, step, request, memory->loop).run(results);
    else
      set_->run(step);
    memories_.give_back(std::move(memory));
  }

 private:
  float* prepare_cache(ort::KernelContext* context, const Request& request) const {
    void* cache = api_.output(context, kCacheOut, request.cache_shape);
    if (cache != request.cache) {
      size_t bytes = sizeof(float);
      for (int64_t size : request.cache_shape) bytes *= static_cast<size_t>(size);
      memcpy(cache, request.cache, bytes);
    }
    return static_cast<float*>(cache);
  }

  const ort::Api& api_;
  LoadedModel loaded_;
  const InstructionSet* set_;
  Memories memories_;
};

const ort::Api* api;

// Runs `work`; an exception becomes a status.
template <typename Work>
ort::Status* guarded(const Work& work) {
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    return api->make_status(ort::kInvalidArgument,
                            (std::string("atom_edge.Decoder: ") + error.what()).c_str());
  }
}

int input_type(const ort::CustomOp*, size_t index) {
  switch (index) {
    case kCache: return ort::kFloat;
    case kSampling: return ort::kDouble;
    case kEmbedding: case kHead: case kQkv: case kAttentionOutput: case kGateUp: case kDown:
      return ort::kInt8;
    case kEmbeddingScales: case kHeadScales: case kQkvScales: case kAttentionOutputScales:
    case kGateUpScales: case kDownScales:
      return ort::kBfloat16;
    default: return index < kEmbedding ? ort::kInt64 : ort::kFloat;
  }
}

ort::CustomOp describe() {
  ort::CustomOp op = {};
  op.version = ort::kVersion;
  op.name = [](const ort::CustomOp*) { return "Decoder"; };
  op.provider = [](const ort::CustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op.input_type = input_type;
  op.input_count = [](const ort::CustomOp*) -> size_t { return kInputs; };
  op.output_type = [](const ort::CustomOp*, size_t index) -> int {
    return index < kTokens ? ort::kFloat : index < kLogProbabilities ? ort::kInt64 : ort::kDouble;
  };
  op.output_count = [](const ort::CustomOp*) -> size_t { return kOutputs; };
  op.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.input_characteristic = [](const ort::CustomOp*, size_t) -> int { return ort::kRequired; };
  op.output_characteristic = op.input_characteristic;
  op.input_memory = [](const ort::CustomOp*, size_t) -> int { return 0; };
  op.variadic_input_minimum = [](const ort::CustomOp*) { return 1; };
  op.variadic_input_homogeneity = op.variadic_input_minimum;
  op.variadic_output_minimum = op.variadic_input_minimum;
  op.variadic_output_homogeneity = op.variadic_input_minimum;
  op.create_kernel_2 = [](const ort::CustomOp*, const void*, const ort::KernelInfo* info,
                          void** kernel) {
    return guarded([&] { *kernel = new Kernel(*api, info); });
  };
  op.compute_2 = [](void* kernel, ort::KernelContext* context) {
    return guarded([&] { static_cast<Kernel*>(kernel)->compute(context); });
  };
  return op;
}

}  // namespace
}  // namespace atom_edge

// What onnxruntime looks for in a library of operators.
extern "C" ATOM_EDGE_API atom_edge::ort::Status* RegisterCustomOps(
    atom_edge::ort::SessionOptions* options, const atom_edge::ort::ApiBase* base) {
  using namespace atom_edge;
  static const ort::Api version_16(base->get_api(ort::kVersion));
  static const ort::CustomOp op = describe();
  api = &version_16;
  return guarded([&] {
    static ort::Domain* const domain = [] {
      ort::Domain* made = api->make_domain("atom_edge");
      api->add(made, &op);
      return made;
    }();
    api->add(options, domain);
  });
}
