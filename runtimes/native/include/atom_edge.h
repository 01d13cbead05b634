/* atom_edge.h: what atom-edge offers to C and C++.
 *
 * Strings are UTF-8. No function throws; none keeps state outside of what it is given. Header and
 * library are of the same version. */
#ifndef ATOM_EDGE_H
#define ATOM_EDGE_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ATOM_EDGE_API __declspec(dllexport)
#else
#define ATOM_EDGE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    ATOM_EDGE_OK = 0,
    ATOM_EDGE_ARGUMENT = 1,  /* an argument that cannot be used */
    ATOM_EDGE_BUNDLE = 2,    /* a file that is missing, damaged or not supported */
    ATOM_EDGE_MEMORY = 3,    /* no memory left */
    ATOM_EDGE_RUNTIME = 4,   /* onnxruntime cannot be loaded, or failed */
    ATOM_EDGE_CANCELLED = 5  /* ended by atom_edge_cancel or by the callback */
} atom_edge_code;

/* Memory of the caller, in which a function says what went wrong. */
typedef struct {
    atom_edge_code code;
    char message[512];
} atom_edge_error;

/* The version of the library, such as "0.1.0". */
ATOM_EDGE_API const char *atom_edge_version(void);

/* The instruction set whose kernels run here, such as "avx2"; "" if ATOM_EDGE_ISA names none. */
ATOM_EDGE_API const char *atom_edge_instruction_set(void);

/* ---- A session: a bundle that is ready to continue text. Threads may share one. ---- */

typedef struct atom_edge_session atom_edge_session;

/* Verifies and loads a bundle, the folder that `atom-edge export` writes: every file that its
 * manifest lists must have its size and its SHA-256, and its native graph is run.
 *
 * `onnxruntime` is the path of onnxruntime's shared library, 1.16 or later; a name without a
 * slash is searched for as the system does. It stays loaded until the process ends. `threads` is
 * how many threads a run may use, up to 1024; 0 for a number that suits the model and leaves cores
 * free.
 *
 * NULL on an error. `error` may be NULL, here and below. */
ATOM_EDGE_API atom_edge_session *atom_edge_session_open(const char *bundle,
                                                        const char *onnxruntime, int threads,
                                                        atom_edge_error *error);

/* Not before every generation of the session has returned. NULL is allowed, here and below. */
ATOM_EDGE_API void atom_edge_session_free(atom_edge_session *session);

/* The most tokens of a prompt with its reply. */
ATOM_EDGE_API size_t atom_edge_session_context_length(const atom_edge_session *session);

/* How a reply is chosen and when it ends. They apply in this order: repetition penalty,
 * temperature, top-k, top-p, min-p. */
typedef struct {
    int64_t max_new_tokens;    /* maximum tokens in the reply; 0 for what the bundle says */
    double temperature;        /* divides the logits; 0 takes the likeliest token each time */
    int64_t top_k;             /* sample among the k likeliest tokens; 0 for all */
    double top_p;              /* sample among the likeliest tokens of this share; 1 for all */
    double min_p;              /* sample among tokens this likely, the likeliest being 1 */
    double repetition_penalty; /* above 1, tokens that occurred become less likely */
    int has_seed;              /* 0 for another reply each time */
    uint64_t seed;             /* gives the same reply each time; the one that Python gives */
    const char *const *stop;   /* texts that end the reply and are not part of it */
    size_t stop_count;
    int64_t logprobs;          /* N for log-probabilities, of the token and the N likeliest; or -1 */
} atom_edge_options;

/* What the bundle says, and the library's defaults for the rest. */
ATOM_EDGE_API atom_edge_options atom_edge_options_default(const atom_edge_session *session);

/* A prompt: `size` bytes of text, or `id_count` token ids where `text` is NULL. An empty one begins
 * a document. Of one that is longer than the context the end is kept. */
typedef struct {
    const char *text;
    size_t size;
    const uint32_t *ids;
    size_t id_count;
} atom_edge_prompt;

typedef enum {
    ATOM_EDGE_GOES_ON = 0,
    ATOM_EDGE_STOP = 1,  /* at an end-of-sequence token or a stop text */
    ATOM_EDGE_LENGTH = 2 /* at max_new_tokens or at the end of the context */
} atom_edge_finish;

/* A token that came with its log-probability under the model's own distribution. */
typedef struct {
    uint32_t token_id;
    double logprob;
} atom_edge_rated;

/* One step of a reply: a token, and the text that became certain with it. The pieces of a reply,
 * joined, are its text; the last has a finish reason. Pointers are valid during the call. */
typedef struct {
    size_t prompt;    /* which prompt's reply it belongs to */
    const char *text; /* whole characters, with a zero byte behind; often empty */
    size_t size;
    uint32_t token_id; /* an end-of-sequence token comes last and has no text */
    atom_edge_finish finish;
    double logprob;             /* of the token, if asked for; else 0 */
    const atom_edge_rated *top; /* the likeliest tokens, the likeliest first */
    size_t top_count;
    size_t prompt_tokens;     /* tokens of the prompt that the model saw */
    size_t truncated_tokens;  /* tokens of the prompt that were dropped at its start */
    size_t generation_tokens; /* of the reply so far, an end-of-sequence token not counted */
    double prompt_seconds;    /* from the call to the first token */
    double generation_seconds; /* from the first token to this one */
} atom_edge_piece;

/* Called in the thread that generates. Anything but 0 ends the generation. */
typedef int (*atom_edge_on_piece)(void *user, const atom_edge_piece *piece);

/* What ends generations from outside. */
typedef struct atom_edge_cancellation atom_edge_cancellation;

ATOM_EDGE_API atom_edge_cancellation *atom_edge_cancellation_new(atom_edge_error *error);
ATOM_EDGE_API void atom_edge_cancellation_free(atom_edge_cancellation *cancellation);

/* From any thread or signal handler, at any time, again if need be: every generation that was
 * given it ends after a few milliseconds, or after the 128 tokens of a prompt that are being read. */
ATOM_EDGE_API void atom_edge_cancel(atom_edge_cancellation *cancellation);

/* Continues a text that ends with a zero byte. `options` may be NULL for the defaults, `cancel`
 * may be NULL. */
ATOM_EDGE_API atom_edge_code atom_edge_generate(const atom_edge_session *session,
                                                const char *prompt,
                                                const atom_edge_options *options,
                                                atom_edge_on_piece on_piece, void *user,
                                                const atom_edge_cancellation *cancel,
                                                atom_edge_error *error);

/* Continues several prompts at once; every reply is the one that its prompt would get alone. */
ATOM_EDGE_API atom_edge_code atom_edge_generate_batch(const atom_edge_session *session,
                                                      const atom_edge_prompt *prompts,
                                                      size_t count,
                                                      const atom_edge_options *options,
                                                      atom_edge_on_piece on_piece, void *user,
                                                      const atom_edge_cancellation *cancel,
                                                      atom_edge_error *error);

/* ---- A tokenizer alone. Threads may share one. ---- */

typedef struct atom_edge_tokenizer atom_edge_tokenizer;

/* Reads a tokenizer.json. What it asks for and this library cannot do is an error with its name.
 * NULL on an error. */
ATOM_EDGE_API atom_edge_tokenizer *atom_edge_tokenizer_open(const char *path,
                                                            atom_edge_error *error);
ATOM_EDGE_API void atom_edge_tokenizer_free(atom_edge_tokenizer *tokenizer);

/* The ids of `size` bytes of text, nothing added at either end. Writes at most `room` ids and
 * returns how many there are; SIZE_MAX on an error. */
ATOM_EDGE_API size_t atom_edge_tokenizer_encode(const atom_edge_tokenizer *tokenizer,
                                                const char *text, size_t size, uint32_t *ids,
                                                size_t room, atom_edge_error *error);

#ifdef __cplusplus
}
#endif

#endif
