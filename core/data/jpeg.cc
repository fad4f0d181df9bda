#include "core/data/jpeg.h"

#include <csetjmp>
#include <cstdio>

#include <jpeglib.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace bitstair::core {
namespace {

constexpr int64_t kMaxPixels = 100'000'000;
// Chroma is interpolated between neighbours, so a column at the edge of what is decoded is not the one that the whole image has.
constexpr int kMargin = 2;

// Inverted CMYK to RGB in place: value = colour * black / 255.
void RgbOfInvertedCmyk(uint8_t* pixels, size_t count) {
  for (size_t i = 0; i < count; ++i, pixels += 4) {
    for (int c = 0; c < 3; ++c) pixels[c] = static_cast<uint8_t>((pixels[c] * pixels[3] + 127) / 255);
  }
}

}  // namespace

// libjpeg leaves its functions by longjmp on an error, so the functions that call it (Header, Start and Rows) own nothing that needs a destructor.
struct JpegDecoder::State {
  jpeg_decompress_struct jpeg = {};
  jpeg_error_mgr errors = {};
  jpeg_source_mgr source = {};
  std::jmp_buf leave;
  const uint8_t* data = nullptr;
  size_t size = 0;
  bool out_of_data = false;
  char message[JMSG_LENGTH_MAX] = "";
  std::vector<uint8_t> unused_row;

  State() {
    jpeg.err = jpeg_std_error(&errors);
    jpeg.client_data = this;
    errors.error_exit = [](j_common_ptr jpeg) {
      State& state = Of(jpeg);
      state.errors.format_message(jpeg, state.message);
      std::longjmp(state.leave, 1);
    };
    errors.emit_message = [](j_common_ptr, int) {};
    errors.output_message = [](j_common_ptr) {};
    source.init_source = [](j_decompress_ptr) {};
    source.term_source = [](j_decompress_ptr) {};
    source.resync_to_restart = jpeg_resync_to_restart;
    source.fill_input_buffer = [](j_decompress_ptr jpeg) -> boolean {
      State& state = Of(reinterpret_cast<j_common_ptr>(jpeg));
      state.out_of_data = true;
      std::longjmp(state.leave, 1);
    };
    source.skip_input_data = [](j_decompress_ptr jpeg, long bytes) {
      if (bytes <= 0) return;
      if (static_cast<size_t>(bytes) > jpeg->src->bytes_in_buffer) (*jpeg->src->fill_input_buffer)(jpeg);
      jpeg->src->next_input_byte += bytes;
      jpeg->src->bytes_in_buffer -= static_cast<size_t>(bytes);
    };
    jpeg_create_decompress(&jpeg);
    jpeg.src = &source;
  }
  ~State() { jpeg_destroy_decompress(&jpeg); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  static State& Of(j_common_ptr jpeg) { return *static_cast<State*>(jpeg->client_data); }

  bool Header() {
    if (setjmp(leave) != 0) return false;
    jpeg_read_header(&jpeg, TRUE);
    return true;
  }

  bool ends_as_a_jpeg() const { return size >= 2 && data[size - 2] == 0xff && data[size - 1] == JPEG_EOI; }

  bool Start() {
    if (setjmp(leave) != 0) return false;
    jpeg_start_decompress(&jpeg);
    return true;
  }
  // Rows [top, bottom) of columns [*left, *left + *width), which it widens to where the decoder can begin.
  bool Rows(JDIMENSION* left, JDIMENSION* width, int top, int bottom, bool to_the_end, PixelRegion* out) {
    if (setjmp(leave) != 0) return false;
    if (*left > 0 || *width < jpeg.output_width) jpeg_crop_scanline(&jpeg, left, width);
    Resize(*width, bottom - top, out);
    if (top > 0) jpeg_skip_scanlines(&jpeg, static_cast<JDIMENSION>(top));
    const size_t stride = size_t{*width} * 4;
    while (jpeg.output_scanline < static_cast<JDIMENSION>(bottom)) {
      JSAMPROW row = out->pixels.data() + (jpeg.output_scanline - top) * stride;
      jpeg_read_scanlines(&jpeg, &row, 1);
    }
    if (to_the_end) {
      while (jpeg.output_scanline < jpeg.output_height) {
        JSAMPROW row = unused_row.data();
        jpeg_read_scanlines(&jpeg, &row, 1);
      }
      jpeg_finish_decompress(&jpeg);
    }
    return true;
  }
  void Resize(size_t width, size_t rows, PixelRegion* out) {
    const size_t bytes = width * rows * 4;
    if (out->pixels.size() < bytes) out->pixels.resize(bytes);
    if (unused_row.size() < width * 4) unused_row.resize(width * 4);
  }

  absl::Status Failure() {
    const size_t at = size - source.bytes_in_buffer;
    jpeg_abort_decompress(&jpeg);
    if (out_of_data) return absl::DataLossError(absl::StrCat("byte ", size, ": the JPEG data is truncated"));
    return absl::DataLossError(absl::StrCat("byte ", at, ": not a JPEG that can be read: ", message));
  }
};

JpegDecoder::JpegDecoder() : state_(std::make_unique<State>()) {}
JpegDecoder::~JpegDecoder() = default;
int JpegDecoder::width() const {
  return static_cast<int>(state_->jpeg.image_width);
}
int JpegDecoder::height() const {
  return static_cast<int>(state_->jpeg.image_height);
}

absl::Status JpegDecoder::Open(const uint8_t* data, size_t size) {
  State& state = *state_;
  jpeg_abort_decompress(&state.jpeg);
  state.data = data;
  state.size = size;
  state.out_of_data = false;
  state.source.next_input_byte = data;
  state.source.bytes_in_buffer = size;
  if (size == 0) return absl::DataLossError("byte 0: the file is empty");
  if (!state.Header()) return state.Failure();
  if (int64_t{width()} * height() > kMaxPixels) {
    return absl::DataLossError(absl::StrCat("byte 0: an image of ", width(), "x", height(), " pixels; at most ", kMaxPixels, " pixels are read"));
  }
  return absl::OkStatus();
}

absl::Status JpegDecoder::Decode(int denominator, int left, int top, int right, int bottom, PixelRegion* out) {
  State& state = *state_;
  jpeg_decompress_struct& jpeg = state.jpeg;
  const bool cmyk = jpeg.jpeg_color_space == JCS_CMYK || jpeg.jpeg_color_space == JCS_YCCK;
  jpeg.out_color_space = cmyk ? JCS_CMYK : JCS_EXT_RGBX;
  jpeg.scale_num = 1;
  jpeg.scale_denom = static_cast<unsigned>(denominator);
  if (!state.Start()) return state.Failure();
  JDIMENSION first = static_cast<JDIMENSION>(std::max(0, left - kMargin));
  JDIMENSION width = std::min(static_cast<JDIMENSION>(right + kMargin), jpeg.output_width) - first;
  if (!state.Rows(&first, &width, top, bottom, !state.ends_as_a_jpeg(), out)) return state.Failure();
  jpeg_abort_decompress(&jpeg);
  out->left = static_cast<int>(first);
  out->top = top;
  out->width = static_cast<int>(width);
  out->height = bottom - top;
  if (cmyk) RgbOfInvertedCmyk(out->pixels.data(), static_cast<size_t>(out->width) * out->height);
  return absl::OkStatus();
}

}  // namespace bitstair::core
