#include "text/stream.h"

#include <algorithm>

namespace atom_edge {

std::string TextStream::flush() {
    std::string text = filter(detokenizer_.flush());
    text += held_;
    held_.clear();
    return text;
}

std::string TextStream::filter(std::string piece) {
    if (stop_.empty())
        return piece;
    if (stopped_)
        return {};
    std::string text = held_ + piece;
    size_t end = text.npos, begin = text.npos;
    for (const std::string &stop : stop_)
        if (const size_t at = text.find(stop); at != text.npos)
            if (at + stop.size() < end || (at + stop.size() == end && at < begin))
                begin = at, end = at + stop.size();
    if (end != text.npos) {
        stopped_ = true;
        held_.clear();
        return text.substr(0, begin);
    }
    const size_t shown = text.size() - could_stop(text);
    held_ = text.substr(shown);
    text.resize(shown);
    return text;
}

// Length of the longest end of `text` that is the beginning of a stop text.
size_t TextStream::could_stop(const std::string &text) const {
    size_t longest = 0;
    for (const std::string &stop : stop_) {
        size_t length = std::min(text.size(), stop.size() - 1);
        while (length > longest && text.compare(text.size() - length, length, stop, 0, length) != 0)
            --length;
        longest = std::max(longest, length);
    }
    return longest;
}

} // namespace atom_edge
