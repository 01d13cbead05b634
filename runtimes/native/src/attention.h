// Grouped-query attention over pages of keys and values, by stretches of 512 keys.
//
// A page has, for each layer and key-value head, keys `[head_size, 16]`, and after the keys of all
// heads values `[16, head_size]`. A stretch begins at the same token whoever asks, so that a
// token's sums run in the same order in prefill and decode.
#pragma once

#include "lanes.h"
#include "model.h"
#include "step.h"

namespace atom_edge {
namespace {

constexpr int kStretch = 512;
constexpr int kQueries = 6;  // attended together: their loads of keys and values are shared
// Columns of sixteen that are worked on together, as registers allow for M queries.
#if defined(__AVX512F__)
template <int M>
constexpr int kPagesAtOnce = M <= 3 ? 8 : 4;
template <int M>
constexpr int kColumnsAtOnce = 4;
#else
template <int M>
constexpr int kPagesAtOnce = M <= 3 ? 2 : 1;
template <int M>
constexpr int kColumnsAtOnce = kPagesAtOnce<M>;
#endif

// A query's running softmax: what it has seen so far.
struct Query {
  const float* query;  // [head_size], times the scale
  float* output;       // [head_size]
  int64_t visible;     // keys from the first on
  float maximum;
  float total;
};

// The pages of one sequence, as one layer and key-value head see them.
struct HeadPages {
  const float* cache;
  const int64_t* pages;
  size_t page_size;
  size_t keys;    // offset in a page
  size_t values;  // offset in a page
  int head_size;

  const float* key_page(int64_t i) const { return cache + pages[i] * page_size + keys; }
  const float* value_page(int64_t i) const { return cache + pages[i] * page_size + values; }
};

// Scores U pages; `next` is the first page after them, or one of them where there is none. The
// values of these pages and the keys of the next are fetched meanwhile.
template <int M, int U>
inline void score(const Query* queries, const HeadPages& head, int64_t page, int64_t next,
                  float* scores) {
  Lanes total[M][U];
  for (auto& row : total)
    for (auto& lanes : row) lanes = broadcast(0);
  const float* keys[U];
  for (int u = 0; u < U; u++) keys[u] = head.key_page(page + u);
  const float* next_keys = head.key_page(next);
  const ptrdiff_t values = static_cast<ptrdiff_t>(head.values - head.keys);
  for (int d = 0; d < head.head_size; d++) {
    __builtin_prefetch(next_keys + d * kPageTokens);
    for (int u = 0; u < U; u++) {
      __builtin_prefetch(keys[u] + values + d * kPageTokens);
      const Lanes key = load(keys[u] + d * kPageTokens);
      for (int m = 0; m < M; m++)
        total[m][u] = fused(key, broadcast(queries[m].query[d]), total[m][u]);
    }
  }
  for (int m = 0; m < M; m++)
    for (int u = 0; u < U; u++)
      store(scores + m * kStretch + u * kPageTokens, total[m][u]);
}

// Adds weight * value of the tokens from `begin` to `end` of the stretch, U * 16 columns at `d`.
template <int M, int U>
inline void mix(const Query* queries, const HeadPages& head, int64_t page, const float* weights,
                int begin, int end, int d) {
  Lanes total[M][U];
  for (int m = 0; m < M; m++)
    for (int u = 0; u < U; u++) total[m][u] = load(queries[m].output + d + u * kLanes);
  while (begin < end) {
    const float* values = head.value_page(page + begin / kPageTokens) + d +
                          static_cast<size_t>(begin % kPageTokens) * head.head_size;
    int stop = (begin / kPageTokens + 1) * kPageTokens;
    if (stop > end) stop = end;
    for (; begin < stop; begin++, values += head.head_size) {
      Lanes value[U];
      for (int u = 0; u < U; u++) value[u] = load(values + u * kLanes);
      for (int m = 0; m < M; m++) {
        const Lanes weight = broadcast(weights[m * kStretch + begin]);
        for (int u = 0; u < U; u++) total[m][u] = fused(weight, value[u], total[m][u]);
      }
    }
  }
  for (int m = 0; m < M; m++)
    for (int u = 0; u < U; u++) store(queries[m].output + d + u * kLanes, total[m][u]);
}

template <int M>
inline void mix_all(const Query* queries, const HeadPages& head, int64_t page,
                    const float* weights, int begin, int end) {
  constexpr int kColumns = kColumnsAtOnce<M>;
  int d = 0;
  for (; d + kColumns * kLanes <= head.head_size; d += kColumns * kLanes)
    mix<M, kColumns>(queries, head, page, weights, begin, end, d);
  for (; d < head.head_size; d += kLanes) mix<M, 1>(queries, head, page, weights, begin, end, d);
}

// Scores `[count]` become weights in place; the query's output so far is scaled to fit.
inline void soften(Query& query, float* scores, int count, int head_size) {
  const int whole = count / kLanes * kLanes;
  for (int i = count; i < whole + (count % kLanes ? kLanes : 0); i++) scores[i] = scores[0];
  Lanes most = load(scores);
  for (int i = 0; i < count; i += kLanes) most = larger(load(scores + i), most);
  const float before = query.maximum, maximum = largest(most);
  query.maximum = maximum > before ? maximum : before;
  Lanes total = broadcast(0);
  for (int i = 0; i < count; i += kLanes) {
    store(scores + i, exponential(load(scores + i) - broadcast(query.maximum)));
    for (int j = count; j < i + kLanes; j++) scores[j] = 0;
    total = total + load(scores + i);
  }
  if (query.total > 0 && query.maximum > before) {
    float factor[kLanes];
    store(factor, exponential(broadcast(before - query.maximum)));
    query.total *= factor[0];
    for (int d = 0; d < head_size; d += kLanes)
      store(query.output + d, load(query.output + d) * factor[0]);
  }
  query.total += sum(total);
}

// M queries of one sequence and key-value head, the one that sees least first.
template <int M>
inline void attend(Query* queries, const HeadPages& head) {
  alignas(64) float scores[M * kStretch];
  constexpr int kPages = kPagesAtOnce<M>;
  for (int m = 0; m < M; m++) {
    queries[m].maximum = 0;
    queries[m].total = 0;
    memset(queries[m].output, 0, sizeof(float) * head.head_size);
  }
  for (int64_t start = 0; start < queries[M - 1].visible; start += kStretch) {
    const int64_t left = queries[M - 1].visible - start;
    const int keys = static_cast<int>(left < kStretch ? left : kStretch);
    const int64_t page = start / kPageTokens;
    const int pages = (keys + kPageTokens - 1) / kPageTokens;
    const auto next = [&](int i) { return page + (i < pages ? i : pages - 1); };
    int i = 0;
    for (; i + kPages <= pages; i += kPages)
      score<M, kPages>(queries, head, page + i, next(i + kPages), scores + i * kPageTokens);
    for (; i < pages; i++)
      score<M, 1>(queries, head, page + i, next(i + 1), scores + i * kPageTokens);
    int count[M];
    for (int m = 0; m < M; m++) {
      const int64_t seen = queries[m].visible - start;
      count[m] = seen <= 0 ? 0 : seen < keys ? static_cast<int>(seen) : keys;
      if (!count[m]) continue;
      if (start == 0) queries[m].maximum = scores[m * kStretch];
      soften(queries[m], scores + m * kStretch, count[m], head.head_size);
    }
    mix_all<M>(queries, head, page, scores, 0, count[0]);
    for (int m = 0; m < M; m++)
      mix_all<1>(queries + m, head, page, scores + m * kStretch, count[0], count[m]);
  }
  for (int m = 0; m < M; m++)
    for (int d = 0; d < head.head_size; d += kLanes)
      store(queries[m].output + d, load(queries[m].output + d) / broadcast(queries[m].total));
}

template <int M = kQueries>
inline void attend_all(Query* queries, int count, const HeadPages& head) {
  for (; count >= M; count -= M, queries += M) attend<M>(queries, head);
  if constexpr (M > 1)
    if (count) attend_all<M - 1>(queries, count, head);
}

}  // namespace
}  // namespace atom_edge
