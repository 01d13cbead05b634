// A bundle, loaded: text in, text out.
#pragma once

#include <memory>
#include <optional>

#include "session/bundle.h"
#include "session/generation.h"

namespace atom_edge::session {

class Session {
  public:
    Session(const std::string &bundle, const std::string &onnxruntime, int threads);

    size_t context_length() const { return context_length_; }
    const Defaults &defaults() const { return defaults_; }

    // Threads may call it at the same time.
    void generate(const atom_edge_prompt *prompts, size_t count, const atom_edge_options *given,
                  const std::function<bool(const atom_edge_piece &)> &on_piece,
                  const std::function<bool()> &is_cancelled) const;

  private:
    void read_texts(Bundle &bundle);
    std::vector<uint32_t> encode(const atom_edge_prompt &prompt) const;

    size_t context_length_ = 0;
    Defaults defaults_;
    SpecialIds special_;
    std::unique_ptr<Graph> graph_;
    std::optional<NativeShape> shape_;
    std::optional<Tokenizer> tokenizer_;
    std::optional<PromptEncoder> prompt_;
    Decoding decoding_;
};

} // namespace atom_edge::session
