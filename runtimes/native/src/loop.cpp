#include "loop.h"

#include <string.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace atom_edge {

Loop::Loop(const InstructionSet& set, const Step& step, Request& request, LoopMemory& memory)
    : set_(set), step_(step), request_(request), memory_(memory), last_(request.sequences.size()) {
  memory_.choice.resize(choice_memory(step.model->vocabulary));
}

void Loop::run(const Results& results) {
  const auto steps = static_cast<size_t>(request_.steps), batch = request_.sequences.size();
  const auto alternatives = static_cast<size_t>(std::max<int64_t>(request_.alternatives, 0));
  const bool rated = request_.alternatives >= 0;
  std::fill_n(results.tokens, batch * steps, -1);
  std::fill_n(results.top_tokens, batch * steps * alternatives, -1);
  if (rated) std::fill_n(results.log_probabilities, batch * steps * (1 + alternatives), 0.0);
  std::vector<size_t> going(batch), stay;
  std::iota(going.begin(), going.end(), size_t{0});
  std::vector<Token> next;
  append_request();
  for (size_t step = 0; step < steps; step++) {
    next.clear();
    stay.clear();
    for (const size_t b : going) {
      const int64_t token = choose(b);
      const size_t at = b * steps + step;
      results.tokens[at] = token;
      if (rated)
        rate(b, token, results.top_tokens + at * alternatives,
             results.log_probabilities + at * (1 + alternatives));
      if (ends(token)) continue;
      Sequence& sequence = request_.sequences[b];
      next.push_back({token, sequence.length++, sequence.pages, true});
      stay.push_back(b);
    }
    going.swap(stay);
    if (going.empty() || step + 1 == steps) break;
    append(next, going);
  }
}

// The new tokens, with logits of the last of each sequence beside those that are wanted.
void Loop::append_request() {
  std::vector<Token> tokens = request_.tokens;
  std::vector<size_t> last_rows;
  size_t rows = 0;
  for (size_t i = 0; i < tokens.size(); i++) {
    const bool is_last = i + 1 == tokens.size() || tokens[i + 1].pages != tokens[i].pages;
    if (is_last) last_rows.push_back(rows);
    tokens[i].wanted |= is_last;
    rows += tokens[i].wanted;
  }
  Step step = step_;
  step.tokens = tokens.data();
  step.logits = make_room(rows);
  set_.run(step);
  for (size_t b = 0; b < last_.size(); b++) last_[b] = logits(last_rows[b]);
  float* to = step_.logits;
  for (size_t i = 0, row = 0; i < tokens.size(); i++) {
    if (request_.tokens[i].wanted) {
      memcpy(to, logits(row), sizeof(float) * step_.model->vocabulary);
      to += step_.model->vocabulary;
    }
    row += tokens[i].wanted;
  }
}

// A token of each of the sequences `of`.
void Loop::append(const std::vector<Token>& tokens, const std::vector<size_t>& of) {
  Step step = step_;
  step.tokens = tokens.data();
  step.count = static_cast<int64_t>(tokens.size());
  step.logits = make_room(tokens.size());
  set_.run(step);
  for (size_t i = 0; i < of.size(); i++) last_[of[i]] = logits(i);
}

float* Loop::make_room(size_t rows) {
  const size_t size = rows * step_.model->vocabulary;
  if (memory_.logits.size() < size) memory_.logits.resize(size);
  return memory_.logits.data();
}

const float* Loop::logits(size_t row) const {
  return memory_.logits.data() + row * step_.model->vocabulary;
}

int64_t Loop::choose(size_t index) {
  Sequence& sequence = request_.sequences[index];
  const Sampling& sampling = sequence.sampling;
  const float* scores = last_[index];
  if (sampling.penalty != 1) {
    memory_.penalized.assign(scores, scores + step_.model->vocabulary);
    const auto penalty = static_cast<float>(sampling.penalty);
    for (const int64_t id : sequence.seen) {
      float& score = memory_.penalized[static_cast<size_t>(id)];
      score = score > 0 ? score / penalty : score * penalty;
    }
    scores = memory_.penalized.data();
  }
  const int64_t token = set_.choose({scores, step_.model->vocabulary, &sampling, sequence.seed,
                                     sequence.drawn++, memory_.choice.data()});
  std::vector<int64_t>& seen = sequence.seen;
  if (sampling.penalty != 1 && std::find(seen.begin(), seen.end(), token) == seen.end())
    seen.push_back(token);
  return token;
}

// Log-probabilities under the logits as they are, of `token` and of the likeliest.
void Loop::rate(size_t index, int64_t token, int64_t* top_tokens, double* log_probabilities) {
  const float* scores = last_[index];
  const auto count = static_cast<size_t>(step_.model->vocabulary);
  const double most = *std::max_element(scores, scores + count);
  double whole = 0;
  for (size_t i = 0; i < count; i++) whole += std::exp(scores[i] - most);
  const double log_whole = std::log(whole);
  log_probabilities[0] = scores[token] - most - log_whole;
  const auto alternatives = static_cast<size_t>(request_.alternatives);
  if (alternatives == 0) return;
  std::vector<int64_t> ids(count);
  std::iota(ids.begin(), ids.end(), int64_t{0});
  std::partial_sort(ids.begin(), ids.begin() + request_.alternatives, ids.end(),
                    [scores](int64_t a, int64_t b) {
                      return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
                    });
  for (size_t i = 0; i < alternatives; i++) {
    top_tokens[i] = ids[i];
    log_probabilities[1 + i] = scores[ids[i]] - most - log_whole;
  }
}

bool Loop::ends(int64_t token) const {
  const int64_t* end = request_.end_ids + request_.end_count;
  return std::find(request_.end_ids, end, token) != end;
}

}  // namespace atom_edge
