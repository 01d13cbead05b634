/* Continues a prompt and prints the text as it comes: stream BUNDLE ONNXRUNTIME PROMPT */
#include <atom_edge.h>
#include <stdio.h>

static int show(void *user, const atom_edge_piece *piece) {
    (void)user;
    fwrite(piece->text, 1, piece->size, stdout);
    return fflush(stdout);
}

int main(int count, char **arguments) {
    atom_edge_error error;
    if (count != 4) {
        fprintf(stderr, "usage: %s BUNDLE ONNXRUNTIME PROMPT\n", arguments[0]);
        return 2;
    }
    atom_edge_session *session = atom_edge_session_open(arguments[1], arguments[2], 0, &error);
    if (session) {
        atom_edge_options options = atom_edge_options_default(session);
        options.max_new_tokens = 64;
        options.has_seed = 1; /* the same text each time; leave it out for another one */
        options.seed = 1;
        atom_edge_generate(session, arguments[3], &options, show, NULL, NULL, &error);
        atom_edge_session_free(session);
    }
    if (error.code)
        fprintf(stderr, "error: %s.\n", error.message);
    return error.code ? 1 : 0;
}
