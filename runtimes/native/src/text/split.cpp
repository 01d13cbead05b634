#include "text/split.h"

#include <algorithm>

#include "error.h"
#include "text/normalizer.h"
#include "text/unicode.h"

namespace atom_edge {

namespace {

using unicode::Kind;

constexpr std::string_view LLAMA3 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr std::string_view QWEN2 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

struct Letter {
    char32_t code;
    Kind kind;
    size_t begin; // of its bytes
};

// A text as characters, and matches of the known patterns from one of them on.
class Scanner {
  public:
    explicit Scanner(std::string_view text) : text_(text) {
        for (size_t at = 0; at < text.size();) {
            const unicode::Character next = unicode::first(text.substr(at));
            letters_.push_back({next.code, unicode::kind_of(next.code), at});
            at += next.size;
        }
    }

    Words cut(Split::Rule rule) const {
        Words words;
        for (size_t at = 0; at < letters_.size();) {
            const size_t end = rule == Split::Rule::gpt2         ? gpt2(at)
                               : rule == Split::Rule::each_digit ? digit(at)
                                                                 : llama3(at, rule);
            words.emplace_back(text_.substr(byte(at), byte(end) - byte(at)));
            at = end;
        }
        return words;
    }

  private:
    bool is(size_t at, Kind kind) const { return at < letters_.size() && letters_[at].kind == kind; }
    char32_t code(size_t at) const { return at < letters_.size() ? letters_[at].code : 0; }
    size_t byte(size_t at) const { return at < letters_.size() ? letters_[at].begin : text_.size(); }
    bool is_newline(size_t at) const { return code(at) == '\n' || code(at) == '\r'; }

    size_t run(size_t at, Kind kind, size_t most = SIZE_MAX) const {
        size_t end = at;
        while (is(end, kind) && end - at < most)
            ++end;
        return end;
    }

    size_t digit(size_t at) const {
        if (is(at, Kind::number))
            return at + 1;
        while (at < letters_.size() && !is(at, Kind::number))
            ++at;
        return at;
    }

    // 's, 't, 're, 've, 'm, 'll, 'd; `at` itself where there is none.
    size_t contraction(size_t at, bool any_case) const {
        if (code(at) != '\'')
            return at;
        const auto letter = [&](size_t index) -> char32_t {
            const char32_t c = code(index);
            if (!any_case)
                return c;
            return c == 0x17F ? 's' : c >= 'A' && c <= 'Z' ? c + 32 : c; // 0x17F: the long s
        };
        const char32_t first = letter(at + 1), second = letter(at + 2);
        if (first == 's' || first == 't' || first == 'm' || first == 'd')
            return at + 2;
        const bool two = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
                         (first == 'l' && second == 'l');
        return two ? at + 3 : at;
    }

    // \s+(?!\S)|\s+
    size_t spaces(size_t at) const {
        const size_t end = run(at, Kind::space);
        return end == letters_.size() || end == at + 1 ? end : end - 1;
    }

    size_t gpt2(size_t at) const {
        if (const size_t end = contraction(at, false); end != at)
            return end;
        const size_t start = at + (code(at) == ' ');
        if (start < letters_.size() && !is(start, Kind::space))
            return run(start, letters_[start].kind);
        return spaces(at);
    }

    size_t llama3(size_t at, Split::Rule rule) const {
        if (const size_t end = contraction(at, true); end != at)
            return end;
        if (is(at, Kind::letter))
            return run(at, Kind::letter);
        if (!is_newline(at) && !is(at, Kind::number) && is(at + 1, Kind::letter))
            return run(at + 1, Kind::letter);
        if (is(at, Kind::number))
            return run(at, Kind::number, rule == Split::Rule::qwen2 ? 1 : 3);
        const size_t start = at + (code(at) == ' ');
        if (is(start, Kind::other)) {
            size_t end = run(start, Kind::other);
            while (is_newline(end))
                ++end;
            return end;
        }
        for (size_t end = run(at, Kind::space); end > at; --end)
            if (is_newline(end - 1))
                return end;
        return spaces(at);
    }

    std::string_view text_;
    std::vector<Letter> letters_;
};

bool is_true(const json::Value &settings, std::string_view key, bool standard) {
    const json::Value *value = settings.given(key);
    return value ? value->boolean() : standard;
}

[[noreturn]] void refuse(const std::string &what) {
    throw Error(ATOM_EDGE_BUNDLE, "The C++ tokenizer does not know the pre-tokenizer " + what);
}

Split::Prefix metaspace_prefix(const json::Value &settings) {
    const json::Value *scheme = settings.given("prepend_scheme");
    if (!scheme)
        return is_true(settings, "add_prefix_space", true) ? Split::Prefix::always
                                                           : Split::Prefix::never;
    const std::string_view name = scheme->string();
    if (name != "always" && name != "first" && name != "never")
        refuse("Metaspace with prepend_scheme " + std::string(name));
    return name == "always"  ? Split::Prefix::always
           : name == "first" ? Split::Prefix::first
                             : Split::Prefix::never;
}

// The pieces of a word, cut after every `mark`, or before it.
Words cut_at(const std::string &word, const std::string &mark, bool before) {
    Words parts;
    size_t begin = 0;
    for (size_t at = word.find(mark); at != word.npos; at = word.find(mark, at + mark.size())) {
        const size_t end = before ? at : at + mark.size();
        if (end > begin)
            parts.push_back(word.substr(begin, end - begin));
        begin = end;
    }
    if (begin < word.size())
        parts.push_back(word.substr(begin));
    return parts;
}

void read(const json::Value &settings, std::vector<Split> &steps) {
    const std::string type(settings.at("type").string());
    if (type == "Sequence") {
        for (const json::Value &step : settings.at("pretokenizers").items())
            read(step, steps);
    } else if (type == "ByteLevel") {
        const auto prefix = is_true(settings, "add_prefix_space", true) ? Split::Prefix::always
                                                                        : Split::Prefix::never;
        const bool cut = is_true(settings, "use_regex", true);
        if (cut)
            steps.push_back({Split::Rule::gpt2, prefix, "", true});
        steps.push_back({Split::Rule::bytes, cut ? Split::Prefix::never : prefix, "", true});
    } else if (type == "Digits" && is_true(settings, "individual_digits", false)) {
        steps.push_back({Split::Rule::each_digit, Split::Prefix::never, "", true});
    } else if (type == "Metaspace") {
        steps.push_back({Split::Rule::metaspace, metaspace_prefix(settings),
                         std::string(settings.at("replacement").string()),
                         is_true(settings, "split", true)});
    } else if (type == "Split" && settings.at("pattern").find("String")) {
        const std::string mark(settings.at("pattern").at("String").string());
        if (settings.at("behavior").string() != "MergedWithPrevious" || mark.empty() ||
            is_true(settings, "invert", false))
            refuse("Split at the text " + mark);
        steps.push_back({Split::Rule::after, Split::Prefix::never, mark, true});
    } else if (type == "Split") {
        const json::Value *pattern = settings.at("pattern").find("Regex");
        const std::string_view text = pattern ? pattern->string() : std::string_view();
        const bool known = text == LLAMA3 || text == QWEN2;
        if (!known || settings.at("behavior").string() != "Isolated" ||
            is_true(settings, "invert", false))
            refuse("Split with the pattern " + std::string(text));
        steps.push_back({text == LLAMA3 ? Split::Rule::llama3 : Split::Rule::qwen2,
                         Split::Prefix::never, "", true});
    } else {
        refuse(type);
    }
}

} // namespace

Words Split::apply(const Words &words, bool begins) const {
    Words out;
    for (size_t i = 0; i < words.size(); ++i) {
        const std::string &word = words[i];
        Words parts;
        if (rule == Rule::metaspace) {
            parts = metaspaced(word, begins && i == 0);
        } else if (rule == Rule::after) {
            parts = cut_at(word, mark, false);
        } else {
            const bool prefixed = prefix == Prefix::always && word[0] != ' ';
            const std::string whole = prefixed ? " " + word : word;
            if (rule == Rule::bytes)
                parts.push_back(byte_alphabet(whole));
            else
                parts = Scanner(whole).cut(rule);
        }
        std::move(parts.begin(), parts.end(), std::back_inserter(out));
    }
    return out;
}

Words Split::metaspaced(const std::string &word, bool begins) const {
    std::string marked = replaced(word, " ", mark);
    const bool prefixed = prefix == Prefix::always || (prefix == Prefix::first && begins);
    if (prefixed && marked.compare(0, mark.size(), mark) != 0)
        marked.insert(0, mark);
    return cuts ? cut_at(marked, mark, true) : Words{marked};
}

std::vector<Split> read_splits(const json::Value &settings) {
    std::vector<Split> steps;
    read(settings, steps);
    return steps;
}

namespace {

constexpr char32_t FIRST_SUBSTITUTE = 0x100;

bool is_printable(int byte) {
    return (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
}

// Printable bytes stand for themselves, the others in turn for the characters from U+0100 on.
struct Alphabet {
    char32_t shown[256];
    uint8_t substituted[256]; // the byte of each of those characters
    char32_t end = FIRST_SUBSTITUTE;

    Alphabet() {
        for (int byte = 0; byte < 256; ++byte)
            if (is_printable(byte)) {
                shown[byte] = char32_t(byte);
            } else {
                substituted[end - FIRST_SUBSTITUTE] = uint8_t(byte);
                shown[byte] = end++;
            }
    }
};

const Alphabet ALPHABET;

} // namespace

std::string byte_alphabet(std::string_view word) {
    std::string out;
    for (const char byte : word)
        unicode::append(out, ALPHABET.shown[uint8_t(byte)]);
    return out;
}

bool from_byte_alphabet(std::string_view word, std::string &bytes) {
    bytes.clear();
    while (!word.empty()) {
        const unicode::Character next = unicode::first(word);
        if (next.code >= FIRST_SUBSTITUTE && next.code < ALPHABET.end)
            bytes += char(ALPHABET.substituted[next.code - FIRST_SUBSTITUTE]);
        else if (next.code < FIRST_SUBSTITUTE && is_printable(int(next.code)))
            bytes += char(next.code);
        else
            return false;
        word.remove_prefix(next.size);
    }
    return true;
}

} // namespace atom_edge
