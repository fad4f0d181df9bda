#include "core/random/secure_random.h"

#include <sys/random.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/escaping.h"

namespace bitstair::core {

std::string SecureRandomBytes(size_t bytes) {
  std::string random(bytes, '\0');
  size_t done = 0;
  while (done < bytes) {
    const ssize_t got = getrandom(random.data() + done, bytes - done, 0);
    if (got > 0) {
      done += static_cast<size_t>(got);
    } else if (got < 0 && errno != EINTR) {
      std::perror("bitstair: the kernel gives no random numbers");
      std::abort();
    }
  }
  return random;
}

std::string SecureRandomHex(size_t bytes) {
  return absl::BytesToHexString(SecureRandomBytes(bytes));
}

}  // namespace bitstair::core
