#include "text/normalizer.h"

#include "error.h"
#include "text/unicode.h"

namespace atom_edge {

namespace {

[[noreturn]] void refuse(const std::string &what) {
    throw Error(ATOM_EDGE_BUNDLE, "The C++ tokenizer does not know the normalizer " + what);
}

} // namespace

void Normalizer::read(const json::Value &settings) {
    const std::string type(settings.at("type").string());
    if (type == "Sequence") {
        for (const json::Value &step : settings.at("normalizers").items())
            read(step);
    } else if (type == "NFC") {
        steps_.push_back({Rule::nfc, "", ""});
    } else if (type == "Prepend") {
        steps_.push_back({Rule::prepend, "", std::string(settings.at("prepend").string())});
    } else if (type == "Replace") {
        const json::Value *pattern = settings.at("pattern").find("String");
        if (!pattern || pattern->string().empty())
            refuse("Replace with a regular expression");
        steps_.push_back({Rule::replace, std::string(pattern->string()),
                          std::string(settings.at("content").string())});
    } else {
        refuse(type);
    }
}

std::string Normalizer::operator()(std::string_view text) const {
    std::string result(text);
    for (const Step &step : steps_)
        if (step.rule == Rule::nfc)
            result = unicode::nfc(result);
        else if (step.rule == Rule::replace)
            result = replaced(std::move(result), step.pattern, step.content);
        else if (!result.empty())
            result.insert(0, step.content);
    return result;
}

std::string replaced(std::string text, const std::string &pattern, const std::string &content) {
    size_t at = text.find(pattern);
    if (at == text.npos)
        return text;
    std::string result;
    size_t begin = 0;
    for (; at != text.npos; at = text.find(pattern, begin)) {
        result.append(text, begin, at - begin);
        result += content;
        begin = at + pattern.size();
    }
    return result.append(text, begin, text.npos);
}

} // namespace atom_edge
