#include "text/detokenizer.h"

#include <algorithm>
#include <charconv>

#include "error.h"
#include "text/normalizer.h"
#include "text/split.h"
#include "text/unicode.h"

namespace atom_edge {

namespace {

constexpr const char *REPLACEMENT = "\xEF\xBF\xBD";

[[noreturn]] void refuse(const std::string &what) {
    throw Error(ATOM_EDGE_BUNDLE, "The C++ tokenizer does not know the decoder " + what);
}

// The byte of a token such as <0xE2>; -1 for any other.
int written_byte(const std::string &token) {
    if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>')
        return -1;
    int value = 0;
    const char *end = token.data() + 5;
    const auto [stop, problem] = std::from_chars(token.data() + 3, end, value, 16);
    return problem == std::errc() && stop == end && token[3] != '-' ? value : -1;
}

// Whether `byte` may be the second of a character that `first` begins (Unicode, table 3-7).
bool may_follow(uint8_t first, uint8_t byte) {
    const uint8_t least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const uint8_t most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    return byte >= least && byte <= most;
}

} // namespace

Decoding Decoding::read(const json::Value &settings) {
    const std::string type(settings.at("type").string());
    if (type == "ByteLevel")
        return {};
    if (type != "Sequence")
        refuse(type);
    Decoding decoding;
    decoding.byte_level = false;
    std::string kinds; // R for Replace, B for ByteFallback, F for Fuse, S for Strip
    for (const json::Value &step : settings.at("decoders").items()) {
        const std::string_view kind = step.at("type").string();
        kinds += kind == "Replace"        ? 'R'
                 : kind == "ByteFallback" ? 'B'
                 : kind == "Fuse"         ? 'F'
                 : kind == "Strip"        ? 'S'
                                          : '?';
        if (kind == "Replace") {
            const json::Value *pattern = step.at("pattern").find("String");
            if (!pattern || pattern->string().empty())
                refuse("Replace with a regular expression");
            decoding.replaced.emplace_back(pattern->string(), step.at("content").string());
        }
        if (kind == "Strip" && step.at("start").integer() == 1 && step.at("stop").integer() == 0)
            decoding.strip = step.at("content").string();
    }
    kinds.erase(0, kinds.find_first_not_of('R'));
    if (kinds != "BF" && !(kinds == "BFS" && !decoding.strip.empty()))
        refuse("Sequence of other steps than Replace, ByteFallback, Fuse and Strip");
    return decoding;
}

std::string Decoding::bytes_of(const std::string &token) const {
    if (byte_level) {
        std::string bytes;
        return from_byte_alphabet(token, bytes) ? bytes : token;
    }
    if (const int byte = written_byte(token); byte >= 0)
        return std::string(1, char(byte));
    std::string text = token;
    for (const auto &[pattern, content] : replaced)
        text = atom_edge::replaced(std::move(text), pattern, content);
    return text;
}

void Utf8Decoder::push(std::string_view bytes, std::string &text) {
    for (const char c : bytes) {
        const auto byte = uint8_t(c);
        if (!held_.empty()) {
            const auto first = uint8_t(held_[0]);
            const bool fits = held_.size() == 1 ? may_follow(first, byte) : (byte & 0xC0) == 0x80;
            if (fits) {
                held_ += c;
                if (held_.size() == unicode::sequence_size(first)) {
                    text += held_;
                    held_.clear();
                }
                continue;
            }
            flush(text);
        }
        const size_t size = unicode::sequence_size(byte);
        if (size == 1)
            text += c;
        else if (size == 0)
            text += REPLACEMENT;
        else
            held_ = c;
    }
}

void Utf8Decoder::flush(std::string &text) {
    if (!held_.empty())
        text += REPLACEMENT;
    held_.clear();
}

Detokenizer::Detokenizer(const Tokenizer &tokenizer, const Decoding &decoding,
                         const std::vector<uint32_t> &after)
    : tokenizer_(tokenizer), decoding_(decoding),
      started_(decoding.strip.empty() ||
               std::any_of(after.begin(), after.end(),
                           [&](uint32_t id) { return !bytes_of(id).empty(); })) {}

std::string Detokenizer::bytes_of(uint32_t id) const {
    const std::string *token = tokenizer_.is_special(id) ? nullptr : tokenizer_.token(id);
    return token ? decoding_.bytes_of(*token) : std::string();
}

std::string Detokenizer::push(uint32_t id) {
    std::string text;
    decoder_.push(bytes_of(id), text);
    return begin(std::move(text));
}

std::string Detokenizer::flush() {
    std::string text;
    decoder_.flush(text);
    return begin(std::move(text));
}

std::string Detokenizer::begin(std::string text) {
    if (started_ || text.empty())
        return text;
    started_ = true;
    if (text.compare(0, decoding_.strip.size(), decoding_.strip) == 0)
        text.erase(0, decoding_.strip.size());
    return text;
}

} // namespace atom_edge
