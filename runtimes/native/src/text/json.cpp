#include "text/json.h"

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "error.h"
#include "text/unicode.h"

namespace atom_edge::json {

namespace {

constexpr int DEEPEST = 64;

const char *name_of(Value::Type type) {
    switch (type) {
    case Value::Type::null:
        return "null";
    case Value::Type::boolean:
        return "a boolean";
    case Value::Type::number:
        return "a number";
    case Value::Type::string:
        return "a string";
    case Value::Type::array:
        return "an array";
    case Value::Type::object:
        return "an object";
    }
    return "";
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

} // namespace

void Value::require(Type wanted) const {
    if (type != wanted)
        throw Error(ATOM_EDGE_BUNDLE, std::string("a JSON value is ") + name_of(type) +
                                          " where " + name_of(wanted) + " belongs");
}

bool Value::boolean() const {
    require(Type::boolean);
    return text_ == "true";
}

int64_t Value::integer() const {
    require(Type::number);
    int64_t value = 0;
    auto [end, problem] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
    if (problem != std::errc() || end != text_.data() + text_.size())
        throw Error(ATOM_EDGE_BUNDLE, "the JSON number " + std::string(text_) +
                                          " is not a whole number of 64 bits");
    return value;
}

double Value::number() const {
    require(Type::number);
    double value = 0;
    std::from_chars(text_.data(), text_.data() + text_.size(), value);
    return value;
}

std::string_view Value::string() const {
    require(Type::string);
    return text_;
}

const std::vector<Value> &Value::items() const {
    require(Type::array);
    return items_;
}

const std::vector<Member> &Value::members() const {
    require(Type::object);
    return members_;
}

const Value *Value::find(std::string_view key) const {
    require(Type::object);
    for (auto member = members_.rbegin(); member != members_.rend(); ++member)
        if (member->key == key)
            return &member->value;
    return nullptr;
}

const Value *Value::given(std::string_view key) const {
    const Value *value = find(key);
    return value && !value->is(Type::null) ? value : nullptr;
}

const Value &Value::at(std::string_view key) const {
    if (const Value *value = find(key))
        return *value;
    throw Error(ATOM_EDGE_BUNDLE, "a JSON object lacks \"" + std::string(key) + "\"");
}

// Reads one text from its beginning to its end, once.
class Reader {
  public:
    Reader(std::string &text, const std::string &name)
        : begin_(text.data()), at_(begin_), end_(begin_ + text.size()), name_(name) {}

    Value document() {
        Value value = read(0);
        skip_space();
        if (at_ != end_)
            fail("text after the value");
        return value;
    }

  private:
    [[noreturn]] void fail(const char *what) const {
        throw Error(ATOM_EDGE_BUNDLE, name_ + " is not valid JSON: " + what + " at byte " +
                                          std::to_string(at_ - begin_));
    }

    void skip_space() {
        while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t'))
            ++at_;
    }

    bool take(char c) {
        skip_space();
        if (at_ == end_ || *at_ != c)
            return false;
        ++at_;
        return true;
    }

    Value read(int depth) {
        if (depth > DEEPEST)
            fail("values nested too deeply");
        skip_space();
        if (at_ == end_)
            fail("end of the text");
        switch (*at_) {
        case '{':
            return object(depth);
        case '[':
            return array(depth);
        case '"': {
            Value value;
            value.type = Value::Type::string;
            value.text_ = string();
            return value;
        }
        case 't':
            return word("true", Value::Type::boolean);
        case 'f':
            return word("false", Value::Type::boolean);
        case 'n':
            return word("null", Value::Type::null);
        default:
            return number();
        }
    }

    Value object(int depth) {
        Value value;
        value.type = Value::Type::object;
        ++at_;
        if (take('}'))
            return value;
        do {
            skip_space();
            if (at_ == end_ || *at_ != '"')
                fail("no key");
            std::string_view key = string();
            if (!take(':'))
                fail("no colon");
            value.members_.push_back({key, read(depth + 1)});
        } while (take(','));
        if (!take('}'))
            fail("an object that does not end");
        return value;
    }

    Value array(int depth) {
        Value value;
        value.type = Value::Type::array;
        ++at_;
        if (take(']'))
            return value;
        do
            value.items_.push_back(read(depth + 1));
        while (take(','));
        if (!take(']'))
            fail("an array that does not end");
        return value;
    }

    Value word(std::string_view expected, Value::Type type) {
        if (size_t(end_ - at_) < expected.size() || std::string_view(at_, expected.size()) != expected)
            fail("an unknown word");
        Value value;
        value.type = type;
        value.text_ = expected;
        at_ += expected.size();
        return value;
    }

    Value number() {
        const char *start = at_;
        take_if('-');
        if (!take_if('0') && !digits())
            fail("an unknown character");
        if (take_if('.') && !digits())
            fail("a number without its decimals");
        if (take_if('e') || take_if('E')) {
            if (!take_if('+'))
                take_if('-');
            if (!digits())
                fail("a number without its exponent");
        }
        Value value;
        value.type = Value::Type::number;
        value.text_ = std::string_view(start, size_t(at_ - start));
        return value;
    }

    bool take_if(char c) {
        if (at_ == end_ || *at_ != c)
            return false;
        ++at_;
        return true;
    }

    bool digits() {
        const char *start = at_;
        while (at_ != end_ && is_digit(*at_))
            ++at_;
        return at_ != start;
    }

    // Unescapes in place: a string is never longer than it is written.
    std::string_view string() {
        char *start = ++at_, *out = start;
        for (;;) {
            if (at_ == end_)
                fail("a string that does not end");
            char c = *at_++;
            if (c == '"')
                return {start, size_t(out - start)};
            if (uint8_t(c) < 0x20)
                fail("a control character in a string");
            if (c == '\\')
                out = escape(out);
            else
                *out++ = c;
        }
    }

    char *escape(char *out) {
        if (at_ == end_)
            fail("a string that does not end");
        static const std::string_view names = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
        char c = *at_++;
        if (c == 'u')
            return unicode::encode(code_point(), out);
        size_t index = names.find(c);
        if (index == names.npos)
            fail("an unknown escape");
        *out++ = meanings[index];
        return out;
    }

    char32_t code_point() {
        char32_t high = unit();
        if (high < 0xD800 || high > 0xDFFF)
            return high;
        if (high > 0xDBFF || !take_if('\\') || !take_if('u'))
            fail("half of a surrogate pair");
        char32_t low = unit();
        if (low < 0xDC00 || low > 0xDFFF)
            fail("half of a surrogate pair");
        return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    }

    char32_t unit() {
        unsigned value = 0;
        if (end_ - at_ < 4)
            fail("an escape that does not end");
        auto [stop, problem] = std::from_chars(at_, at_ + 4, value, 16);
        if (problem != std::errc() || stop != at_ + 4)
            fail("an escape that is not hexadecimal");
        at_ += 4;
        return value;
    }

    char *const begin_;
    char *at_;
    char *const end_;
    const std::string &name_;
};

Document::Document(std::string text, const std::string &name) : text_(std::move(text)) {
    if (!unicode::is_valid(text_))
        throw Error(ATOM_EDGE_BUNDLE, name + " is not valid UTF-8");
    root_ = Reader(text_, name).document();
}

std::string read_file(const std::string &path, uint64_t most) {
    std::error_code unknown;
    // A pipe or a device would block, or never end.
    if (!std::filesystem::is_regular_file(std::filesystem::u8path(path), unknown))
        throw Error(ATOM_EDGE_BUNDLE, path + " is missing, or is not a regular file");
    std::ifstream file(std::filesystem::u8path(path), std::ios::binary | std::ios::ate);
    if (!file)
        throw Error(ATOM_EDGE_BUNDLE, path + " cannot be opened: " + std::strerror(errno));
    const std::streamoff size = file.tellg();
    if (size < 0 || uint64_t(size) > most)
        throw Error(ATOM_EDGE_BUNDLE, path + " is not a file of at most " + std::to_string(most) +
                                          " bytes");
    std::string text(size_t(size), '\0');
    file.seekg(0);
    if (!file.read(text.data(), size))
        throw Error(ATOM_EDGE_BUNDLE, path + " cannot be read: " + std::strerror(errno));
    return text;
}

} // namespace atom_edge::json
