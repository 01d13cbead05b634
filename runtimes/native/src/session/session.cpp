#include "session/session.h"

#include <algorithm>
#include <future>
#include <thread>

#include "error.h"

namespace atom_edge::session {

namespace {

// Bytes of a graph whose products are too short to share between threads; see
// runtimes/providers.py.
constexpr size_t SMALL = 16 << 20;
constexpr int MOST_THREADS = 4;

int default_threads(size_t bytes) {
    const int cores = int(std::thread::hardware_concurrency());
    return bytes < SMALL ? 1 : std::clamp(cores / 2, 1, MOST_THREADS);
}

} // namespace

Session::Session(const std::string &folder, const std::string &onnxruntime, int threads) {
    // To start onnxruntime takes as long as to verify a bundle: both at once.
    auto runtime = std::async(std::launch::async,
                              [&] { return std::make_unique<Runtime>(onnxruntime); });
    Bundle bundle(folder);
    context_length_ = size_t(bundle.context_length());
    const std::string graph = bundle.take_graph();
    read_texts(bundle);
    graph_ = std::make_unique<Graph>(runtime.get(), graph,
                                     threads ? threads : default_threads(graph.size()),
                                     threads > 0);
    shape_.emplace(*graph_);
}

void Session::read_texts(Bundle &bundle) {
    const auto read = [&](const char *name) {
        return json::Document(bundle.take(name), bundle.path(name));
    };
    const auto of_file = [&](const char *name, const auto &work) {
        try {
            work();
        } catch (const Error &error) {
            throw Error(ATOM_EDGE_BUNDLE, bundle.path(name) + ": " + error.what());
        }
    };
    const json::Document generation = read("generation_config.json"), config = read("config.json"),
                         tokenizer = read("tokenizer.json");
    bool adds_begin = false;
    if (bundle.has("tokenizer_config.json")) {
        const json::Document settings = read("tokenizer_config.json");
        const json::Value *value = settings.root().given("add_bos_token");
        adds_begin = value && value->is(json::Value::Type::boolean) && value->boolean();
    }
    of_file("generation_config.json", [&] {
        defaults_ = Defaults::read(generation.root());
        special_ = SpecialIds::read(generation.root(), config.root());
    });
    of_file("tokenizer.json", [&] {
        tokenizer_.emplace(tokenizer.root());
        const json::Value *decoder = tokenizer.root().given("decoder");
        if (!decoder)
            throw Error(ATOM_EDGE_BUNDLE, "The C++ tokenizer needs a decoder, and there is none");
        decoding_ = Decoding::read(*decoder);
        prompt_.emplace(*tokenizer_, tokenizer.root(), special_, adds_begin);
    });
}

void Session::generate(const atom_edge_prompt *prompts, size_t count,
                       const atom_edge_options *given,
                       const std::function<bool(const atom_edge_piece &)> &on_piece,
                       const std::function<bool()> &is_cancelled) const {
    const Options options = defaults_.chosen(given);
    if (!count)
        return;
    const auto vocabulary = size_t(shape_->vocabulary);
    std::vector<Prompt> encoded;
    size_t longest = 0;
    for (size_t i = 0; i < count; ++i) {
        encoded.push_back(fit(encode(prompts[i]), vocabulary, context_length_));
        longest = std::max(longest, encoded.back().ids.size());
    }
    const int64_t most = options.max_new_tokens ? options.max_new_tokens
                                                : defaults_.max_new_tokens(longest);
    std::vector<Request> requests;
    std::vector<int64_t> rooms;
    for (Prompt &prompt : encoded) {
        const auto length = int64_t(prompt.ids.size());
        const int64_t room = std::min(most, int64_t(context_length_) - length);
        rooms.push_back(length + room);
        TextStream text(Detokenizer(*tokenizer_, decoding_, prompt.ids), options.stop);
        requests.push_back({std::move(prompt), std::move(text), room});
    }
    Batch batch(*graph_, *shape_, options, special_.end, rooms);
    atom_edge::session::generate(batch, std::move(requests), options, special_.end, on_piece, is_cancelled);
}

std::vector<uint32_t> Session::encode(const atom_edge_prompt &prompt) const {
    if (prompt.text)
        return (*prompt_)(std::string_view(prompt.text, prompt.size));
    if (!prompt.ids && prompt.id_count)
        throw Error(ATOM_EDGE_ARGUMENT, "A prompt has neither a text nor token ids");
    return (*prompt_)(std::vector<uint32_t>(prompt.ids, prompt.ids + prompt.id_count));
}

} // namespace atom_edge::session
