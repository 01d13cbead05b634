// The loop: read the prompts, choose, show, until something says stop.
#pragma once

#include <functional>

#include "session/batch.h"
#include "session/prompt.h"
#include "text/stream.h"

namespace atom_edge::session {

// A prompt and what turns its reply into text.
struct Request {
    Prompt prompt;
    TextStream text;
    int64_t room; // tokens of the reply at most, at least 1
};

// Continues every request by the batch's sequence of the same place. `on_piece` gets every token as
// it comes; `is_cancelled` is asked between runs. An `Error` (ATOM_EDGE_CANCELLED) where one of
// them says to end.
void generate(Batch &batch, std::vector<Request> requests, const Options &options,
              const std::vector<uint32_t> &end_ids,
              const std::function<bool(const atom_edge_piece &)> &on_piece,
              const std::function<bool()> &is_cancelled);

} // namespace atom_edge::session
