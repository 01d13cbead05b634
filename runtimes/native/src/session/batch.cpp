#include "session/batch.h"

#include <algorithm>
#include <numeric>

#include "error.h"

namespace atom_edge::session {

namespace {

constexpr int64_t PAGE_TOKENS = 16;

int64_t pages_of(int64_t tokens) { return (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS; }

} // namespace

NativeShape::NativeShape(const Graph &graph)
    : page(graph.input_shape("cache")), vocabulary(-1) {
    const Shape logits = graph.output_shape("logits");
    const bool is_known = page.size() == 5 && logits.size() == 2 &&
                          std::all_of(page.begin() + 1, page.end(), [](int64_t n) { return n > 0; });
    if (!is_known || graph.output_shape("tokens").empty())
        throw Error(ATOM_EDGE_BUNDLE, "The native graph is not the one that this library runs; "
                                      "export the model again with the same release");
    page.erase(page.begin());
    vocabulary = logits[1];
}

Batch::Batch(const Graph &graph, const NativeShape &shape, const Options &options,
             const std::vector<uint32_t> &end_ids, const std::vector<int64_t> &rooms)
    : sequences(rooms.size()), graph_(graph), options_(options),
      end_ids_(end_ids.begin(), end_ids.end()),
      top_(std::min(std::max(options.logprobs, int64_t(0)), shape.vocabulary)),
      rated_(options.logprobs < 0 ? 0 : 1 + top_) {
    int64_t pages = 0;
    for (size_t row = 0; row < rooms.size(); ++row)
        for (int64_t left = pages_of(rooms[row]); left > 0; --left)
            sequences[row].pages.push_back(pages++);
    cache_shape_ = {pages};
    cache_shape_.insert(cache_shape_.end(), shape.page.begin(), shape.page.end());
    // Left as it is: the operator reads no token that it has not written.
    cache_.reset(new float[std::accumulate(cache_shape_.begin(), cache_shape_.end(), size_t(1),
                                           std::multiplies<>())]);
}

void Batch::read(const std::vector<size_t> &rows, int64_t most) {
    std::vector<int64_t> counts;
    for (const size_t row : rows)
        counts.push_back(std::min(most, int64_t(sequences[row].waiting.size())));
    run(rows, counts, 0);
    for (size_t b = 0; b < rows.size(); ++b) {
        Sequence &sequence = sequences[rows[b]];
        sequence.held += counts[b];
        sequence.waiting.erase(sequence.waiting.begin(), sequence.waiting.begin() + counts[b]);
    }
}

std::vector<std::vector<Chosen>> Batch::choose(const std::vector<size_t> &rows, int64_t steps) {
    std::vector<int64_t> counts;
    for (const size_t row : rows)
        counts.push_back(int64_t(sequences[row].waiting.size()));
    const Result result = run(rows, counts, steps);
    std::vector<std::vector<Chosen>> chosen(rows.size());
    for (size_t b = 0; b < rows.size(); ++b) {
        Sequence &sequence = sequences[rows[b]];
        sequence.held += counts[b];
        for (int64_t step = 0; step < steps; ++step) {
            const size_t place = b * size_t(steps) + size_t(step);
            const int64_t token = result.tokens[place];
            if (token < 0)
                break;
            sequence.held += step > 0; // the token before it was appended
            sequence.drawn += 1;
            sequence.waiting = {token};
            if (options_.repetition_penalty != 1)
                sequence.history.push_back(token);
            Chosen next{token, 0, {}};
            if (rated_) {
                const double *logprobs = &result.logprobs[place * size_t(rated_)];
                next.logprob = logprobs[0];
                for (int64_t i = 0; i < top_; ++i)
                    next.top.push_back({uint32_t(result.top_tokens[place * size_t(top_) + size_t(i)]),
                                        logprobs[1 + i]});
            }
            chosen[b].push_back(std::move(next));
        }
    }
    return chosen;
}

Batch::Result Batch::run(const std::vector<size_t> &rows, const std::vector<int64_t> &counts,
                         int64_t steps) {
    const auto batch = int64_t(rows.size());
    const int64_t width = *std::max_element(counts.begin(), counts.end());
    int64_t pages_wide = 0, history_wide = 0;
    for (const size_t row : rows) {
        pages_wide = std::max(pages_wide, int64_t(sequences[row].pages.size()));
        history_wide = std::max(history_wide, int64_t(sequences[row].history.size()));
    }
    std::vector<int64_t> ids(size_t(batch * width)), pages(size_t(batch * pages_wide)),
        history(size_t(batch * history_wide), -1), lengths, seeds;
    std::vector<double> sampling;
    for (size_t b = 0; b < rows.size(); ++b) {
        const Sequence &sequence = sequences[rows[b]];
        std::copy_n(sequence.waiting.begin(), counts[b], ids.begin() + int64_t(b) * width);
        std::copy(sequence.pages.begin(), sequence.pages.end(),
                  pages.begin() + int64_t(b) * pages_wide);
        std::copy(sequence.history.begin(), sequence.history.end(),
                  history.begin() + int64_t(b) * history_wide);
        lengths.push_back(sequence.held);
        seeds.insert(seeds.end(), {int64_t(sequence.seed), sequence.drawn});
        sampling.insert(sampling.end(), {options_.temperature, double(options_.top_k),
                                         options_.top_p, options_.min_p,
                                         options_.repetition_penalty});
    }
    int64_t alternatives = options_.logprobs < 0 ? -1 : top_, nothing = 0;
    const auto integers = [](const char *name, Shape shape, const std::vector<int64_t> &data) {
        return Tensor{name, Element::i64, std::move(shape), const_cast<int64_t *>(data.data())};
    };
    const Tensor cache{"cache", Element::f32, cache_shape_, cache_.get()};
    const auto chosen = size_t(batch * steps);
    Result result{std::vector<int64_t>(chosen), std::vector<int64_t>(chosen * size_t(top_)),
                  std::vector<double>(chosen * size_t(rated_))};
    graph_.run(
        {integers("input_ids", {batch, width}, ids), integers("counts", {batch}, counts),
         integers("past_lengths", {batch}, lengths),
         Tensor{"logit_rows", Element::i64, {0}, &nothing},
         integers("pages", {batch, pages_wide}, pages), cache,
         Tensor{"steps", Element::i64, {1}, &steps},
         integers("end_ids", {int64_t(end_ids_.size())}, end_ids_),
         Tensor{"sampling", Element::f64, {batch, 5}, sampling.data()},
         integers("seeds", {batch, 2}, seeds),
         integers("history", {batch, history_wide}, history),
         Tensor{"alternatives", Element::i64, {1}, &alternatives}},
        {Tensor{"cache_out", Element::f32, cache_shape_, cache_.get()},
         integers("tokens", {batch, steps}, result.tokens),
         integers("top_tokens", {batch, steps, top_}, result.top_tokens),
         Tensor{"log_probabilities", Element::f64, {batch, steps, rated_},
                result.logprobs.data()}});
    return result;
}

} // namespace atom_edge::session
