// An exported folder: its manifest, and its files as far as they have been verified.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "text/json.h"

namespace atom_edge::session {

class Bundle {
  public:
    // Verifies the folder as atom_edge/bundle.py does: every file that the manifest lists must be
    // there, with its size and its SHA-256, and no other. What a session needs is kept as it was
    // read.
    explicit Bundle(const std::string &folder);

    bool has(const std::string &name) const { return kept_.count(name) > 0; }

    // Gives away the bytes of a file.
    std::string take(const std::string &name);
    // The bytes of the native graph, judged.
    std::string take_graph();

    std::string path(const std::string &name) const { return folder_ + "/" + name; }
    int64_t context_length() const { return context_length_; }

  private:
    void read_manifest();
    void verify(const std::string &name, const json::Value &entry);
    void check_nothing_else(const json::Value &files) const;

    std::string folder_, graph_;
    int64_t context_length_ = 0;
    std::map<std::string, std::string> kept_;
};

} // namespace atom_edge::session
