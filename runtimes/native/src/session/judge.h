// Whether a graph may be run: judged on its bytes, before onnxruntime sees them.
#pragma once

#include <string>
#include <string_view>

namespace atom_edge::session {

// An `Error` (ATOM_EDGE_BUNDLE) that begins with `name` unless the model is what the exporter
// writes: the one node atom_edge.Decoder, over weights that lie in the file itself. onnxruntime
// would follow a tensor's external data out of the bundle (CVE-2022-25882, CVE-2024-27318).
void judge_native_graph(std::string_view model, const std::string &name);

} // namespace atom_edge::session
