// Random bytes of the operating system, for secrets and for names that must not repeat. Never for training: its numbers are those of random/philox.h, which a
// seed decides.
#pragma once

#include <cstddef>
#include <string>

namespace bitstair::core {

// Thread-safe. Ends the process where the kernel has no getrandom(2) (Linux before 3.17): nothing that follows could be safe.
std::string SecureRandomBytes(size_t bytes);

// The same as two hexadecimal digits for each byte.
std::string SecureRandomHex(size_t bytes);

}  // namespace bitstair::core
