#include "text/tokenizer.h"

#include <algorithm>
#include <cstdio>
#include <queue>
#include <tuple>

#include "error.h"
#include "text/unicode.h"

namespace atom_edge {

namespace {

constexpr int64_t MOST_TOKENS = 1 << 24;

uint64_t pair_of(uint32_t first, uint32_t second) { return uint64_t(first) << 32 | second; }

[[noreturn]] void refuse(const std::string &what) {
    throw Error(ATOM_EDGE_BUNDLE, "The C++ tokenizer does not know " + what);
}

bool is_set(const json::Value &settings, std::string_view key) {
    const json::Value *value = settings.given(key);
    return value && value->boolean();
}

uint32_t id_of(const json::Value &value) {
    const int64_t id = value.integer();
    if (id < 0 || id >= MOST_TOKENS)
        throw Error(ATOM_EDGE_BUNDLE, "the token id " + std::to_string(id) + " is out of range");
    return uint32_t(id);
}

} // namespace

Tokenizer::Tokenizer(const json::Value &settings) {
    if (const json::Value *normalizer = settings.given("normalizer"))
        normalizer_ = Normalizer(*normalizer);
    if (const json::Value *splits = settings.given("pre_tokenizer"))
        splits_ = read_splits(*splits);
    read_model(settings.at("model"));
    if (const json::Value *tokens = settings.given("added_tokens"))
        read_added(*tokens);
    list_tokens();
}

const std::string *Tokenizer::token(uint32_t id) const {
    return id < tokens_.size() ? tokens_[id] : nullptr;
}

const uint32_t *Tokenizer::find(const std::string &token) const {
    for (const auto *tokens : {&added_, &vocabulary_})
        if (const auto found = tokens->find(token); found != tokens->end())
            return &found->second;
    return nullptr;
}

void Tokenizer::list_tokens() {
    for (const auto *tokens : {&vocabulary_, &added_})
        for (const auto &[token, id] : *tokens) {
            if (id >= tokens_.size())
                tokens_.resize(size_t(id) + 1);
            tokens_[id] = &token;
        }
}

void Tokenizer::read_model(const json::Value &model) {
    const json::Value *type = model.given("type");
    if (type && type->string() != "BPE")
        refuse("the model " + std::string(type->string()));
    for (const char *key : {"continuing_subword_prefix", "end_of_word_suffix"})
        if (const json::Value *value = model.given(key); value && !value->string().empty())
            refuse(std::string("a model with ") + key);
    if (const json::Value *dropout = model.given("dropout"); dropout && dropout->number() != 0)
        refuse("a model with dropout");
    ignore_merges_ = is_set(model, "ignore_merges");
    for (const json::Member &entry : model.at("vocab").members())
        vocabulary_[std::string(entry.key)] = id_of(entry.value);
    const auto find_token = [&](const std::string &token, const char *who) {
        const auto found = vocabulary_.find(token);
        if (found == vocabulary_.end())
            throw Error(ATOM_EDGE_BUNDLE,
                        std::string(who) + " names " + token + ", which is no token");
        return found->second;
    };
    if (const json::Value *unknown = model.given("unk_token"); unknown && !unknown->string().empty())
        unknown_ = find_token(std::string(unknown->string()), "unk_token");
    fuse_unknown_ = is_set(model, "fuse_unk");
    if (is_set(model, "byte_fallback"))
        for (int byte = 0; byte < 256; ++byte) {
            char token[8];
            std::snprintf(token, sizeof token, "<0x%02X>", byte);
            bytes_.push_back(find_token(token, "byte_fallback"));
        }
    const auto find = [&](const std::string &token) { return find_token(token, "a merge"); };
    uint32_t rank = 0;
    for (const json::Value &merge : model.at("merges").items()) {
        std::string first, second;
        if (merge.is(json::Value::Type::string)) {
            const std::string_view line = merge.string();
            if (line.substr(0, 8) == "#version")
                continue;
            const size_t space = line.find(' ');
            if (space == line.npos || line.find(' ', space + 1) != line.npos)
                throw Error(ATOM_EDGE_BUNDLE, "a merge is not two tokens");
            first = line.substr(0, space);
            second = line.substr(space + 1);
        } else {
            if (merge.items().size() != 2)
                throw Error(ATOM_EDGE_BUNDLE, "a merge is not two tokens");
            first = merge.items()[0].string();
            second = merge.items()[1].string();
        }
        merges_[pair_of(find(first), find(second))] = {rank++, find(first + second)};
    }
}

void Tokenizer::read_added(const json::Value &tokens) {
    for (const json::Value &token : tokens.items()) {
        std::string content(token.at("content").string());
        for (const char *key : {"single_word", "lstrip", "rstrip"})
            if (is_set(token, key))
                refuse("the option " + std::string(key) + " of the token " + content);
        const uint32_t id = id_of(token.at("id"));
        if (content.empty())
            continue;
        const auto known = vocabulary_.find(content);
        if (known != vocabulary_.end() && known->second != id)
            throw Error(ATOM_EDGE_BUNDLE, "the token " + content + " has two ids");
        added_[content] = id;
        if (is_set(token, "special"))
            special_.insert(id);
        const bool after = is_set(token, "normalized");
        if (after)
            content = normalizer_(content);
        (after ? normalized_ : raw_).push_back({content, id});
    }
    for (auto *added : {&raw_, &normalized_})
        std::stable_sort(added->begin(), added->end(), [](const Added &a, const Added &b) {
            return a.content.size() > b.content.size();
        });
}

std::vector<uint32_t> Tokenizer::encode(std::string_view text) const {
    if (!unicode::is_valid(text))
        throw Error(ATOM_EDGE_ARGUMENT, "The text is not valid UTF-8");
    Ids ids;
    split_at(raw_, text, ids, true, &Tokenizer::normalize);
    return ids;
}

// Gives the ids of added tokens, the longest at each place, and leaves what is between to `rest`.
// `begins`: whether the text begins the whole one.
void Tokenizer::split_at(const std::vector<Added> &added, std::string_view text, Ids &ids,
                         bool begins,
                         void (Tokenizer::*rest)(std::string_view, Ids &, bool) const) const {
    size_t begin = 0;
    for (size_t at = 0; at < text.size();) {
        const auto found = std::find_if(added.begin(), added.end(), [&](const Added &token) {
            return text.compare(at, token.content.size(), token.content) == 0;
        });
        if (found == added.end()) {
            ++at;
            continue;
        }
        if (at > begin)
            (this->*rest)(text.substr(begin, at - begin), ids, begins && begin == 0);
        ids.push_back(found->id);
        begin = at += found->content.size();
    }
    if (begin < text.size())
        (this->*rest)(text.substr(begin), ids, begins && begin == 0);
}

void Tokenizer::normalize(std::string_view text, Ids &ids, bool begins) const {
    split_at(normalized_, normalizer_(text), ids, begins, &Tokenizer::encode_plain);
}

void Tokenizer::encode_plain(std::string_view text, Ids &ids, bool begins) const {
    Words words{std::string(text)};
    for (const Split &split : splits_)
        words = split.apply(words, begins);
    for (const std::string &word : words)
        encode_word(word, ids);
}

// The tokens of a word's characters, before any merge.
std::vector<uint32_t> Tokenizer::symbols_of(const std::string &word) const {
    Ids symbols;
    bool unknown = false; // one is to be written
    for (std::string_view rest = word; !rest.empty();) {
        const std::string_view character = rest.substr(0, unicode::first(rest).size);
        rest.remove_prefix(character.size());
        if (const auto found = vocabulary_.find(std::string(character));
            found != vocabulary_.end()) {
            if (unknown)
                symbols.push_back(*unknown_);
            unknown = false;
            symbols.push_back(found->second);
        } else if (!bytes_.empty()) {
            for (const char byte : character)
                symbols.push_back(bytes_[uint8_t(byte)]);
        } else if (unknown_) {
            if (unknown && !fuse_unknown_)
                symbols.push_back(*unknown_);
            unknown = true;
        } // else it is left out
    }
    if (unknown)
        symbols.push_back(*unknown_);
    return symbols;
}

void Tokenizer::encode_word(const std::string &word, Ids &ids) const {
    if (ignore_merges_)
        if (const auto whole = vocabulary_.find(word); whole != vocabulary_.end()) {
            ids.push_back(whole->second);
            return;
        }
    struct Symbol {
        uint32_t id;
        int before, after;
        bool gone;
    };
    std::vector<Symbol> symbols;
    for (const uint32_t id : symbols_of(word)) {
        const int at = int(symbols.size());
        symbols.push_back({id, at - 1, at + 1, false});
    }
    if (symbols.empty())
        return;
    symbols.back().after = -1;
    using Candidate = std::tuple<uint32_t, int, uint32_t>; // rank, place, merged id
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
    const auto propose = [&](int at) {
        if (at < 0 || symbols[size_t(at)].after < 0)
            return;
        const Symbol &first = symbols[size_t(at)], &second = symbols[size_t(first.after)];
        if (const auto merge = merges_.find(pair_of(first.id, second.id)); merge != merges_.end())
            queue.emplace(merge->second.rank, at, merge->second.id);
    };
    for (size_t at = 0; at < symbols.size(); ++at)
        propose(int(at));
    while (!queue.empty()) {
        const auto [rank, at, id] = queue.top();
        queue.pop();
        Symbol &first = symbols[size_t(at)];
        if (first.gone || first.after < 0)
            continue;
        Symbol &second = symbols[size_t(first.after)];
        const auto merge = merges_.find(pair_of(first.id, second.id));
        if (merge == merges_.end() || merge->second.id != id)
            continue; // one of the two has been merged since
        first.id = id;
        first.after = second.after;
        second.gone = true;
        if (first.after >= 0)
            symbols[size_t(first.after)].before = at;
        propose(first.before);
        propose(at);
    }
    for (int at = 0; at >= 0; at = symbols[size_t(at)].after)
        ids.push_back(symbols[size_t(at)].id);
}

} // namespace atom_edge
