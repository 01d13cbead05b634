// Normalizers: how a text is changed before it is cut into words.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/json.h"

namespace atom_edge {

class Normalizer {
  public:
    Normalizer() = default; // changes nothing
    // Reads a "normalizer"; an `Error` that names what is not known.
    explicit Normalizer(const json::Value &settings) { read(settings); }

    std::string operator()(std::string_view text) const;

  private:
    enum class Rule { nfc, prepend, replace };
    struct Step {
        Rule rule;
        std::string pattern, content;
    };

    void read(const json::Value &settings);

    std::vector<Step> steps_;
};

// `text` with `content` in place of every `pattern`, which is not empty.
std::string replaced(std::string text, const std::string &pattern, const std::string &content);

} // namespace atom_edge
