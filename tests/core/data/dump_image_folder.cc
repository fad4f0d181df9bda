// Writes all images of a folder of classes, as evaluation sees them, to stdout: for each a line "PATH LABEL" and its bytes [3, 224, 224]. For
// compare_with_torchvision.py.
#include <cstdio>
#include <vector>

#include "core/data/image_folder.h"

int main(int argc, char** argv) {
  using bitstair::core::ImageFolder;
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  const absl::StatusOr<std::unique_ptr<ImageFolder>> data = ImageFolder::Open(argv[1]);
  if (!data.ok()) {
    std::fprintf(stderr, "%s\n", data.status().ToString().c_str());
    return 1;
  }
  std::vector<uint8_t> pixels(static_cast<size_t>((*data)->shape().size()));
  for (int64_t i = 0; i < (*data)->size(); ++i) {
    if (const absl::Status status = (*data)->Read(i, nullptr, pixels.data()); !status.ok()) {
      std::fprintf(stderr, "%s\n", status.ToString().c_str());
      return 1;
    }
    std::printf("%s %lld\n", (*data)->path(i).c_str(), static_cast<long long>((*data)->label(i)));
    std::fwrite(pixels.data(), 1, pixels.size(), stdout);
  }
  return 0;
}
