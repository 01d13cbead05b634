// SHA-256 (FIPS 180-4).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace atom_edge::session {

class Sha256 {
  public:
    void add(std::string_view bytes);

    // Ends the message: 64 lower-case hexadecimal digits.
    std::string finish();

  private:
    uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                          0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint8_t rest_[64]; // what does not fill a block yet
    uint64_t size_ = 0;
};

} // namespace atom_edge::session
