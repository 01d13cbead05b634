#include "session/prompt.h"

#include <algorithm>

#include "error.h"

namespace atom_edge::session {

namespace {

using Ids = std::vector<uint32_t>;

[[noreturn]] void refuse(const std::string &what) {
    throw Error(ATOM_EDGE_BUNDLE, "The C++ tokenizer does not know the post-processor " + what);
}

void append(Ids &ids, const Ids &more) { ids.insert(ids.end(), more.begin(), more.end()); }

// What a "post_processor" puts around a text.
void read_additions(const json::Value &settings, Ids &before, Ids &after) {
    const std::string type(settings.at("type").string());
    if (type == "ByteLevel")
        return; // concerns offsets alone
    if (type == "Sequence") {
        for (const json::Value &step : settings.at("processors").items()) {
            Ids outer;
            read_additions(step, outer, after);
            before.insert(before.begin(), outer.begin(), outer.end());
        }
        return;
    }
    if (type != "TemplateProcessing")
        refuse(type);
    bool seen = false; // the text itself
    for (const json::Value &part : settings.at("single").items()) {
        if (part.find("Sequence")) {
            if (seen)
                refuse("TemplateProcessing that repeats the text");
            seen = true;
            continue;
        }
        const std::string_view name = part.at("SpecialToken").at("id").string();
        for (const json::Value &id : settings.at("special_tokens").at(name).at("ids").items())
            (seen ? after : before).push_back(uint32_t(id.integer()));
    }
    if (!seen)
        refuse("TemplateProcessing without the text");
}

} // namespace

PromptEncoder::PromptEncoder(const Tokenizer &tokenizer, const json::Value &settings,
                             const SpecialIds &ids, bool adds_begin)
    : tokenizer_(tokenizer) {
    if (const json::Value *post_processor = settings.given("post_processor"))
        read_additions(*post_processor, before_, after_);
    if (adds_begin && !ids.begin.empty())
        prefix_ = {ids.begin[0]};
    append(beginning_, ids.start);
    if (const uint32_t *end_of_text = tokenizer.find("<|endoftext|>"))
        beginning_.push_back(*end_of_text);
    append(beginning_, ids.begin);
    append(beginning_, ids.end);
    if (!beginning_.empty())
        beginning_.resize(1);
}

Ids PromptEncoder::operator()(std::string_view text) const {
    Ids ids = before_;
    append(ids, tokenizer_.encode(text));
    append(ids, after_);
    if (!prefix_.empty() && (ids.empty() || ids[0] != prefix_[0]))
        ids.insert(ids.begin(), prefix_[0]);
    return (*this)(std::move(ids));
}

Ids PromptEncoder::operator()(Ids ids) const {
    if (!ids.empty())
        return ids;
    if (beginning_.empty())
        throw Error(ATOM_EDGE_ARGUMENT, "The prompt is empty, and the bundle names no token that "
                                        "begins a document");
    return beginning_;
}

Prompt fit(Ids ids, size_t vocabulary, size_t context_length) {
    for (const uint32_t id : ids)
        if (id >= vocabulary)
            throw Error(ATOM_EDGE_ARGUMENT, "The prompt holds the token id " + std::to_string(id) +
                                                ", and those of the model are 0 to " +
                                                std::to_string(vocabulary - 1));
    const size_t room = context_length - 1;
    Prompt prompt;
    prompt.truncated = ids.size() > room ? ids.size() - room : 0;
    prompt.ids.assign(ids.begin() + ptrdiff_t(prompt.truncated), ids.end());
    return prompt;
}

} // namespace atom_edge::session
