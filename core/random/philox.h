// The only source of random numbers in training: Philox4x32-10, a function of (seed, counter) with no state (docs/formats/random.md).
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Usable from host and device code.
#pragma once

#include <array>
#include <cstdint>

#if defined(__CUDACC__)
#define BITSTAIR_HOST_DEVICE __host__ __device__
#else
#define BITSTAIR_HOST_DEVICE
#endif

namespace bitstair::core {

// First word of every counter. Numbers are never reused; what the other words mean is listed in docs/formats/random.md.
enum class Purpose : uint32_t {
  kInit = 1,                 // (layer, element / 4, 0): initial weights
  kShuffle = 2,              // (epoch, position, retry): order of the training images
  kCrop = 3,                 // (epoch, image, axis): crop offset, axis 0 = rows, 1 = columns
  kFlip = 4,                 // (epoch, image, 0): horizontal flip
  kGradient = 5,             // (epoch, batch, layer and image): key of the stochastic rounding of an image's gradients
  kResizedCrop = 7,          // (epoch, image, try or axis): part of a picture that is resized
  kStochasticPrecision = 8,  // (epoch, batch, place): layers that are quantised at a step
};

// One block of 128 random bits. key: the seed, low word first.
BITSTAIR_HOST_DEVICE inline std::array<uint32_t, 4> Philox4x32(uint64_t key, std::array<uint32_t, 4> counter) {
  uint32_t k0 = static_cast<uint32_t>(key);
  uint32_t k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(p1), static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ k1,
               static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

BITSTAIR_HOST_DEVICE inline std::array<uint32_t, 4> Philox4x32(uint64_t seed, Purpose purpose, uint32_t a, uint32_t b, uint32_t c) {
  return Philox4x32(seed, {static_cast<uint32_t>(purpose), a, b, c});
}

// Multiples of 2^-24 in [0, 1).
BITSTAIR_HOST_DEVICE inline float UniformFloat(uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

// Multiples of 2^-53 in [0, 1).
BITSTAIR_HOST_DEVICE inline double UniformDouble(uint32_t high, uint32_t low) {
  return static_cast<double>(((uint64_t{high} << 32) | low) >> 11) * 0x1p-53;
}

// An unbiased integer in [0, bound), bound >= 1 (Lemire's multiply and reject). index < 2^24: the words of block (purpose, a, b, index) are tried in
// order; should all four be rejected, those of index + 2^24 retry, and so on. (1024 words rejected: probability below 2^-1024; then the last counts.)
BITSTAIR_HOST_DEVICE inline uint32_t UniformInteger(uint64_t seed, Purpose purpose, uint32_t a, uint32_t b, uint32_t index, uint32_t bound) {
  const uint32_t reject_below = (0u - bound) % bound;  // 2^32 mod bound
  uint64_t product = 0;
  for (uint32_t retry = 0; retry < 256; ++retry) {
    const std::array<uint32_t, 4> words = Philox4x32(seed, purpose, a, b, index + (retry << 24));
    for (int i = 0; i < 4; ++i) {
      product = uint64_t{words[i]} * bound;
      if (static_cast<uint32_t>(product) >= reject_below) return static_cast<uint32_t>(product >> 32);
    }
  }
  return static_cast<uint32_t>(product >> 32);
}

}  // namespace bitstair::core
