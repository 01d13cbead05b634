#include "session/judge.h"

#include <cstdint>

#include "error.h"

namespace atom_edge::session {

namespace {

enum Wire { VARINT = 0, FIXED64 = 1, LENGTH_DELIMITED = 2, FIXED32 = 5 };

// A field of a protobuf message (https://protobuf.dev/programming-guides/encoding).
struct Field {
    uint64_t number;
    uint64_t value;         // of a varint
    std::string_view bytes; // of a length-delimited field
};

class Judge {
  public:
    Judge(std::string_view model, const std::string &name) : model_(model), name_(name) {}

    // The numbers are those of onnx.proto.
    void model() const {
        int graphs = 0;
        each(model_, [&](const Field &field) {
            if (field.number == 20 || field.number == 25)
                refuse("it has functions or training steps");
            if (field.number == 7) {
                graph(field.bytes);
                ++graphs;
            }
        });
        if (graphs != 1)
            refuse("it is not one graph");
    }

  private:
    [[noreturn]] void refuse(const char *why) const {
        throw Error(ATOM_EDGE_BUNDLE, name_ + " is not run as a native graph: " + why +
                                          ". Export the model again");
    }

    void graph(std::string_view message) const {
        int nodes = 0;
        each(message, [&](const Field &field) {
            if (field.number == 1) {
                node(field.bytes);
                ++nodes;
            } else if (field.number == 5) {
                tensor(field.bytes);
            } else if (field.number == 15) {
                refuse("it has sparse tensors");
            }
        });
        if (nodes != 1)
            refuse("it is not one node");
    }

    void node(std::string_view message) const {
        std::string_view type, domain;
        each(message, [&](const Field &field) {
            if (field.number == 4)
                type = field.bytes;
            else if (field.number == 7)
                domain = field.bytes;
            else if (field.number == 5)
                attribute(field.bytes);
        });
        if (type != "Decoder" || domain != "atom_edge")
            refuse("its node is not atom_edge.Decoder");
    }

    void attribute(std::string_view message) const {
        each(message, [&](const Field &field) {
            for (const uint64_t number : {5, 6, 10, 11, 22, 23})
                if (field.number == number)
                    refuse("an attribute holds a tensor or a graph");
        });
    }

    void tensor(std::string_view message) const {
        each(message, [&](const Field &field) {
            if (field.number == 13 || (field.number == 14 && field.value != 0))
                refuse("it keeps tensors in other files");
        });
    }

    template <class Visit> void each(std::string_view message, Visit visit) const {
        while (!message.empty()) {
            const uint64_t tag = varint(message);
            Field field{tag >> 3, 0, {}};
            if (!field.number || tag > UINT32_MAX)
                refuse("it has an impossible tag");
            uint64_t size = 0;
            if ((tag & 7) == VARINT)
                field.value = varint(message);
            else if ((tag & 7) == FIXED64)
                size = 8;
            else if ((tag & 7) == FIXED32)
                size = 4;
            else if ((tag & 7) == LENGTH_DELIMITED)
                size = varint(message);
            else
                refuse("it has an unknown wire type");
            if (size > message.size())
                refuse("a field passes its end");
            field.bytes = message.substr(0, size_t(size));
            message.remove_prefix(size_t(size));
            visit(field);
        }
    }

    uint64_t varint(std::string_view &message) const {
        uint64_t value = 0;
        for (int shift = 0; shift < 70; shift += 7) {
            if (message.empty())
                refuse("it ends inside a number");
            const auto byte = uint8_t(message[0]);
            message.remove_prefix(1);
            value |= uint64_t(byte & 0x7F) << shift;
            if (byte < 0x80)
                return value;
        }
        refuse("it has a number of more than 10 bytes");
    }

    std::string_view model_;
    const std::string &name_;
};

} // namespace

void judge_native_graph(std::string_view model, const std::string &name) {
    Judge(model, name).model();
}

} // namespace atom_edge::session
