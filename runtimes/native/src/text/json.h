// JSON (RFC 8259), read strictly: valid UTF-8, no comments, no trailing commas, bounded depth.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace atom_edge::json {

struct Member;

// A value, and what it holds. Every accessor throws `Error` (ATOM_EDGE_BUNDLE) where the value is of
// another type.
class Value {
  public:
    enum class Type { null, boolean, number, string, array, object };

    Type type = Type::null;

    bool is(Type other) const { return type == other; }
    bool boolean() const;
    int64_t integer() const;
    double number() const;
    std::string_view string() const;
    const std::vector<Value> &items() const;
    const std::vector<Member> &members() const;

    // A member of an object; null where there is none. Of a repeated key, the last counts.
    const Value *find(std::string_view key) const;
    // As `find`, but a member that is null counts as none.
    const Value *given(std::string_view key) const;
    // As `find`, but a missing member is an error.
    const Value &at(std::string_view key) const;

  private:
    friend class Reader;

    void require(Type wanted) const;

    std::string_view text_; // of a string, unescaped; of a number or boolean, as written
    std::vector<Value> items_;
    std::vector<Member> members_;
};

struct Member {
    std::string_view key;
    Value value;
};

// A parsed file. Its strings lie in the text, unescaped in place.
class Document {
  public:
    // `name` is what an error calls the text.
    Document(std::string text, const std::string &name);
    Document(const Document &) = delete;
    Document &operator=(const Document &) = delete;

    const Value &root() const { return root_; }

  private:
    std::string text_;
    Value root_;
};

// The contents of a file of at most `most` bytes.
std::string read_file(const std::string &path, uint64_t most);

} // namespace atom_edge::json
