// The decoder over a pass of at most kMostTokens new tokens.
#pragma once

#include "layer.h"
#include "product.h"

namespace atom_edge {
namespace {

constexpr size_t kShareElements = 1 << 14;  // elementwise work worth a second thread

class Decoder {
 public:
  explicit Decoder(const Step& step) : step_(step), model_(*step.model) {
    char* next = step.workspace;
    const Workspace needed(model_, step.count);
    const size_t rows = needed.rows;
    auto take = [&next, rows](size_t bytes_of_row) {
      char* here = next;
      next += rows * Workspace::aligned(bytes_of_row);
      return here;
    };
    hidden_ = reinterpret_cast<float*>(take(needed.hidden));
    narrow_ = reinterpret_cast<float*>(take(needed.narrow));
    broad_ = reinterpret_cast<float*>(take(needed.broad));
    angles_ = reinterpret_cast<float*>(take(needed.angles));
    values_ = reinterpret_cast<int8_t*>(take(needed.values));
    segments_ = reinterpret_cast<Segment*>(take(needed.segments));
    narrow_width_ = static_cast<int>(needed.narrow / sizeof(float));
    broad_width_ = static_cast<int>(needed.broad / sizeof(float));
    angle_width_ = static_cast<int>(needed.angles / sizeof(float) / 2);
  }

  void run() {
    float* logits = step_.logits;
    for (int64_t first = 0; first < step_.count; first += kMostTokens) {
      const int64_t left = step_.count - first;
      count_ = static_cast<int>(left < kMostTokens ? left : kMostTokens);
      memcpy(tokens_, step_.tokens + first, sizeof(Token) * count_);
      embed();
      for (int l = 0; l < model_.layers; l++) {
        attend_layer(l);
        // Of a token whose logits nobody asks for, the last layer's cache is all that is needed.
        if (l + 1 == model_.layers) keep_wanted();
        if (count_ == 0) break;
        finish_layer(model_.layer[l], l);
      }
      head(logits);
      logits += static_cast<size_t>(count_) * model_.vocabulary;
    }
  }

 private:
  float* hidden(int i) { return hidden_ + static_cast<size_t>(i) * model_.hidden; }
  float* narrow(int i) { return narrow_ + static_cast<size_t>(i) * narrow_width_; }
  float* broad(int i) { return broad_ + static_cast<size_t>(i) * broad_width_; }
  float* cosine(int i) { return angles_ + static_cast<size_t>(i) * 2 * angle_width_; }

  template <typename Work>
  void each_token(int width, const Work& work) {
    const bool enough = static_cast<size_t>(count_) * width >= kShareElements;
    // Eight tokens a share: one alone is too little.
    share(step_.team, (count_ + 7) / 8, enough, [&](size_t part) {
      const int begin = static_cast<int>(part) * 8;
      for (int i = begin; i < begin + 8 && i < count_; i++) work(i);
    });
  }

  void quantize_row(const Matrix& matrix, const float* x, int i) {
    quantize(x, matrix.inputs, matrix.segment, model_.activation_by_row, model_.wide,
             values_ + static_cast<size_t>(i) * 2 * matrix.inputs,
             segments_ + static_cast<size_t>(i) * matrix.segments);
  }

  void normalize_rows(const Matrix& matrix, const float* weight) {
    each_token(model_.hidden, [&](int i) {
      float* to = narrow(i);
      normalize(hidden(i), weight, model_.hidden, model_.model_hidden, model_.epsilon, to);
      quantize_row(matrix, to, i);
    });
  }

  void multiply(const Matrix& matrix, float* to, int stride) {
    product(step_.team, matrix, Rows{values_, segments_, count_, model_.wide},
            Target{to, static_cast<size_t>(stride), matrix.outputs});
  }

  void embed() {
    each_token(model_.hidden, [&](int i) {
      unpack_row(model_.embedding, tokens_[i].id, model_.embedding_scale, hidden(i));
      float *cos = cosine(i), *sin = cos + angle_width_;
      const float position = static_cast<float>(tokens_[i].position);
      for (int p = 0; p < model_.rotary_pairs; p++)
        cosine_and_sine(position * model_.inverse_frequencies[p], model_.rotary_scale, cos + p,
                        sin + p);
    });
  }

  // Queries, keys and values of a layer in `broad`, keys and values in the cache.
  void attend_layer(int index) {
    const Layer& layer = model_.layer[index];
    normalize_rows(layer.qkv, layer.attention_norm);
    multiply(layer.qkv, broad_, broad_width_);
    each_token(layer.qkv.outputs, [&](int i) {
      float* query = broad(i);
      float* key = query + model_.query_width();
      prepare_heads(layer, layer.query_norm, query, model_.heads, i);
      prepare_heads(layer, layer.key_norm, key, model_.kv_heads, i);
      for (int d = 0; d < model_.query_width(); d += kLanes)
        store(query + d, load(query + d) * model_.attention_scale);
      const Token& token = tokens_[i];
      float* page = step_.cache + token.pages[token.position / kPageTokens] * model_.page_size() +
                    2 * index * model_.page_part();
      remember(model_, page, static_cast<int>(token.position % kPageTokens), key,
               key + model_.kv_width());
    });
  }

  void prepare_heads(const Layer& layer, const float* norm, float* heads, int count, int i) {
    for (int h = 0; h < count; h++, heads += model_.head_size) {
      if (norm)
        normalize(heads, norm, model_.head_size, model_.model_head_size, model_.epsilon, heads);
      if (layer.rotated)
        rotate(heads, cosine(i), cosine(i) + angle_width_, model_.rotary_pairs);
    }
  }

  void keep_wanted() {
    int kept = 0;
    for (int i = 0; i < count_; i++) {
      if (!tokens_[i].wanted) continue;
      if (kept != i) {
        tokens_[kept] = tokens_[i];
        memcpy(hidden(kept), hidden(i), sizeof(float) * model_.hidden);
        memcpy(broad(kept), broad(i), sizeof(float) * broad_width_);
      }
      kept++;
    }
    count_ = kept;
  }

  void finish_layer(const Layer& layer, int index) {
    attend(index);
    each_token(model_.query_width(), [&](int i) {
      if (model_.exclusive) exclude_own_values(i);
      quantize_row(layer.attention_output, narrow(i), i);
    });
    multiply(layer.attention_output, narrow_, narrow_width_);
    add_to_hidden();
    normalize_rows(layer.gate_up, layer.feed_forward_norm);
    multiply(layer.gate_up, broad_, broad_width_);
    each_token(model_.feed_forward, [&](int i) {
      gate(broad(i), model_.feed_forward);
      quantize_row(layer.down, broad(i), i);
    });
    multiply(layer.down, narrow_, narrow_width_);
    add_to_hidden();
  }

  void add_to_hidden() {
    each_token(model_.hidden, [&](int i) {
      add_scaled(hidden(i), narrow(i), model_.residual_scale, model_.hidden);
    });
  }

  // From `broad` to `narrow`: a share is one key-value head and some tokens of one sequence.
  void attend(int index) {
    const int group = model_.heads / model_.kv_heads;
    const int together = group >= kQueries ? 1 : kQueries / group;
    struct Part {
      int begin, end;
    };
    Part parts[kMostTokens];
    int count = 0;
    size_t work = 0;
    for (int i = 0; i < count_; i = parts[count++].end) {
      int end = i + 1;
      while (end < count_ && end < i + together && tokens_[end].pages == tokens_[i].pages) end++;
      parts[count] = {i, end};
      work += static_cast<size_t>(tokens_[end - 1].position) * (end - i) * model_.query_width();
    }
    share(step_.team, static_cast<size_t>(count) * model_.kv_heads, work >= 2 * kShare,
          [&](size_t i) {
            const Part& part = parts[i / model_.kv_heads];
            attend_part(index, static_cast<int>(i % model_.kv_heads), part.begin, part.end);
          });
  }

  void attend_part(int index, int kv_head, int begin, int end) {
    const int group = model_.heads / model_.kv_heads, size = model_.head_size;
    HeadPages head;
    head.cache = step_.cache;
    head.pages = tokens_[begin].pages;
    head.page_size = model_.page_size();
    head.keys = 2 * index * model_.page_part() + static_cast<size_t>(kv_head) * size * kPageTokens;
    head.values = head.keys + model_.page_part();
    head.head_size = size;
    Query queries[kQueries];
    int waiting = 0;
    for (int i = begin; i < end; i++)
      for (int g = 0; g < group; g++) {
        const int at = (kv_head * group + g) * size;
        queries[waiting++] = {broad(i) + at, narrow(i) + at, tokens_[i].position + 1, 0, 0};
        if (waiting == kQueries || (i + 1 == end && g + 1 == group)) {
          attend_all(queries, waiting, head);
          waiting = 0;
        }
      }
  }

  void exclude_own_values(int i) {
    const int group = model_.heads / model_.kv_heads, size = model_.head_size;
    const float* value = broad(i) + model_.query_width() + model_.kv_width();
    for (int h = 0; h < model_.kv_heads; h++)
      exclude(narrow(i) + h * group * size, value + h * size, group, size);
  }

  void head(float* logits) {
    if (count_ == 0) return;
    normalize_rows(model_.head, model_.final_norm);
    const Target to{logits, static_cast<size_t>(model_.vocabulary), model_.vocabulary};
    product(step_.team, model_.head, Rows{values_, segments_, count_, model_.wide}, to);
    if (model_.logit_scale == 1) return;
    const size_t total = static_cast<size_t>(count_) * model_.vocabulary;
    for (size_t i = 0; i < total; i++) logits[i] *= model_.logit_scale;
  }

  const Step& step_;
  const Model& model_;
  float *hidden_, *narrow_, *broad_, *angles_;
  int8_t* values_;
  Segment* segments_;
  int narrow_width_, broad_width_, angle_width_;
  int count_ = 0;
  Token tokens_[kMostTokens];
};

void run(const Step& step) { Decoder(step).run(); }

}  // namespace
}  // namespace atom_edge
