// Tokens to shown text: stop texts, which may span tokens.
#pragma once

#include <string>
#include <vector>

#include "text/detokenizer.h"

namespace atom_edge {

// Gives out text as soon as it is certain that it is part of the reply. Of several stop texts, the
// one that ends first ends the reply, and the longest of those that end there.
class TextStream {
  public:
    TextStream(Detokenizer detokenizer, const std::vector<std::string> &stop)
        : detokenizer_(std::move(detokenizer)), stop_(stop) {}

    std::string push(uint32_t id) { return filter(detokenizer_.push(id)); }
    std::string flush();
    bool stopped() const { return stopped_; }

  private:
    std::string filter(std::string piece);
    size_t could_stop(const std::string &text) const;

    Detokenizer detokenizer_;
    const std::vector<std::string> &stop_;
    std::string held_;
    bool stopped_ = false;
};

} // namespace atom_edge
