#include "session/generation.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "error.h"

namespace atom_edge::session {

namespace {

using Clock = std::chrono::steady_clock;

// Tokens of a prompt that are read in a run, so that one between two runs can cancel.
constexpr int64_t READ_AT_ONCE = 128;
// Seconds that a run takes at most, and steps that it goes at most: nobody sees text come in such
// small portions, and the run costs little beside them.
constexpr double SECONDS_AT_ONCE = 0.002;
constexpr int64_t STEPS_AT_ONCE = 16;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

uint64_t any_seed() {
    std::random_device device;
    return uint64_t(device()) << 32 | device();
}

class Generation {
  public:
    Generation(Batch &batch, std::vector<Request> requests, const Options &options,
               const std::vector<uint32_t> &end_ids,
               const std::function<bool(const atom_edge_piece &)> &on_piece,
               const std::function<bool()> &is_cancelled)
        : batch_(batch), requests_(std::move(requests)), end_ids_(end_ids), on_piece_(on_piece),
          is_cancelled_(is_cancelled), counts_(requests_.size()) {
        for (size_t row = 0; row < requests_.size(); ++row) {
            Sequence &sequence = batch_.sequences[row];
            const std::vector<uint32_t> &ids = requests_[row].prompt.ids;
            sequence.waiting.assign(ids.begin(), ids.end());
            if (options.repetition_penalty != 1)
                sequence.history = sequence.waiting;
            sequence.seed = options.seed ? *options.seed : any_seed();
            active_.push_back(row);
        }
    }

    void run() {
        const Clock::time_point start = Clock::now();
        read_prompts();
        for (int64_t steps = 1; !active_.empty();) {
            const Clock::time_point before = Clock::now();
            check_cancelled();
            const auto chosen = batch_.choose(active_, steps);
            if (!prompt_seconds_) {
                prompt_seconds_ = seconds_since(start);
                first_ = Clock::now();
            }
            // The first run has read the prompts besides: what a step takes is not known yet.
            const double seconds = seconds_since(before) / double(steps);
            show(chosen, steps);
            steps = std::clamp(int64_t(SECONDS_AT_ONCE / seconds), int64_t(1), STEPS_AT_ONCE);
            for (const size_t row : active_)
                steps = std::min(steps, requests_[row].room - counts_[row]);
        }
    }

  private:
    void check_cancelled() const {
        if (is_cancelled_())
            throw Error(ATOM_EDGE_CANCELLED, "The generation was cancelled");
    }

    void read_prompts() {
        for (;;) {
            std::vector<size_t> rows;
            for (const size_t row : active_)
                if (int64_t(batch_.sequences[row].waiting.size()) > READ_AT_ONCE)
                    rows.push_back(row);
            if (rows.empty())
                return;
            check_cancelled();
            batch_.read(rows, READ_AT_ONCE);
        }
    }

    void show(const std::vector<std::vector<Chosen>> &chosen, int64_t steps) {
        const std::vector<size_t> rows = active_;
        for (size_t step = 0; step < size_t(steps); ++step)
            for (size_t b = 0; b < rows.size(); ++b)
                if (step < chosen[b].size() && is_active(rows[b]))
                    take(rows[b], chosen[b][step]);
    }

    bool is_active(size_t row) const {
        return std::find(active_.begin(), active_.end(), row) != active_.end();
    }

    void take(size_t row, const Chosen &chosen) {
        Request &request = requests_[row];
        const auto token = uint32_t(chosen.token);
        std::string shown;
        atom_edge_finish finish = ATOM_EDGE_GOES_ON;
        if (std::find(end_ids_.begin(), end_ids_.end(), token) != end_ids_.end()) {
            shown = request.text.flush();
            finish = ATOM_EDGE_STOP;
        } else {
            shown = request.text.push(token);
            if (++counts_[row] == request.room) {
                shown += request.text.flush();
                finish = ATOM_EDGE_LENGTH;
            }
        }
        if (request.text.stopped())
            finish = ATOM_EDGE_STOP;
        if (finish != ATOM_EDGE_GOES_ON)
            active_.erase(std::find(active_.begin(), active_.end(), row));
        atom_edge_piece piece = {};
        piece.prompt = row;
        piece.text = shown.c_str();
        piece.size = shown.size();
        piece.token_id = token;
        piece.finish = finish;
        piece.logprob = chosen.logprob;
        piece.top = chosen.top.data();
        piece.top_count = chosen.top.size();
        piece.prompt_tokens = request.prompt.ids.size();
        piece.truncated_tokens = request.prompt.truncated;
        piece.generation_tokens = size_t(counts_[row]);
        piece.prompt_seconds = prompt_seconds_;
        piece.generation_seconds = seconds_since(first_);
        if (!on_piece_(piece))
            throw Error(ATOM_EDGE_CANCELLED, "The callback ended the generation");
    }

    Batch &batch_;
    std::vector<Request> requests_;
    const std::vector<uint32_t> &end_ids_;
    const std::function<bool(const atom_edge_piece &)> &on_piece_;
    const std::function<bool()> &is_cancelled_;
    std::vector<int64_t> counts_; // tokens of each reply
    std::vector<size_t> active_;  // replies that have not ended
    double prompt_seconds_ = 0;
    Clock::time_point first_;
};

} // namespace

void generate(Batch &batch, std::vector<Request> requests, const Options &options,
              const std::vector<uint32_t> &end_ids,
              const std::function<bool(const atom_edge_piece &)> &on_piece,
              const std::function<bool()> &is_cancelled) {
    Generation(batch, std::move(requests), options, end_ids, on_piece, is_cancelled).run();
}

} // namespace atom_edge::session
