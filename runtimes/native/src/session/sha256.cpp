#include "session/sha256.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace atom_edge::session {

namespace {

constexpr size_t BLOCK = 64;

constexpr uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

using Blocks = void (*)(uint32_t *state, const uint8_t *data, size_t count);

uint32_t rotate(uint32_t x, int by) { return x >> by | x << (32 - by); }

void plain_blocks(uint32_t *state, const uint8_t *data, size_t count) {
    for (; count; --count, data += BLOCK) {
        uint32_t w[64];
        for (int i = 0; i < 16; ++i)
            w[i] = uint32_t(data[4 * i]) << 24 | uint32_t(data[4 * i + 1]) << 16 |
                   uint32_t(data[4 * i + 2]) << 8 | data[4 * i + 3];
        for (int i = 16; i < 64; ++i) {
            const uint32_t a = w[i - 15], b = w[i - 2];
            w[i] = w[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[i - 7] +
                   (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
        }
        uint32_t s[8];
        std::copy_n(state, 8, s);
        // The eight words stay where they are, and their names move on by one a round.
        const auto round = [&](int i, int shift) {
            const auto word = [&](int name) -> uint32_t & { return s[(name - shift) & 7]; };
            const uint32_t x = word(0), e = word(4);
            const uint32_t first = word(7) + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                                   ((e & word(5)) ^ (~e & word(6))) + K[i] + w[i];
            word(3) += first;
            word(7) = first + (rotate(x, 2) ^ rotate(x, 13) ^ rotate(x, 22)) +
                      ((x & word(1)) ^ (x & word(2)) ^ (word(1) & word(2)));
        };
        for (int i = 0; i < 64; i += 8)
            for (int shift = 0; shift < 8; ++shift)
                round(i + shift, shift);
        for (int i = 0; i < 8; ++i)
            state[i] += s[i];
    }
}

#if defined(__x86_64__)
// By the processor's own instructions: six times as fast. They want the state as (ABEF, CDGH).
__attribute__((target("sha,sse4.1"))) void sha_ni_blocks(uint32_t *state, const uint8_t *data,
                                                         size_t count) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    auto *vectors = reinterpret_cast<__m128i *>(state);
    const __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128(vectors), 0xB1);
    const __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128(vectors + 1), 0x1B);
    __m128i abef = _mm_alignr_epi8(badc, hgfe, 8), cdgh = _mm_blend_epi16(hgfe, badc, 0xF0);
    for (; count; --count, data += BLOCK) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (int i = 0; i < 16; ++i) {
            __m128i &now = w[i % 4];
            if (i < 4) {
                now = _mm_loadu_si128(reinterpret_cast<const __m128i *>(data) + i);
                now = _mm_shuffle_epi8(now, swap);
            } else {
                const __m128i last = w[(i + 3) % 4];
                now = _mm_sha256msg1_epu32(now, w[(i + 1) % 4]);
                now = _mm_add_epi32(now, _mm_alignr_epi8(last, w[(i + 2) % 4], 4));
                now = _mm_sha256msg2_epu32(now, last);
            }
            const __m128i k = _mm_loadu_si128(reinterpret_cast<const __m128i *>(K) + i);
            const __m128i sum = _mm_add_epi32(now, k);
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0E));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    const __m128i feba = _mm_shuffle_epi32(abef, 0x1B), dchg = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128(vectors, _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128(vectors + 1, _mm_alignr_epi8(dchg, feba, 8));
}

Blocks best_blocks() {
    unsigned a, b = 0, c = 0, d;
    const bool sse41 = __get_cpuid(1, &a, &b, &c, &d) && c & bit_SSE4_1;
    const bool sha = __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & bit_SHA;
    return sse41 && sha ? sha_ni_blocks : plain_blocks;
}
#else
Blocks best_blocks() { return plain_blocks; }
#endif

} // namespace

void Sha256::add(std::string_view bytes) {
    const Blocks blocks = best_blocks();
    size_t held = size_ % BLOCK;
    size_ += bytes.size();
    if (held) {
        const size_t taken = std::min(BLOCK - held, bytes.size());
        std::memcpy(rest_ + held, bytes.data(), taken);
        bytes.remove_prefix(taken);
        held += taken;
        if (held < BLOCK)
            return;
        blocks(state_, rest_, 1);
    }
    blocks(state_, reinterpret_cast<const uint8_t *>(bytes.data()), bytes.size() / BLOCK);
    bytes.remove_prefix(bytes.size() / BLOCK * BLOCK);
    if (!bytes.empty())
        std::memcpy(rest_, bytes.data(), bytes.size());
}

std::string Sha256::finish() {
    const uint64_t bits = size_ * 8;
    std::string end(1, '\x80');
    end.append((2 * BLOCK - 9 - size_ % BLOCK) % BLOCK, '\0');
    for (int shift = 56; shift >= 0; shift -= 8)
        end += char(bits >> shift);
    add(end);
    std::string digits;
    for (const uint32_t word : state_)
        for (int shift = 28; shift >= 0; shift -= 4)
            digits += "0123456789abcdef"[word >> shift & 15];
    return digits;
}

} // namespace atom_edge::session
