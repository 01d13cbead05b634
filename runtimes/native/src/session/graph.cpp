// onnxruntime's C interface is a table of functions that only ever grows, so a function is known by
// its place; see ort.h. Places and types here are those of version 16 as well.
#include "session/graph.h"

#include <numeric>

#include "error.h"
#include "ort.h"

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

extern "C" atom_edge::ort::Status *RegisterCustomOps(atom_edge::ort::SessionOptions *options,
                                                     const atom_edge::ort::ApiBase *base);

namespace atom_edge::session {

namespace {

struct Environment;
struct MemoryInfo;
struct Session;
struct TypeInfo;
struct Allocator;

constexpr int FATAL = 4;            // log only what ends the process
constexpr int DEVICE_ALLOCATOR = 0, DEFAULT_MEMORY = 0;

[[noreturn]] void fail(const std::string &what) { throw Error(ATOM_EDGE_RUNTIME, what); }

// It is never unloaded: its threads and what it keeps at exit would be left without their code.
void *find_symbol(const std::string &library, const char *symbol) {
#if defined(_WIN32)
    const HMODULE handle = LoadLibraryA(library.c_str());
    if (!handle)
        fail("onnxruntime cannot be loaded from " + library);
    return reinterpret_cast<void *>(GetProcAddress(handle, symbol));
#else
    void *handle = dlopen(library.c_str(), RTLD_LAZY | RTLD_LOCAL);
    if (!handle)
        fail(std::string("onnxruntime cannot be loaded: ") + dlerror());
    return dlsym(handle, symbol);
#endif
}

const ort::ApiBase *load(const std::string &library) {
    using GetApiBase = const ort::ApiBase *();
    auto *get = reinterpret_cast<GetApiBase *>(find_symbol(library, "OrtGetApiBase"));
    if (!get)
        fail(library + " is not onnxruntime: it has no OrtGetApiBase");
    const ort::ApiBase *base = get();
    if (!base->get_api(ort::kVersion))
        fail(library + " is onnxruntime " + base->version() + "; 1.16 or later is needed");
    return base;
}

class Api {
  public:
    explicit Api(const ort::ApiBase *base)
        : table_(static_cast<void *const *>(base->get_api(ort::kVersion))) {}

    template <class... Parameters, class... Arguments>
    void call(size_t place, Arguments... arguments) const {
        check(function<ort::Status *(Parameters...)>(place)(arguments...));
    }
    void release(size_t place, void *object) const { function<void(void *)>(place)(object); }

    void check(ort::Status *status) const {
        if (!status)
            return;
        const std::string text = function<const char *(const ort::Status *)>(2)(status);
        release(93, status);
        fail("onnxruntime: " + text);
    }

  private:
    template <class Signature> Signature *function(size_t place) const {
        return reinterpret_cast<Signature *>(table_[place]);
    }

    void *const *table_;
};

// An object of onnxruntime's, released by the function at a place of the table.
template <class T, size_t PLACE> class Owned {
  public:
    explicit Owned(const Api &api) : api_(api) {}
    ~Owned() {
        if (object_)
            api_.release(PLACE, object_);
    }
    Owned(const Owned &) = delete;
    Owned &operator=(const Owned &) = delete;

    T **place() { return &object_; }
    T *get() const { return object_; }

  private:
    const Api &api_;
    T *object_ = nullptr;
};

using OwnedValue = Owned<ort::Value, 96>;

size_t size_of(Element type) { return type == Element::f32 ? 4 : 8; }

} // namespace

struct Runtime::Parts {
    explicit Parts(const ort::ApiBase *base)
        : base(base), api(base), environment(api), memory(api) {
        api.call<int, const char *, Environment **>(3, FATAL, "atom-edge", environment.place());
        api.call<const Environment *>(6, environment.get()); // DisableTelemetryEvents
        api.call<int, int, MemoryInfo **>(69, DEVICE_ALLOCATOR, DEFAULT_MEMORY, memory.place());
    }

    const ort::ApiBase *base;
    const Api api;
    Owned<Environment, 92> environment;
    Owned<MemoryInfo, 94> memory;
};

struct Graph::Parts {
    explicit Parts(const Runtime::Parts &runtime)
        : runtime(runtime), api(runtime.api), session(api) {}

    void open(std::string_view model, int threads, bool spin) {
        Owned<ort::SessionOptions, 100> options(api);
        api.call<ort::SessionOptions **>(10, options.place());
        api.call<ort::SessionOptions *, int>(24, options.get(), threads);
        api.call<ort::SessionOptions *>(17, options.get()); // DisableMemPattern
        api.call<ort::SessionOptions *>(19, options.get()); // DisableCpuMemArena
        api.call<ort::SessionOptions *, const char *, const char *>(
            130, options.get(), "session.intra_op.allow_spinning", spin ? "1" : "0");
        api.check(RegisterCustomOps(options.get(), runtime.base));
        api.call<const Environment *, const void *, size_t, const ort::SessionOptions *, Session **>(
            8, runtime.environment.get(), model.data(), model.size(), options.get(), session.place());
    }

    // `COUNT`, `NAME` and `TYPE`: places of SessionGet{Input,Output}{Count,Name,TypeInfo}.
    template <size_t COUNT, size_t NAME, size_t TYPE> Shape shape_of(std::string_view name) const {
        Allocator *allocator = nullptr; // onnxruntime's own: it is not released
        api.call<Allocator **>(78, &allocator);
        size_t count = 0;
        api.call<const Session *, size_t *>(COUNT, session.get(), &count);
        for (size_t index = 0; index < count; ++index) {
            char *text = nullptr;
            api.call<const Session *, size_t, Allocator *, char **>(NAME, session.get(), index,
                                                                    allocator, &text);
            const bool found = text == name;
            api.call<Allocator *, void *>(76, allocator, text);
            if (found)
                return shape_at<TYPE>(index);
        }
        return {};
    }

    template <size_t TYPE> Shape shape_at(size_t index) const {
        Owned<TypeInfo, 98> type(api);
        api.call<const Session *, size_t, TypeInfo **>(TYPE, session.get(), index, type.place());
        const ort::Shape *info = nullptr; // part of `type`
        api.call<const TypeInfo *, const ort::Shape **>(55, type.get(), &info);
        size_t rank = 0;
        if (!info)
            return {};
        api.call<const ort::Shape *, size_t *>(61, info, &rank);
        Shape shape(rank);
        api.call<const ort::Shape *, int64_t *, size_t>(62, info, shape.data(), rank);
        return shape;
    }

    void make_value(const Tensor &tensor, OwnedValue &value) const {
        const int64_t count = std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t(1),
                                              std::multiplies<>());
        api.call<const MemoryInfo *, void *, size_t, const int64_t *, size_t, int, ort::Value **>(
            49, runtime.memory.get(), tensor.data, size_t(count) * size_of(tensor.type),
            tensor.shape.data(), tensor.shape.size(), int(tensor.type), value.place());
    }

    const Runtime::Parts &runtime;
    const Api &api;
    Owned<Session, 95> session;
};

Runtime::Runtime(const std::string &library) : parts_(std::make_unique<Parts>(load(library))) {}

Runtime::~Runtime() = default;

Graph::Graph(std::unique_ptr<Runtime> runtime, std::string_view model, int threads, bool spin)
    : runtime_(std::move(runtime)), parts_(std::make_unique<Parts>(*runtime_->parts_)) {
    parts_->open(model, threads, spin);
}

Graph::~Graph() = default;

Shape Graph::input_shape(std::string_view name) const {
    return parts_->shape_of<30, 36, 33>(name);
}

Shape Graph::output_shape(std::string_view name) const {
    return parts_->shape_of<31, 37, 34>(name);
}

void Graph::run(const std::vector<Tensor> &inputs, const std::vector<Tensor> &outputs) const {
    const Api &api = parts_->api;
    std::vector<std::unique_ptr<OwnedValue>> kept;
    std::vector<const char *> names;
    std::vector<ort::Value *> values;
    for (const auto *tensors : {&inputs, &outputs})
        for (const Tensor &tensor : *tensors) {
            kept.push_back(std::make_unique<OwnedValue>(api));
            parts_->make_value(tensor, *kept.back());
            names.push_back(tensor.name);
            values.push_back(kept.back()->get());
        }
    const size_t count = inputs.size();
    api.call<Session *, const void *, const char *const *, const ort::Value *const *, size_t,
             const char *const *, size_t, ort::Value **>(
        9, parts_->session.get(), nullptr, names.data(), values.data(), count,
        names.data() + count, outputs.size(), values.data() + count);
}

} // namespace atom_edge::session
