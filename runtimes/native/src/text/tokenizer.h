// Text to token ids, as a tokenizer.json says.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "text/json.h"
#include "text/normalizer.h"
#include "text/split.h"

namespace atom_edge {

class Tokenizer {
  public:
    explicit Tokenizer(const json::Value &settings);

    // Ids of a text, nothing added at either end; an `Error` for one that is not UTF-8.
    std::vector<uint32_t> encode(std::string_view text) const;

    // The token as it is written in the vocabulary; null for an id outside it.
    const std::string *token(uint32_t id) const;
    // The id of a token as it is written; null if there is none.
    const uint32_t *find(const std::string &token) const;
    // Whether it is a token that has no text.
    bool is_special(uint32_t id) const { return special_.count(id) > 0; }

  private:
    using Ids = std::vector<uint32_t>;

    struct Merge {
        uint32_t rank, id;
    };
    // A token that is found in the text itself.
    struct Added {
        std::string content;
        uint32_t id;
    };

    void read_model(const json::Value &model);
    void read_added(const json::Value &tokens);
    void list_tokens();
    void encode_plain(std::string_view text, Ids &ids, bool begins) const;
    std::vector<uint32_t> symbols_of(const std::string &word) const;
    void encode_word(const std::string &word, Ids &ids) const;
    void split_at(const std::vector<Added> &added, std::string_view text, Ids &ids,
                  bool begins, void (Tokenizer::*rest)(std::string_view, Ids &, bool) const) const;
    void normalize(std::string_view text, Ids &ids, bool begins) const;

    Normalizer normalizer_;
    bool ignore_merges_ = false, fuse_unknown_ = false;
    std::vector<uint32_t> bytes_; // the tokens <0x00> to <0xFF>; empty without byte fallback
    std::optional<uint32_t> unknown_;
    std::unordered_map<std::string, uint32_t> vocabulary_;
    std::unordered_map<std::string, uint32_t> added_;
    std::vector<const std::string *> tokens_; // by id; keys of the two maps above
    std::unordered_set<uint32_t> special_;
    std::unordered_map<uint64_t, Merge> merges_;
    std::vector<Added> raw_, normalized_; // sought before and after the normalizer, longest first
    std::vector<Split> splits_;
};

} // namespace atom_edge
