// JPEG files that tests make themselves.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <jpeglib.h>

namespace bitstair::core {

struct JpegOptions {
  J_COLOR_SPACE pixels = JCS_RGB;      // of the input: JCS_GRAYSCALE, JCS_RGB or JCS_CMYK
  J_COLOR_SPACE stored = JCS_UNKNOWN;  // JCS_UNKNOWN: libjpeg's choice for these pixels
  bool progressive = false;
  bool subsampled = true;  // chroma 2x2, libjpeg's default
  int quality = 90;
};

// Smooth shapes with some edges, different in each channel, as in a photograph.
inline uint8_t TestPixel(int x, int y, int c) {
  const double wave = std::sin(x * 0.031 * (c + 1) + y * 0.017) + std::cos(y * 0.043 - x * 0.011 * c);
  return static_cast<uint8_t>(128 + 50 * wave + ((x / 40 + y / 56 + c) % 3 - 1) * 20);
}

inline std::string EncodeJpeg(int width, int height, const JpegOptions& options = {}) {
  jpeg_compress_struct jpeg = {};
  jpeg_error_mgr errors = {};
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&jpeg, &bytes, &size);
  const int components = options.pixels == JCS_GRAYSCALE ? 1 : options.pixels == JCS_CMYK ? 4 : 3;
  jpeg.image_width = static_cast<JDIMENSION>(width);
  jpeg.image_height = static_cast<JDIMENSION>(height);
  jpeg.input_components = components;
  jpeg.in_color_space = options.pixels;
  jpeg_set_defaults(&jpeg);
  if (options.stored != JCS_UNKNOWN) jpeg_set_colorspace(&jpeg, options.stored);
  jpeg_set_quality(&jpeg, options.quality, TRUE);
  if (options.progressive) jpeg_simple_progression(&jpeg);
  if (!options.subsampled) jpeg.comp_info[0].h_samp_factor = jpeg.comp_info[0].v_samp_factor = 1;
  jpeg_start_compress(&jpeg, TRUE);
  std::vector<uint8_t> row(static_cast<size_t>(width) * components);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < components; ++c) row[static_cast<size_t>(x) * components + c] = TestPixel(x, y, c);
    }
    JSAMPROW pointer = row.data();
    jpeg_write_scanlines(&jpeg, &pointer, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  std::string result(reinterpret_cast<char*>(bytes), size);
  std::free(bytes);
  return result;
}

}  // namespace bitstair::core
