#include "session/options.h"

#include <algorithm>
#include <cmath>

#include "error.h"

namespace atom_edge::session {

namespace {

constexpr int64_t MOST = int64_t(1) << 31;
// What transformers takes where samples are drawn and nothing is stated.
constexpr int64_t STANDARD_TOP_K = 50;

void require(bool holds, const char *name, const char *must_be) {
    if (!holds)
        throw Error(ATOM_EDGE_ARGUMENT, std::string(name) + " must be " + must_be);
}

bool is_within(double value, double least, double most) { return value >= least && value <= most; }

std::optional<double> number(const json::Value &settings, const char *key) {
    const json::Value *value = settings.given(key);
    return value ? std::optional<double>(value->number()) : std::nullopt;
}

std::optional<int64_t> integer(const json::Value &settings, const char *key) {
    const json::Value *value = settings.given(key);
    return value ? std::optional<int64_t>(value->integer()) : std::nullopt;
}

std::vector<uint32_t> ids(const json::Value &value) {
    std::vector<uint32_t> found;
    const auto add = [&found](int64_t id) {
        if (id >= 0 && id <= INT32_MAX) // -1 stands for none
            found.push_back(uint32_t(id));
    };
    if (value.is(json::Value::Type::array))
        for (const json::Value &id : value.items())
            add(id.integer());
    else
        add(value.integer());
    return found;
}

} // namespace

void Options::check() const {
    require(max_new_tokens >= 1 && max_new_tokens <= MOST, "max_new_tokens", "at least 1");
    require(temperature == 0 || is_within(temperature, 1e-9, 1e9), "temperature",
            "0 (greedy) or from 1e-9 to 1e9");
    require(top_k >= 0 && top_k <= MOST, "top_k", "0 (all) or above");
    require(top_p > 0 && top_p <= 1, "top_p", "above 0 and at most 1");
    require(is_within(min_p, 0, 1), "min_p", "from 0 to 1");
    require(is_within(repetition_penalty, 1e-3, 1e3), "repetition_penalty", "from 0.001 to 1000");
    require(logprobs >= -1 && logprobs <= MOST, "logprobs", "-1 (none) or above");
    for (const std::string &text : stop)
        require(!text.empty(), "stop", "texts of at least one character");
}

Defaults Defaults::read(const json::Value &config) {
    Defaults defaults;
    Options &options = defaults.options;
    const json::Value *do_sample = config.given("do_sample");
    const bool samples = do_sample && do_sample->boolean();
    const auto temperature = number(config, "temperature"), top_p = number(config, "top_p"),
               min_p = number(config, "min_p");
    const auto top_k = integer(config, "top_k");
    // As soon as the file says something of sampling, its silence is transformers'.
    if (do_sample || temperature || top_p || min_p || top_k) {
        options.temperature = samples ? temperature.value_or(1) : 0;
        options.top_k = top_k.value_or(STANDARD_TOP_K);
        options.top_p = top_p.value_or(1);
        options.min_p = min_p.value_or(0);
    }
    options.repetition_penalty = number(config, "repetition_penalty").value_or(1);
    if (const auto stated = integer(config, "max_new_tokens"))
        options.max_new_tokens = *stated;
    else
        defaults.max_length = integer(config, "max_length");
    options.check();
    return defaults;
}

int64_t Defaults::max_new_tokens(size_t prompt_tokens) const {
    return max_length ? std::max(int64_t(1), *max_length - int64_t(prompt_tokens))
                      : options.max_new_tokens;
}

Options Defaults::chosen(const atom_edge_options *given) const {
    Options chosen = options;
    if (!given) {
        chosen.max_new_tokens = 0;
        return chosen;
    }
    chosen.temperature = given->temperature;
    chosen.top_k = given->top_k;
    chosen.top_p = given->top_p;
    chosen.min_p = given->min_p;
    chosen.repetition_penalty = given->repetition_penalty;
    if (given->has_seed)
        chosen.seed = given->seed;
    chosen.logprobs = given->logprobs;
    require(given->stop || !given->stop_count, "stop", "an array of texts");
    for (size_t i = 0; i < given->stop_count; ++i) {
        require(given->stop[i], "stop", "texts");
        chosen.stop.emplace_back(given->stop[i]);
    }
    if (given->max_new_tokens)
        chosen.max_new_tokens = given->max_new_tokens;
    chosen.check();
    if (!given->max_new_tokens)
        chosen.max_new_tokens = 0;
    return chosen;
}

SpecialIds SpecialIds::read(const json::Value &generation_config, const json::Value &config) {
    const auto find = [&](const char *name) {
        const json::Value *value = generation_config.given(name);
        if (!value)
            value = config.given(name);
        return value ? ids(*value) : std::vector<uint32_t>();
    };
    return {find("bos_token_id"), find("eos_token_id"), find("decoder_start_token_id")};
}

} // namespace atom_edge::session
