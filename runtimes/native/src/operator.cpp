// The operator `Decoder` of the domain `atom_edge`: its inputs judged, its outputs made, the step
// called. What the inputs and outputs are is written in `exporters/native.py`.
#include <string.h>

#include <memory>
#include <mutex>

#include "atom_edge.h"
#include "loader.h"
#include "step.h"

namespace atom_edge {
namespace {

using ort::Refused;

// Memory for runs. Each run takes one; there are as many as runs at a time.
class Memories {
 public:
  using Memory = std::vector<char>;

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

void require(bool condition, const char* otherwise) {
  if (!condition) throw Refused(otherwise);
}

// What a run is asked for, checked.
struct Request {
  int64_t batch = 0;
  std::vector<Token> tokens;
  int64_t wanted = 0;
  const void* cache = nullptr;
  std::vector<int64_t> cache_shape;
};

class Kernel {
 public:
  Kernel(const ort::Api& api, const ort::KernelInfo* info)
      : api_(api), loaded_(api, info), set_(instruction_set()) {
    require(set_, "ATOM_EDGE_ISA names no instruction set of this processor");
  }

  void compute(ort::KernelContext* context) {
    const Model& model = loaded_.model;
    const Request request = read(context);
    auto* logits = static_cast<float*>(
        api_.output(context, 0, {request.wanted, model.vocabulary}));
    float* cache = prepare_cache(context, request);

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
    std::unique_ptr<Memories::Memory> memory = memories_.take();
    const auto count = static_cast<int64_t>(request.tokens.size());
    const size_t bytes = Workspace(model, count).total() + 64;
    if (memory->size() < bytes) memory->resize(bytes);
    char* workspace = memory->data();
    workspace += (64 - reinterpret_cast<uintptr_t>(workspace) % 64) % 64;
    set_->run({&model, request.tokens.data(), count, cache, logits, workspace, team});
    memories_.give_back(std::move(memory));
  }

 private:
  Request read(ort::KernelContext* context) const {
    const ort::Tensor ids = api_.input(context, kInputIds);
    const ort::Tensor counts = api_.input(context, kCounts);
    const ort::Tensor past = api_.input(context, kPastLengths);
    const ort::Tensor rows = api_.input(context, kLogitRows);
    const ort::Tensor pages = api_.input(context, kPages);
    const ort::Tensor cache = api_.input(context, kCache);
    require(ids.shape.size() == 2, "input_ids is not [B, T]");
    const int64_t batch = ids.shape[0], width = ids.shape[1];
    require(batch > 0 && width > 0, "input_ids is empty");
    require(counts.shape == std::vector<int64_t>{batch}, "counts is not [B]");
    require(past.shape == std::vector<int64_t>{batch}, "past_lengths is not [B]");
    require(rows.shape.size() == 1, "logit_rows is not [N]");
    require(pages.shape.size() == 2 && pages.shape[0] == batch, "pages is not [B, M]");
    const Model& model = loaded_.model;
    require(cache.shape ==
                std::vector<int64_t>{cache.shape.empty() ? 0 : cache.shape[0], model.layers, 2,
                                     model.kv_heads, kPageTokens * model.head_size},
            "cache is not [P, layers, 2, kv_heads, 16 * head_size]");

    Request request;
    request.batch = batch;
    request.cache = cache.data;
    request.cache_shape = cache.shape;
    request.wanted = rows.shape[0];
    const int64_t* row = rows.as<int64_t>();
    const int64_t* row_end = row + request.wanted;
    for (int64_t b = 0; b < batch; b++) {
      const int64_t count = counts.as<int64_t>()[b], length = past.as<int64_t>()[b];
      require(count > 0 && count <= width, "counts is not from 1 to T");
      const int64_t* own_pages = pages.as<int64_t>() + b * pages.shape[1];
      check_pages(own_pages, pages.shape[1], length, count, cache.shape[0]);
      for (int64_t t = 0; t < count; t++) {
        const int64_t id = ids.as<int64_t>()[b * width + t];
        require(id >= 0 && id < model.vocabulary, "input_ids has an id outside the vocabulary");
        const bool wanted = row < row_end && *row == b * width + t;
        row += wanted;
        request.tokens.push_back({id, length + t, own_pages, wanted});
      }
    }
    require(row == row_end, "logit_rows does not ascend over new tokens, b * T + t");
    return request;
  }

  static void check_pages(const int64_t* pages, int64_t room, int64_t length, int64_t count,
                          int64_t cache_pages) {
    require(length >= 0 && length <= room * kPageTokens - count,
            "past_lengths and counts do not fit into pages");
    const int64_t used = (length + count + kPageTokens - 1) / kPageTokens;
    for (int64_t i = 0; i < used; i++)
      require(pages[i] >= 0 && pages[i] < cache_pages, "pages has a page that cache has not");
  }

  float* prepare_cache(ort::KernelContext* context, const Request& request) const {
    void* cache = api_.output(context, 1, request.cache_shape);
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
  op.output_type = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  op.output_count = [](const ort::CustomOp*) -> size_t { return 2; };
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
