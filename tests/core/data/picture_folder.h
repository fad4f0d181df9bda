// A folder of pictures, as ImageFolder reads them, that lives as long as a test.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/core/data/jpeg_files.h"

namespace bitstair::core {

class PictureFolder {
 public:
  explicit PictureFolder(const std::string& name) : path_(absl::StrCat(::testing::TempDir(), "/", name, "_", getpid())) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~PictureFolder() { std::filesystem::remove_all(path_); }
  PictureFolder(const PictureFolder&) = delete;
  PictureFolder& operator=(const PictureFolder&) = delete;

  // file: relative.
  void Write(const std::string& file, const std::string& bytes) {
    std::filesystem::create_directories(std::filesystem::path(path(file)).parent_path());
    std::ofstream(path(file), std::ios::binary) << bytes;
  }
  std::string path(const std::string& file) const { return absl::StrCat(path_, "/", file); }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

}  // namespace bitstair::core
