// Decodes parts of JPEG files (libjpeg-turbo).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"

namespace bitstair::core {

// Pixels [left, left + width) x [top, top + height) of an image, 4 bytes each: red, green, blue, one without meaning.
struct PixelRegion {
  int left = 0;
  int top = 0;
  int width = 0;
  int height = 0;
  std::vector<uint8_t> pixels;  // row by row without gaps; kept between uses, so it may be longer

  const uint8_t* row(int y) const { return pixels.data() + static_cast<size_t>(y - top) * width * 4; }
};

// One thread's decoder, for one image after the other.
class JpegDecoder {
 public:
  JpegDecoder();
  ~JpegDecoder();
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  // Reads the header; data[0, size) must stay until Decode is done. DATA_LOSS says why this is no JPEG, where it ends too early, or that it has more than
  // 100 million pixels.
  absl::Status Open(const uint8_t* data, size_t size);

  // Of the image that was opened.
  int width() const;
  int height() const;

  // Decodes at 1/denominator (1, 2, 4 or 8; the image then has ceil(width / denominator) x ceil(height / denominator) pixels) at least
  // [left, right) x [top, bottom) of it, which lies inside. Rows above are passed over and rows below not looked at, unless the file does not end as a JPEG
  // must: then all of it is decoded, to see whether it is truncated. Greyscale, YCCK and CMYK (inverted, as Adobe's programs write it) become RGB. Once per
  // Open. DATA_LOSS as Open. Damage that libjpeg makes good with a warning is not an error.
  absl::Status Decode(int denominator, int left, int top, int right, int bottom, PixelRegion* out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bitstair::core
