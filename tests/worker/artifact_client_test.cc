#include "worker/artifact_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/digest/sha256.h"
#include "core/files/durable_file.h"
#include "tests/worker/scripted_coordinator.h"
#include "worker/metrics.h"

namespace bitstair::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;

class ArtifactClientTest : public testing::Test {
 protected:
  ArtifactClientTest() : coordinator_(&artifacts_) {
    std::string pattern = testing::TempDir() + "bitstair-artifacts-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    channel_ = grpc::CreateChannel(coordinator_.address(), grpc::InsecureChannelCredentials());
    MakeClient(int64_t{1} << 30);
    for (int i = 0; i < 1'000'000; ++i) bytes_.push_back(static_cast<char>(i * 31 % 251));
    sha256_ = core::Sha256Hex(bytes_);
  }
  ~ArtifactClientTest() override {
    client_.reset();
    fs::remove_all(folder_);
  }
  void MakeClient(int64_t cache_bytes) {
    client_.reset();
    client_ = std::make_unique<ArtifactClient>(io_, channel_, ArtifactClient::Options{.cache_dir = folder_, .cache_bytes = cache_bytes, .download_tries = 3},
                                               &metrics_);
  }
  absl::StatusOr<std::string> Fetch(const std::string& sha256, int64_t size) {
    std::optional<absl::StatusOr<std::string>> result;
    client_->Fetch(sha256, size, [&](const absl::StatusOr<std::string>& path) { result = path; });
    RunUntil([&] { return result.has_value(); });
    return result.value_or(absl::DeadlineExceededError("the test waited too long"));
  }
  absl::Status Upload(const std::string& path, const std::string& sha256, int64_t size) {
    std::optional<absl::Status> result;
    client_->Upload(path, sha256, size, [&](const absl::Status& status) { result = status; });
    RunUntil([&] { return result.has_value(); });
    return result.value_or(absl::DeadlineExceededError("the test waited too long"));
  }
  void RunUntil(const std::function<bool()>& done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(15);
    io_.restart();
    while (!done() && std::chrono::steady_clock::now() < deadline) {
      io_.restart();
      io_.run_one_for(std::chrono::milliseconds(50));
    }
  }

  MemoryArtifacts artifacts_;
  ScriptedCoordinator coordinator_;
  std::string folder_;
  boost::asio::io_context io_;
  WorkerMetrics metrics_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<ArtifactClient> client_;
  std::string bytes_;
  std::string sha256_;
};

TEST_F(ArtifactClientTest, ADownloadThatBreaksGoesOnWhereItStopped) {
  artifacts_.Put(sha256_, bytes_);
  artifacts_.BreakStreams(2, 300'000);
  const auto path = Fetch(sha256_, 1'000'000);
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(*core::ReadFile(*path), bytes_);
  EXPECT_THAT(artifacts_.offsets(), ElementsAre(0, 300'000, 600'000));
  // From the cache now.
  EXPECT_EQ(*Fetch(sha256_, 1'000'000), *path);
  EXPECT_EQ(artifacts_.offsets().size(), 3u);
}

TEST_F(ArtifactClientTest, AnUploadThatBreaksGoesOnWhereItStoppedAndFillsTheCache) {
  const std::string path = folder_ + "/source";
  std::ofstream(path, std::ios::binary) << bytes_;
  artifacts_.BreakStreams(1, 500'000);
  const absl::Status status = Upload(path, sha256_, 1'000'000);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(artifacts_.Get(sha256_), bytes_);
  const auto offsets = artifacts_.offsets();
  ASSERT_EQ(offsets.size(), 2u);
  EXPECT_GE(offsets[1], 500'000);
  ASSERT_TRUE(Upload(path, sha256_, 1'000'000).ok()) << "what is held already is not sent again";
  EXPECT_EQ(artifacts_.offsets().size(), 2u);
  ASSERT_TRUE(Fetch(sha256_, 1'000'000).ok());
  EXPECT_EQ(artifacts_.offsets().size(), 2u);
}

TEST_F(ArtifactClientTest, DamagedBytesAreNeverHandedOut) {
  std::string other = bytes_;
  other[123'456] ^= 1;
  artifacts_.Put(sha256_, other);
  EXPECT_TRUE(absl::IsDataLoss(Fetch(sha256_, 1'000'000).status()));
  EXPECT_FALSE(fs::exists(folder_ + "/" + sha256_));
  EXPECT_THAT(artifacts_.offsets(), ElementsAre(0, 0, 0)) << "each try begins anew";
  artifacts_.Put(sha256_, bytes_);
  EXPECT_TRUE(Fetch(sha256_, 1'000'000).ok());
}

TEST_F(ArtifactClientTest, MissingTooLongAndUnreachableArtifactsFail) {
  EXPECT_TRUE(absl::IsNotFound(Fetch(sha256_, 1'000'000).status()));
  artifacts_.Put(sha256_, bytes_);
  EXPECT_TRUE(absl::IsDataLoss(Fetch(sha256_, 999'999).status()));
  EXPECT_TRUE(absl::IsDataLoss(Fetch(sha256_, 1'000'001).status()));
  artifacts_.BreakStreams(100, 0);
  EXPECT_TRUE(absl::IsUnavailable(Fetch(sha256_, 1'000'000).status()));
}

TEST_F(ArtifactClientTest, AFileThatIsNotWhatItIsSaidToBeIsNotUploaded) {
  std::ofstream(folder_ + "/source", std::ios::binary) << bytes_;
  EXPECT_TRUE(absl::IsDataLoss(Upload(folder_ + "/source", sha256_, 5)));
  EXPECT_TRUE(absl::IsNotFound(Upload(folder_ + "/none", sha256_, 5)));
  EXPECT_TRUE(absl::IsDataLoss(Upload(folder_ + "/source", core::Sha256Hex("x"), 1'000'000)));
}

TEST_F(ArtifactClientTest, TheCacheForgetsTheLeastRecentlyUsed) {
  MakeClient(2'500'000);
  std::vector<std::string> digests;
  for (char tail = 'a'; tail <= 'c'; ++tail) {
    const std::string bytes = bytes_.substr(0, 999'999) + tail;
    digests.push_back(core::Sha256Hex(bytes));
    artifacts_.Put(digests.back(), bytes);
    ASSERT_TRUE(Fetch(digests.back(), 1'000'000).ok());
    // The first one counts as used long ago.
    if (tail == 'a') fs::last_write_time(folder_ + "/" + digests[0], fs::file_time_type::clock::now() - std::chrono::hours(1));
  }
  EXPECT_FALSE(fs::exists(folder_ + "/" + digests[0]));
  EXPECT_TRUE(fs::exists(folder_ + "/" + digests[1]));
  EXPECT_TRUE(fs::exists(folder_ + "/" + digests[2]));
}

TEST_F(ArtifactClientTest, CancelledTransfersAreSilentAndDoNotBlockTheNext) {
  artifacts_.Put(sha256_, bytes_);
  artifacts_.BreakStreams(1, 0);
  bool called = false;
  const uint64_t number = client_->Fetch(sha256_, 1'000'000, [&](const absl::StatusOr<std::string>&) { called = true; });
  client_->Cancel(number);
  EXPECT_TRUE(Fetch(sha256_, 1'000'000).ok());
  EXPECT_FALSE(called);
}

TEST_F(ArtifactClientTest, DestroyingItBreaksWhatIsUnderWay) {
  artifacts_.Put(sha256_, bytes_);
  artifacts_.BreakStreams(1000, 0);
  bool called = false;
  for (int i = 0; i < 5; ++i) client_->Fetch(sha256_, 1'000'000, [&](const absl::StatusOr<std::string>&) { called = true; });
  client_.reset();
  EXPECT_FALSE(called);
}

}  // namespace
}  // namespace bitstair::worker
