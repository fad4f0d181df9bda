// Data sets that a program on this machine knows by name.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace bitstair::worker {

// Name -> absolute folder. entries: as `--data NAME=PATH` gives them. Debian's Fashion-MNIST, where it is installed, is there as fashion_mnist unless an entry
// has that name. Whether the folders exist is not looked at. INVALID_ARGUMENT, naming the entry, where one is no NAME=PATH or a name is given twice.
absl::StatusOr<std::map<std::string, std::string>> NamedFolders(const std::vector<std::string>& entries);

}  // namespace bitstair::worker
