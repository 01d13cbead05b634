#include "loader.h"

#include <string>

namespace atom_edge {
namespace {

using ort::Refused;
using Shape = std::vector<int64_t>;

constexpr int64_t kMostLayers = 1024, kMostWidth = 1 << 20, kMostVocabulary = 1 << 24;
constexpr float kMostFrequency = 1000;
constexpr int kMostSegment = 1 << 16;  // times 127 and 128 is below 2^31

std::string text(const Shape& shape) {
  std::string result = "[";
  for (size_t i = 0; i < shape.size(); i++)
    result += (i ? ", " : "") + std::to_string(shape[i]);
  return result + "]";
}

int padded(int width) { return (width + kPanel - 1) / kPanel * kPanel; }

class Loader {
 public:
  Loader(const ort::Api& api, const ort::KernelInfo* info) : api_(api), info_(info) {}

  int integer(const char* name, int64_t least, int64_t most) const {
    const int64_t value = api_.attribute_int(info_, name);
    if (value < least || value > most)
      throw Refused("attribute " + std::string(name) + " is " + std::to_string(value) +
                    ", not from " + std::to_string(least) + " to " + std::to_string(most));
    return static_cast<int>(value);
  }

  float number(const char* name) const { return api_.attribute_float(info_, name); }

  template <typename T>
  const T* weight(Input input, const Shape& shape, ort::ElementType type) const {
    const ort::Tensor tensor = api_.constant(info_, input);
    if (tensor.type != type)
      throw Refused("input " + std::to_string(input) + " is of type " +
                    std::to_string(tensor.type) + ", not " + std::to_string(type));
    if (tensor.shape != shape)
      throw Refused("input " + std::to_string(input) + " has shape " + text(tensor.shape) +
                    ", not " + text(shape));
    return tensor.as<T>();
  }

  // Null where the model has none: the tensor is empty.
  const float* optional(Input input, const Shape& shape) const {
    const ort::Tensor tensor = api_.constant(info_, input);
    if (tensor.shape == Shape{0}) return nullptr;
    return weight<float>(input, shape, ort::kFloat);
  }

  // `layers` matrices, one after the other; the scales and the bias are the inputs that follow.
  std::vector<Matrix> matrices(Input input, int layers, int outputs, int inputs,
                               bool has_bias) const {
    Matrix matrix = {};
    matrix.outputs = outputs;
    matrix.inputs = inputs;
    matrix.segment = segment_ ? segment_ : inputs;
    if (matrix.segment > kMostSegment) throw Refused("a segment is too long for sums of 32 bits");
    matrix.segments = (inputs + matrix.segment - 1) / matrix.segment;
    const int64_t panels = outputs / kPanel;
    const auto* weights = weight<int8_t>(input, {layers, panels, inputs / 4, kPanel, 4}, ort::kInt8);
    const auto* scales = weight<uint16_t>(static_cast<Input>(input + 1),
                                          {layers, panels, matrix.segments, kPanel},
                                          ort::kBfloat16);
    const float* bias =
        has_bias ? optional(static_cast<Input>(input + 2), {layers, outputs}) : nullptr;
    std::vector<Matrix> result;
    for (size_t i = 0; i < static_cast<size_t>(layers); i++) {
      matrix.weights = weights + i * outputs * inputs;
      matrix.scales = scales + i * outputs * matrix.segments;
      matrix.bias = bias ? bias + i * outputs : nullptr;
      result.push_back(matrix);
    }
    return result;
  }

  void load(LoadedModel& loaded) {
    Model& m = loaded.model;
    m.layers = integer("layers", 1, kMostLayers);
    m.kv_heads = integer("kv_heads", 1, kMostWidth);
    m.heads = integer("heads", m.kv_heads, kMostWidth);
    if (m.heads % m.kv_heads) throw Refused("heads is not a multiple of kv_heads");
    m.model_hidden = integer("hidden", 1, kMostWidth);
    m.model_head_size = integer("head_size", 1, kMostWidth / m.heads);
    m.feed_forward = padded(integer("feed_forward", 1, kMostWidth));
    m.vocabulary = integer("vocabulary", 1, kMostVocabulary);
    m.hidden = padded(m.model_hidden);
    m.head_size = padded(m.model_head_size);
    m.rotary_pairs = integer("rotary_pairs", 0, m.model_head_size / 2);
    segment_ = integer("segment", 0, 4096);
    if (segment_ % kPanel) throw Refused("segment is not a multiple of 16");
    const int bits = integer("activation_bits", 8, 16);
    m.wide = bits == 16;
    if (bits != 8 && bits != 16) throw Refused("activation_bits is neither 8 nor 16");
    if (m.wide && (!segment_ || segment_ > 256))
      throw Refused("activations of 16 bits need segments of at most 256");
    m.activation_by_row = integer("activation_by_row", 0, 1);
    m.exclusive = integer("exclusive", 0, 1);
    m.rotary_scale = number("rotary_scale");
    m.epsilon = number("epsilon");
    m.attention_scale = number("attention_scale");
    m.embedding_scale = number("embedding_scale");
    m.residual_scale = number("residual_scale");
    m.logit_scale = number("logit_scale");
    load_weights(loaded);
  }

 private:
  void load_weights(LoadedModel& loaded) {
    Model& m = loaded.model;
    const int vocabulary = padded(m.vocabulary), query = m.query_width();
    const int64_t layers = m.layers;
    m.embedding = matrices(kEmbedding, 1, vocabulary, m.hidden, false)[0];
    m.head = matrices(kHead, 1, vocabulary, m.hidden, true)[0];
    m.final_norm = weight<float>(kFinalNorm, {m.hidden}, ort::kFloat);
    m.inverse_frequencies = weight<float>(kInverseFrequencies, {m.rotary_pairs}, ort::kFloat);
    for (int i = 0; i < m.rotary_pairs; i++)
      if (!(m.inverse_frequencies[i] >= 0 && m.inverse_frequencies[i] <= kMostFrequency))
        throw Refused("an inverse frequency is not from 0 to 1000");
    const auto* attention_norm = weight<float>(kAttentionNorm, {layers, m.hidden}, ort::kFloat);
    const auto* feed_forward_norm =
        weight<float>(kFeedForwardNorm, {layers, m.hidden}, ort::kFloat);
    const float* query_norm = optional(kQueryNorm, {layers, m.head_size});
    const float* key_norm = optional(kKeyNorm, {layers, m.head_size});
    const auto qkv = matrices(kQkv, m.layers, query + 2 * m.kv_width(), m.hidden, true);
    const auto output = matrices(kAttentionOutput, m.layers, m.hidden, query, true);
    const auto gate_up = matrices(kGateUp, m.layers, 2 * m.feed_forward, m.hidden, true);
    const auto down = matrices(kDown, m.layers, m.hidden, m.feed_forward, true);
    const auto rotated = api_.attribute_ints(info_, "rotated");
    if (rotated.size() != static_cast<size_t>(layers))
      throw Refused("attribute rotated does not have one number for each layer");
    for (size_t i = 0; i < static_cast<size_t>(layers); i++) {
      Layer layer = {};
      layer.attention_norm = attention_norm + i * m.hidden;
      layer.qkv = qkv[i];
      layer.query_norm = query_norm ? query_norm + i * m.head_size : nullptr;
      layer.key_norm = key_norm ? key_norm + i * m.head_size : nullptr;
      layer.attention_output = output[i];
      layer.feed_forward_norm = feed_forward_norm + i * m.hidden;
      layer.gate_up = gate_up[i];
      layer.down = down[i];
      layer.rotated = rotated[i] != 0;
      loaded.layers.push_back(layer);
    }
    m.layer = loaded.layers.data();
  }

  const ort::Api& api_;
  const ort::KernelInfo* info_;
  int segment_ = 0;
};

}  // namespace

LoadedModel::LoadedModel(const ort::Api& api, const ort::KernelInfo* info) {
  Loader(api, info).load(*this);
}

}  // namespace atom_edge
