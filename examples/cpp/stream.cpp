// Continues a prompt and prints the text as it comes; Ctrl+C ends it: stream BUNDLE ONNXRUNTIME PROMPT
#include <atom_edge.h>

#include <csignal>
#include <iostream>
#include <memory>

static atom_edge_cancellation *const cancellation = atom_edge_cancellation_new(nullptr);

int main(int count, char **arguments) {
    if (count != 4) {
        std::cerr << "usage: " << arguments[0] << " BUNDLE ONNXRUNTIME PROMPT\n";
        return 2;
    }
    std::signal(SIGINT, [](int) { atom_edge_cancel(cancellation); });
    atom_edge_error error;
    const std::unique_ptr<atom_edge_session, decltype(&atom_edge_session_free)> session(
        atom_edge_session_open(arguments[1], arguments[2], 0, &error), atom_edge_session_free);
    if (session) {
        atom_edge_options options = atom_edge_options_default(session.get());
        options.temperature = 0; // the likeliest token each time
        const auto show = [](void *stream, const atom_edge_piece *piece) {
            *static_cast<std::ostream *>(stream) << piece->text << std::flush;
            return 0;
        };
        atom_edge_generate(session.get(), arguments[3], &options, show, &std::cout, cancellation,
                           &error);
    }
    atom_edge_cancellation_free(cancellation);
    if (error.code)
        std::cerr << "error: " << error.message << ".\n";
    return error.code ? 1 : 0;
}
