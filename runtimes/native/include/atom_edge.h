/* atom_edge.h: what atom-edge offers to C and C++. Strings are UTF-8. */
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
    ATOM_EDGE_ARGUMENT = 1, /* an argument that cannot be used */
    ATOM_EDGE_BUNDLE = 2,   /* a file that is missing, damaged or not supported */
    ATOM_EDGE_MEMORY = 3    /* no memory left */
} atom_edge_code;

/* Memory of the caller, in which a function says what went wrong. */
typedef struct {
    atom_edge_code code;
    char message[512];
} atom_edge_error;

/* The version of the library, such as "0.1.0". */
ATOM_EDGE_API const char *atom_edge_version(void);

/* A byte-level BPE tokenizer. Threads may share one. */
typedef struct atom_edge_tokenizer atom_edge_tokenizer;

/* Reads a tokenizer.json. What it asks for and this library cannot do is an error with its name.
 * NULL on an error. `error` may be NULL, here and below. */
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
