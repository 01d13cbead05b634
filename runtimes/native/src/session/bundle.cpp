#include "session/bundle.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "error.h"
#include "session/judge.h"
#include "session/sha256.h"

namespace atom_edge::session {

namespace {

namespace fs = std::filesystem;

constexpr int64_t FORMAT_VERSION = 1, LONGEST_CONTEXT = 1 << 24;
constexpr uint64_t LARGEST_MANIFEST = 1 << 20, LARGEST_JSON = 16 << 20;
constexpr size_t LONGEST_NAME = 255; // of a file, on all common file systems
constexpr size_t AT_ONCE = 1 << 16;  // bytes of a file that is not kept
constexpr const char *MANIFEST = "manifest.json";
constexpr const char *REQUIRED[] = {"config.json", "generation_config.json", "tokenizer.json"};
constexpr const char *OPTIONAL = "tokenizer_config.json";

[[noreturn]] void fail(const std::string &what) { throw Error(ATOM_EDGE_BUNDLE, what); }

// Whether a file's name stays inside the bundle, on any operating system.
bool is_inside(const std::string &name) {
    for (const char c : name)
        if (uint8_t(c) < 0x20 || std::strchr("\\:\x7F", c))
            return false;
    for (size_t begin = 0, end; begin <= name.size(); begin = end + 1) {
        end = std::min(name.find('/', begin), name.size());
        const std::string part = name.substr(begin, end - begin);
        if (part.empty() || part == "." || part == ".." || part.size() > LONGEST_NAME)
            return false;
    }
    return name != MANIFEST;
}

bool is_digest(std::string_view text) {
    return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == text.npos;
}

bool is_needed(const std::string &name) {
    return name == OPTIONAL ||
           std::find(std::begin(REQUIRED), std::end(REQUIRED), name) != std::end(REQUIRED);
}

} // namespace

Bundle::Bundle(const std::string &folder) : folder_(folder) {
    std::error_code unknown;
    if (!fs::is_directory(fs::u8path(folder), unknown))
        fail("There is no bundle " + folder + ": it is not a folder");
    if (!fs::is_regular_file(fs::u8path(path(MANIFEST)), unknown))
        fail(folder + " is not a bundle: it has no " + MANIFEST);
    try {
        read_manifest();
    } catch (const Error &error) {
        const std::string what = error.what(); // says already which file it is about, or not
        throw Error(error.code, what.find(folder) == 0 ? what : path(MANIFEST) + ": " + what);
    }
}

void Bundle::read_manifest() {
    const json::Document document(json::read_file(path(MANIFEST), LARGEST_MANIFEST),
                                  path(MANIFEST));
    const json::Value &manifest = document.root();
    const json::Value &version = manifest.at("format_version");
    if (!version.is(json::Value::Type::number) || version.integer() != FORMAT_VERSION)
        fail("its format_version is not " + std::to_string(FORMAT_VERSION) +
             ", which this release of atom-edge reads");
    context_length_ = manifest.at("context_length").integer();
    if (context_length_ < 1 || context_length_ > LONGEST_CONTEXT)
        fail("its context_length is not from 1 to " + std::to_string(LONGEST_CONTEXT));
    const json::Value &files = manifest.at("files"), &graphs = manifest.at("graphs");
    for (const json::Member &file : files.members())
        if (!is_inside(std::string(file.key)))
            fail("a file that it lists is not inside the bundle: " + std::string(file.key));
    for (const json::Member &graph : graphs.members())
        if (!files.find(graph.value.string()))
            fail("the graph " + std::string(graph.key) + " is not among its files");
    const json::Value *graph = graphs.find("native");
    if (!graph)
        fail("the bundle has no native graph, which C programs run; export the model again with "
             "this release of atom-edge");
    graph_ = graph->string();
    for (const char *name : REQUIRED)
        if (!files.find(name))
            fail(std::string("it does not list ") + name);
    for (const json::Member &file : files.members())
        verify(std::string(file.key), file.value);
    check_nothing_else(files);
}

// Hidden files at the top are never read. In a cache of the Hugging Face Hub,
// REPO/snapshots/REVISION, every file is a link to REPO/blobs.
void Bundle::check_nothing_else(const json::Value &files) const {
    const fs::path root = fs::canonical(fs::u8path(folder_));
    std::vector<fs::path> blobs;
    for (fs::path above = root.parent_path(); above.has_relative_path(); above = above.parent_path())
        if (above.filename() == "snapshots")
            blobs.push_back(above.parent_path() / "blobs");
    for (fs::recursive_directory_iterator at(root), end; at != end; ++at) {
        const std::string name = at->path().lexically_relative(root).generic_u8string();
        if (at.depth() == 0 && name[0] == '.') {
            at.disable_recursion_pending();
            continue;
        }
        if (at->is_symlink() && std::find(blobs.begin(), blobs.end(),
                                          fs::weakly_canonical(at->path()).parent_path()) ==
                                    blobs.end())
            fail(path(name) + " is a link, so the bundle is not opened");
        if (name != MANIFEST && !files.find(name) && !at->is_directory())
            fail("the bundle holds " + name + ", which its manifest does not list");
    }
}

void Bundle::verify(const std::string &name, const json::Value &entry) {
    const fs::path file = fs::u8path(path(name));
    const int64_t size = entry.at("bytes").integer();
    const std::string_view digest = entry.at("sha256").string();
    if (size < 0 || !is_digest(digest))
        fail("the size or the sha256 of " + name + " is none");
    const std::string remedy = ": it is damaged or was changed. Fetch or export the bundle again";
    std::error_code unknown;
    if (!fs::is_regular_file(file, unknown))
        fail(path(name) + " is missing, or is not a regular file");
    if (fs::file_size(file, unknown) != uint64_t(size))
        fail(path(name) + " does not have the size that the manifest gives" + remedy);
    if (is_needed(name) && uint64_t(size) > LARGEST_JSON)
        fail(path(name) + " is larger than " + std::to_string(LARGEST_JSON) + " bytes");
    const bool is_kept = is_needed(name) || name == graph_;
    std::string bytes(is_kept ? size_t(size) : std::min(size_t(size), AT_ONCE), '\0');
    std::ifstream stream(file, std::ios::binary);
    Sha256 hash;
    for (int64_t left = size; left > 0;) {
        const auto count = std::streamsize(std::min(uint64_t(left), uint64_t(bytes.size())));
        if (!stream.read(bytes.data(), count))
            fail(path(name) + " cannot be read");
        hash.add({bytes.data(), size_t(count)});
        left -= count;
    }
    if (hash.finish() != digest)
        fail(path(name) + " does not have the sha256 that the manifest gives" + remedy);
    if (is_kept)
        kept_[name] = std::move(bytes);
}

std::string Bundle::take(const std::string &name) {
    std::string bytes = std::move(kept_.at(name));
    kept_.erase(name);
    return bytes;
}

std::string Bundle::take_graph() {
    judge_native_graph(kept_.at(graph_), path(graph_));
    return take(graph_);
}

} // namespace atom_edge::session
