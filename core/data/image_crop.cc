#include "core/data/image_crop.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/random/philox.h"

namespace bitstair::core {
namespace {

constexpr uint32_t kTries = 10;
constexpr uint32_t kRowWord = 16;  // the third counter word of the place, behind those of the tries
constexpr uint32_t kColumnWord = 17;
constexpr double kLeastArea = 0.08;
constexpr double kLeastRatio = 3.0 / 4.0;
constexpr double kGreatestRatio = 4.0 / 3.0;

int Rounded(double value) {
  return static_cast<int>(std::nearbyint(value));
}

ImageCrop Whole(int width, int height, int side) {
  return {.width = width, .height = height, .full_width = side, .full_height = side, .side = side};
}

}  // namespace

ImageCrop CenterCrop(int width, int height, int resized, int side) {
  ImageCrop crop = Whole(width, height, side);
  const int64_t shorter = std::min(width, height);
  crop.full_width = static_cast<int>(int64_t{resized} * width / shorter);
  crop.full_height = static_cast<int>(int64_t{resized} * height / shorter);
  crop.window_left = Rounded((crop.full_width - side) / 2.0);
  crop.window_top = Rounded((crop.full_height - side) / 2.0);
  return crop;
}

ImageCrop RandomCrop(int width, int height, int side, const AugmentationKey& key, uint32_t image) {
  ImageCrop crop = Whole(width, height, side);
  crop.flip = (Philox4x32(key.seed, Purpose::kFlip, key.epoch, image, 0)[0] & 1) != 0;
  const double area = static_cast<double>(width) * height;
  for (uint32_t attempt = 0; attempt < kTries; ++attempt) {
    const std::array<uint32_t, 4> words = Philox4x32(key.seed, Purpose::kResizedCrop, key.epoch, image, attempt);
    const double part = area * (kLeastArea + (1 - kLeastArea) * UniformDouble(words[0], words[1]));
    const double ratio = kLeastRatio * std::exp(std::log(kGreatestRatio / kLeastRatio) * UniformDouble(words[2], words[3]));
    const int w = Rounded(std::sqrt(part * ratio)), h = Rounded(std::sqrt(part / ratio));
    if (w < 1 || w > width || h < 1 || h > height) continue;
    crop.width = w;
    crop.height = h;
    crop.top = static_cast<int>(UniformInteger(key.seed, Purpose::kResizedCrop, key.epoch, image, kRowWord, static_cast<uint32_t>(height - h + 1)));
    crop.left = static_cast<int>(UniformInteger(key.seed, Purpose::kResizedCrop, key.epoch, image, kColumnWord, static_cast<uint32_t>(width - w + 1)));
    return crop;
  }
  const double ratio = static_cast<double>(width) / height;
  if (ratio < kLeastRatio) crop.height = Rounded(width / kLeastRatio);
  if (ratio > kGreatestRatio) crop.width = Rounded(height * kGreatestRatio);
  crop.left = (width - crop.width) / 2;
  crop.top = (height - crop.height) / 2;
  return crop;
}

}  // namespace bitstair::core
