// A graph on onnxruntime, which is loaded from where the caller says.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace atom_edge::session {

enum class Element { f32 = 1, i64 = 7, f64 = 11 }; // onnxruntime's numbers

using Shape = std::vector<int64_t>;

// A tensor in memory of the caller, by the name of the input or output that it is.
struct Tensor {
    const char *name;
    Element type;
    Shape shape;
    void *data;
};

// onnxruntime, started. Errors here and below are of the code ATOM_EDGE_RUNTIME.
class Runtime {
  public:
    // `library`: the path of its shared library.
    explicit Runtime(const std::string &library);
    ~Runtime();
    Runtime(const Runtime &) = delete;
    Runtime &operator=(const Runtime &) = delete;

  private:
    friend class Graph;
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

class Graph {
  public:
    // `model`: the bytes of an ONNX file, not needed afterwards; `threads`: of a run; `spin`:
    // whether they wait busily for the next one.
    Graph(std::unique_ptr<Runtime> runtime, std::string_view model, int threads, bool spin);
    ~Graph();
    Graph(const Graph &) = delete;
    Graph &operator=(const Graph &) = delete;

    // The declared shape, -1 where a size is open; empty where there is no such input or output.
    Shape input_shape(std::string_view name) const;
    Shape output_shape(std::string_view name) const;

    // Threads may run it at the same time.
    void run(const std::vector<Tensor> &inputs, const std::vector<Tensor> &outputs) const;

  private:
    struct Parts;
    std::unique_ptr<Runtime> runtime_;
    std::unique_ptr<Parts> parts_;
};

} // namespace atom_edge::session
