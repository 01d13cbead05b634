/* Many generations, and many errors, in one process: endurance BUNDLE ONNXRUNTIME COUNT
 *
 * Prints how much memory is held at a tenth of the way and at the end, in kilobytes. */
#include <atom_edge.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    atom_edge_cancellation *cancel;
    size_t pieces, cancel_at;
} state;

static int count_piece(void *user, const atom_edge_piece *piece) {
    state *seen = user;
    if (piece->size != strlen(piece->text) || (piece->top_count && !piece->top))
        abort();
    if (++seen->pieces == seen->cancel_at)
        atom_edge_cancel(seen->cancel);
    return seen->pieces == 12;
}

static long held_kilobytes(void) {
    char line[256];
    long held = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmRSS: %ld", &held) == 1)
            break;
    if (status)
        fclose(status);
    return held;
}

static atom_edge_code generate(const atom_edge_session *session, unsigned round) {
    static const char *const stops[] = {" the", "\n"};
    static const uint32_t ids[] = {5, 77, 300};
    const atom_edge_prompt prompts[] = {{"The sea", 7, NULL, 0}, {NULL, 0, ids, 3}};
    atom_edge_error error;
    state seen = {atom_edge_cancellation_new(NULL), 0, round % 7 == 0 ? 5 : 0};
    atom_edge_options options = atom_edge_options_default(session);
    options.max_new_tokens = 1 + round % 10;
    options.has_seed = round % 2;
    options.seed = round;
    options.temperature = round % 3;
    options.repetition_penalty = round % 5 ? 1 : 1.2;
    options.logprobs = (int64_t)(round % 4) - 1;
    options.stop = stops;
    options.stop_count = round % 3;
    if (round % 11 == 0)
        options.top_p = 2;
    atom_edge_generate_batch(session, prompts, 1 + round % 2, &options, count_piece, &seen,
                             seen.cancel, &error);
    atom_edge_cancellation_free(seen.cancel);
    return error.code;
}

int main(int count, char **arguments) {
    if (count != 4)
        return 2;
    const unsigned rounds = (unsigned)atoi(arguments[3]);
    unsigned seen[ATOM_EDGE_CANCELLED + 1] = {0};
    long early = 0;
    atom_edge_session *session = NULL;
    for (int times = 0; times < 3; times++) {
        atom_edge_session_free(session);
        if (atom_edge_session_open("nowhere", arguments[2], 0, NULL))
            return 1;
        session = atom_edge_session_open(arguments[1], arguments[2], 0, NULL);
        if (!session)
            return 1;
    }
    for (unsigned round = 1; round <= rounds; round++) {
        seen[generate(session, round)]++;
        if (round == (rounds + 9) / 10)
            early = held_kilobytes();
    }
    printf("%ld %ld\n", early, held_kilobytes());
    atom_edge_session_free(session);
    return !(seen[ATOM_EDGE_OK] && seen[ATOM_EDGE_ARGUMENT] && seen[ATOM_EDGE_CANCELLED]);
}
