// The part of onnxruntime's C interface that the operator uses.
//
// The interface is a table of functions that only ever grows, so a function is known by its place.
// Places and types are those of version 16, which every onnxruntime from 1.16 on gives out.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace atom_edge {
namespace ort {

constexpr uint32_t kVersion = 16;

struct Status;
struct Value;
struct Shape;
struct KernelInfo;
struct KernelContext;
struct Domain;
struct SessionOptions;

enum ErrorCode { kFail = 1, kInvalidArgument = 2 };
enum ElementType { kFloat = 1, kInt8 = 3, kInt64 = 7, kDouble = 11, kBfloat16 = 16 };
enum Characteristic { kRequired = 0, kOptional = 1 };

struct ApiBase {
  const void* (*get_api)(uint32_t version);
  const char* (*version)();
};

// How an operator describes itself to onnxruntime: OrtCustomOp.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const void* api, const KernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*provider)(const CustomOp*);
  int (*input_type)(const CustomOp*, size_t);
  size_t (*input_count)(const CustomOp*);
  int (*output_type)(const CustomOp*, size_t);
  size_t (*output_count)(const CustomOp*);
  void (*compute)(void* kernel, KernelContext*);
  void (*destroy)(void* kernel);
  int (*input_characteristic)(const CustomOp*, size_t);
  int (*output_characteristic)(const CustomOp*, size_t);
  int (*input_memory)(const CustomOp*, size_t);
  int (*variadic_input_minimum)(const CustomOp*);
  int (*variadic_input_homogeneity)(const CustomOp*);
  int (*variadic_output_minimum)(const CustomOp*);
  int (*variadic_output_homogeneity)(const CustomOp*);
  Status* (*create_kernel_2)(const CustomOp*, const void* api, const KernelInfo*, void** kernel);
  Status* (*compute_2)(void* kernel, KernelContext*);
  // Of later versions; null.
  void* later[8];
};

// What is refused: becomes an error of onnxruntime.
class Refused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A tensor of a run or of the model.
struct Tensor {
  void* data;
  int type;
  std::vector<int64_t> shape;

  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

class Api {
 public:
  explicit Api(const void* table) : table_(static_cast<void* const*>(table)) {}

  Status* make_status(ErrorCode code, const char* text) const {
    return function<Status*(int, const char*)>(0)(code, text);
  }
  Domain* make_domain(const char* name) const {
    Domain* domain;
    check(function<Status*(const char*, Domain**)>(26)(name, &domain));
    return domain;
  }
  void add(Domain* domain, const CustomOp* op) const {
    check(function<Status*(Domain*, const CustomOp*)>(27)(domain, op));
  }
  void add(SessionOptions* options, Domain* domain) const {
    check(function<Status*(SessionOptions*, Domain*)>(28)(options, domain));
  }
  float attribute_float(const KernelInfo* info, const char* name) const {
    float value;
    check(function<Status*(const KernelInfo*, const char*, float*)>(85)(info, name, &value));
    return value;
  }
  int64_t attribute_int(const KernelInfo* info, const char* name) const {
    int64_t value;
    check(function<Status*(const KernelInfo*, const char*, int64_t*)>(86)(info, name, &value));
    return value;
  }
  std::vector<int64_t> attribute_ints(const KernelInfo* info, const char* name) const {
    const auto get = function<Status*(const KernelInfo*, const char*, int64_t*, size_t*)>(163);
    size_t size = 0;
    check(get(info, name, nullptr, &size));
    std::vector<int64_t> values(size);
    if (size) check(get(info, name, values.data(), &size));
    return values;
  }
  // An input that the model fixes.
  Tensor constant(const KernelInfo* info, size_t index) const {
    int is_constant = 0;
    const Value* value = nullptr;
    check(function<Status*(const KernelInfo*, size_t, int*, const Value**)>(249)(
        info, index, &is_constant, &value));
    if (!is_constant || !value) throw Refused("a weight is not part of the model");
    return tensor(value);
  }
  Tensor input(KernelContext* context, size_t index) const {
    const Value* value = nullptr;
    check(function<Status*(KernelContext*, size_t, const Value**)>(90)(context, index, &value));
    if (!value) throw Refused("an input is missing");
    return tensor(value);
  }
  void* output(KernelContext* context, size_t index, const std::vector<int64_t>& shape) const {
    Value* value = nullptr;
    check(function<Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)>(91)(
        context, index, shape.data(), shape.size(), &value));
    return value ? data(value) : nullptr;
  }
  void parallel_for(KernelContext* context, void (*work)(void*, size_t), size_t count,
                    void* data) const {
    check(function<Status*(KernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>(274)(
        context, work, count, 0, data));
  }

 private:
  template <typename Signature>
  Signature* function(size_t place) const {
    return reinterpret_cast<Signature*>(table_[place]);
  }
  void check(Status* status) const {
    if (!status) return;
    const std::string text = function<const char*(const Status*)>(2)(status);
    function<void(Status*)>(93)(status);
    throw Refused(text);
  }
  void* data(const Value* value) const {
    void* data;
    check(function<Status*(const Value*, void**)>(51)(value, &data));
    return data;
  }
  Tensor tensor(const Value* value) const {
    Tensor result;
    result.data = data(value);
    Shape* shape;
    check(function<Status*(const Value*, Shape**)>(65)(value, &shape));
    size_t rank = 0;
    check(function<Status*(const Shape*, int*)>(60)(shape, &result.type));
    check(function<Status*(const Shape*, size_t*)>(61)(shape, &rank));
    result.shape.resize(rank);
    check(function<Status*(const Shape*, int64_t*, size_t)>(62)(shape, result.shape.data(), rank));
    function<void(Shape*)>(99)(shape);
    return result;
  }

  void* const* table_;
};

}  // namespace ort
}  // namespace atom_edge
