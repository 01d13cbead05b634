#include "request.h"

#include <algorithm>
#include <cmath>

namespace atom_edge {
namespace {

using ort::Refused;
using Shape = std::vector<int64_t>;

void require(bool condition, const char* otherwise) {
  if (!condition) throw Refused(otherwise);
}

int64_t only_number(const ort::Tensor& tensor, const char* otherwise) {
  require(tensor.shape == Shape{1}, otherwise);
  return *tensor.as<int64_t>();
}

void check_pages(const int64_t* pages, int64_t room, int64_t length, int64_t count,
                 int64_t cache_pages) {
  require(length >= 0 && count <= room * kPageTokens && length <= room * kPageTokens - count,
          "past_lengths, counts and steps do not fit into pages");
  const int64_t used = (length + count + kPageTokens - 1) / kPageTokens;
  for (int64_t i = 0; i < used; i++)
    require(pages[i] >= 0 && pages[i] < cache_pages, "pages has a page that cache has not");
}

Sampling read_sampling(const double* values) {
  const double temperature = values[0], top_k = values[1], top_p = values[2], min_p = values[3],
               penalty = values[4];
  require(temperature == 0 || (temperature >= 1e-9 && temperature <= 1e9),
          "sampling has a temperature that is neither 0 nor from 1e-9 to 1e9");
  require(top_k >= 0 && top_k <= 4294967296.0 && top_k == std::floor(top_k),
          "sampling has a top_k that is no integer from 0 on");
  require(top_p > 0 && top_p <= 1, "sampling has a top_p that is not above 0 and at most 1");
  require(min_p >= 0 && min_p <= 1, "sampling has a min_p that is not from 0 to 1");
  require(penalty >= 1e-3 && penalty <= 1e3,
          "sampling has a repetition penalty that is not from 0.001 to 1000");
  return {temperature, static_cast<int64_t>(top_k), top_p, min_p, penalty};
}

std::vector<int64_t> read_history(const int64_t* ids, int64_t count, int64_t vocabulary) {
  std::vector<int64_t> seen;
  for (int64_t i = 0; i < count; i++) {
    require(ids[i] >= -1 && ids[i] < vocabulary, "history has an id outside the vocabulary");
    if (ids[i] >= 0) seen.push_back(ids[i]);
  }
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  return seen;
}

}  // namespace

Request::Request(const ort::Api& api, ort::KernelContext* context, const Model& model) {
  const ort::Tensor ids = api.input(context, kInputIds);
  const ort::Tensor counts = api.input(context, kCounts);
  const ort::Tensor past = api.input(context, kPastLengths);
  const ort::Tensor rows = api.input(context, kLogitRows);
  const ort::Tensor pages = api.input(context, kPages);
  const ort::Tensor cache_tensor = api.input(context, kCache);
  require(ids.shape.size() == 2, "input_ids is not [B, T]");
  batch = ids.shape[0];
  const int64_t width = ids.shape[1];
  require(batch > 0 && width > 0, "input_ids is empty");
  require(counts.shape == Shape{batch}, "counts is not [B]");
  require(past.shape == Shape{batch}, "past_lengths is not [B]");
  require(rows.shape.size() == 1, "logit_rows is not [N]");
  require(pages.shape.size() == 2 && pages.shape[0] == batch, "pages is not [B, M]");
  cache = cache_tensor.data;
  cache_shape = cache_tensor.shape;
  const int64_t cache_pages = cache_shape.empty() ? 0 : cache_shape[0];
  require(cache_shape == Shape{cache_pages, model.layers, 2, model.kv_heads,
                               kPageTokens * model.head_size},
          "cache is not [P, layers, 2, kv_heads, 16 * head_size]");
  steps = only_number(api.input(context, kSteps), "steps is not [1]");
  require(steps >= 0 && steps <= INT32_MAX, "steps is negative, or too many");

  wanted = rows.shape[0];
  const int64_t* row = rows.as<int64_t>();
  const int64_t* const row_end = row + wanted;
  for (int64_t b = 0; b < batch; b++) {
    const int64_t count = counts.as<int64_t>()[b], length = past.as<int64_t>()[b];
    require(count > 0 && count <= width, "counts is not from 1 to T");
    const int64_t* own_pages = pages.as<int64_t>() + b * pages.shape[1];
    const int64_t appended = count + (steps > 0 ? steps - 1 : 0);
    check_pages(own_pages, pages.shape[1], length, appended, cache_pages);
    for (int64_t t = 0; t < count; t++) {
      const int64_t id = ids.as<int64_t>()[b * width + t];
      require(id >= 0 && id < model.vocabulary, "input_ids has an id outside the vocabulary");
      const bool is_wanted = row < row_end && *row == b * width + t;
      row += is_wanted;
      tokens.push_back({id, length + t, own_pages, is_wanted});
    }
    if (steps) sequences.push_back({length + count, own_pages, {}, 0, 0, {}});
  }
  require(row == row_end, "logit_rows does not ascend over new tokens, b * T + t");
  if (steps) read_loop(api, context, model);
}

void Request::read_loop(const ort::Api& api, ort::KernelContext* context, const Model& model) {
  const ort::Tensor ends = api.input(context, kEndIds);
  const ort::Tensor sampling = api.input(context, kSampling);
  const ort::Tensor seeds = api.input(context, kSeeds);
  const ort::Tensor history = api.input(context, kHistory);
  alternatives = only_number(api.input(context, kAlternatives), "alternatives is not [1]");
  require(alternatives >= -1 && alternatives <= model.vocabulary,
          "alternatives is not from -1 to the vocabulary's size");
  require(ends.shape.size() == 1, "end_ids is not [E]");
  require(sampling.shape == Shape{batch, 5}, "sampling is not [B, 5]");
  require(seeds.shape == Shape{batch, 2}, "seeds is not [B, 2]");
  require(history.shape.size() == 2 && history.shape[0] == batch, "history is not [B, H]");
  end_ids = ends.as<int64_t>();
  end_count = ends.shape[0];
  for (size_t b = 0; b < sequences.size(); b++) {
    Sequence& sequence = sequences[b];
    sequence.sampling = read_sampling(sampling.as<double>() + 5 * b);
    sequence.seed = static_cast<uint64_t>(seeds.as<int64_t>()[2 * b]);
    sequence.drawn = static_cast<uint64_t>(seeds.as<int64_t>()[2 * b + 1]);
    if (sequence.sampling.penalty != 1)
      sequence.seen = read_history(history.as<int64_t>() + b * history.shape[1],
                                   history.shape[1], model.vocabulary);
  }
}

}  // namespace atom_edge
