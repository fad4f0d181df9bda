// Our side of `./dev bench jpeg_pipeline`: passes over an image folder, in the protocol of bench/peers/protocol.py ("run K": K passes).
#include <chrono>
#include <iostream>
#include <numeric>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/data/image_folder.h"
#include "core/data/sample_pipeline.h"

namespace {

using bitstair::core::ImageFolder;

constexpr int kUnknownCommand = 2;
constexpr int64_t kBatch = 32;

// One pass in file order; returns seconds.
double Pass(const ImageFolder& data, bitstair::core::SamplePipeline& pipeline, std::optional<bitstair::core::AugmentationKey> key) {
  const auto begin = std::chrono::steady_clock::now();
  std::vector<int32_t> order(static_cast<size_t>(data.size()));
  std::iota(order.begin(), order.end(), 0);
  pipeline.Start(std::move(order), kBatch, key, bitstair::core::WhenSkipped::kReplace);
  int64_t images = 0;
  for (bitstair::core::SampleBatch batch; pipeline.Next(&batch);) images += batch.labels.size(0);
  if (images != data.size()) throw std::runtime_error(pipeline.status().ToString());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

int Serve(const ImageFolder& data, bool train, int threads) {
  bitstair::core::SamplePipeline pipeline(data, threads);
  uint32_t epoch = 0;
  const auto pass = [&] { return Pass(data, pipeline, train ? std::optional<bitstair::core::AugmentationKey>({.seed = 1, .epoch = epoch++}) : std::nullopt); };
  pass();  // files into the page cache
  std::cout << nlohmann::json({{"ready", true}, {"threads", threads}, {"images", data.size()}}) << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command;
    int passes = 0;
    words >> command >> passes;
    if (command == "quit") return 0;
    if (command != "run") return kUnknownCommand;
    std::vector<double> seconds(static_cast<size_t>(passes));
    for (double& s : seconds) s = pass();
    std::cout << nlohmann::json({{"seconds", seconds}}) << std::endl;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Reads the JPEG files of FOLDER/CLASS/FILE as training or evaluation does"};
  std::string folder, mode;
  int threads = 1;
  app.add_option("--folder", folder)->required();
  app.add_option("--mode", mode)->required()->check(CLI::IsMember({"train", "test"}));
  app.add_option("--threads", threads);
  CLI11_PARSE(app, argc, argv);
  try {
    const auto data = ImageFolder::Open(folder);
    if (!data.ok()) throw std::runtime_error(data.status().ToString());
    return Serve(**data, mode == "train", threads);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
