// The session's part of the C interface: no exception leaves it.
#include <atomic>
#include <cstring>

#include "api/guarded.h"
#include "session/session.h"

using atom_edge::guarded;
using atom_edge::require;

struct atom_edge_session {
    atom_edge::session::Session inner;
};

struct atom_edge_cancellation {
    std::atomic<bool> is_cancelled{false};
};

atom_edge_session *atom_edge_session_open(const char *bundle, const char *onnxruntime, int threads,
                                          atom_edge_error *error) {
    return guarded(error, static_cast<atom_edge_session *>(nullptr), [&] {
        require(bundle, "bundle");
        require(onnxruntime, "onnxruntime");
        if (threads < 0 || threads > 1024)
            throw atom_edge::Error(ATOM_EDGE_ARGUMENT, "threads is not from 0 to 1024");
        return new atom_edge_session{atom_edge::session::Session(bundle, onnxruntime, threads)};
    });
}

void atom_edge_session_free(atom_edge_session *session) { delete session; }

size_t atom_edge_session_context_length(const atom_edge_session *session) {
    return session ? session->inner.context_length() : 0;
}

atom_edge_options atom_edge_options_default(const atom_edge_session *session) {
    const atom_edge::session::Defaults standard;
    const atom_edge::session::Defaults &defaults = session ? session->inner.defaults() : standard;
    const atom_edge::session::Options &options = defaults.options;
    atom_edge_options result = {};
    result.max_new_tokens = defaults.max_length ? 0 : options.max_new_tokens;
    result.temperature = options.temperature;
    result.top_k = options.top_k;
    result.top_p = options.top_p;
    result.min_p = options.min_p;
    result.repetition_penalty = options.repetition_penalty;
    result.logprobs = options.logprobs;
    return result;
}

atom_edge_cancellation *atom_edge_cancellation_new(atom_edge_error *error) {
    return guarded(error, static_cast<atom_edge_cancellation *>(nullptr),
                   [] { return new atom_edge_cancellation; });
}

void atom_edge_cancellation_free(atom_edge_cancellation *cancellation) { delete cancellation; }

void atom_edge_cancel(atom_edge_cancellation *cancellation) {
    if (cancellation)
        cancellation->is_cancelled = true;
}

atom_edge_code atom_edge_generate(const atom_edge_session *session, const char *prompt,
                                  const atom_edge_options *options, atom_edge_on_piece on_piece,
                                  void *user, const atom_edge_cancellation *cancel,
                                  atom_edge_error *error) {
    atom_edge_prompt text = {};
    text.text = prompt;
    text.size = prompt ? std::strlen(prompt) : 0;
    return atom_edge_generate_batch(session, prompt ? &text : nullptr, 1, options, on_piece, user,
                                    cancel, error);
}

atom_edge_code atom_edge_generate_batch(const atom_edge_session *session,
                                        const atom_edge_prompt *prompts, size_t count,
                                        const atom_edge_options *options,
                                        atom_edge_on_piece on_piece, void *user,
                                        const atom_edge_cancellation *cancel,
                                        atom_edge_error *error) {
    atom_edge_error own;
    atom_edge_error *told = error ? error : &own;
    guarded(told, false, [&] {
        require(session, "session");
        require(prompts || !count, "prompt");
        require(on_piece, "on_piece");
        session->inner.generate(
            prompts, count, options,
            [&](const atom_edge_piece &piece) { return on_piece(user, &piece) == 0; },
            [&] { return cancel && cancel->is_cancelled; });
        return true;
    });
    return told->code;
}
