#include "server/artifact_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/time/clock.h"
#include "core/files/durable_file.h"
#include "tests/support/temporary_directory.h"

namespace bitstair::server {
namespace {

using ::testing::HasSubstr;

class ArtifactStoreTest : public ::testing::Test {
 protected:
  ArtifactStoreTest() : store_(*ArtifactStore::Open(dir_.path())) {}

  absl::Status Put(const std::string& bytes) {
    auto upload = store_->BeginUpload(core::Sha256Hex(bytes), static_cast<int64_t>(bytes.size()), 0);
    if (!upload.ok()) return upload.status();
    if (auto s = (*upload)->Append(bytes); !s.ok()) return s;
    return (*upload)->Finish();
  }

  testing::TemporaryDirectory dir_;
  std::unique_ptr<ArtifactStore> store_;
};

TEST_F(ArtifactStoreTest, WhatWasPutCanBeReadInParts) {
  const std::string bytes = "hello artifact";
  const std::string sha = core::Sha256Hex(bytes);
  ASSERT_TRUE(Put(bytes).ok());
  EXPECT_EQ(*store_->Read(sha, 0, 5), "hello");
  EXPECT_EQ(*store_->Read(sha, 6, 100), "artifact");
  EXPECT_EQ(*store_->Read(sha, 14, 100), "");
  EXPECT_EQ(store_->Read(sha, 15, 100).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(store_->Read(sha, -1, 100).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(store_->Find(sha)->complete());
  EXPECT_EQ(store_->Find(sha)->size_bytes(), 14);
  EXPECT_TRUE(std::filesystem::exists(dir_ / ("sha256/" + sha.substr(0, 2) + "/" + sha)));
  EXPECT_EQ(*store_->BeginUpload(sha, 14, 0), nullptr) << "held already";
}

TEST_F(ArtifactStoreTest, ListsWhatLiesThereAndDeletesIt) {
  ASSERT_TRUE(Put("whole").ok());
  const std::string partial = core::Sha256Hex("not whole");
  {
    auto upload = store_->BeginUpload(partial, 9, 0);
    ASSERT_TRUE(upload.ok());
    ASSERT_TRUE((*upload)->Append("not").ok());
    EXPECT_FALSE(store_->Remove(partial, absl::InfiniteFuture())) << "it is being uploaded";
  }
  const auto blobs = store_->List();
  ASSERT_TRUE(blobs.ok()) << blobs.status();
  ASSERT_EQ(blobs->size(), 2u);
  for (const StoredBlob& blob : *blobs) {
    EXPECT_EQ(blob.sha256, blob.whole ? core::Sha256Hex("whole") : partial);
    EXPECT_EQ(blob.size_bytes, blob.whole ? 5 : 3);
    EXPECT_LT(absl::AbsDuration(absl::Now() - blob.modified), absl::Minutes(5));
    EXPECT_TRUE(store_->Remove(blob.sha256, absl::InfiniteFuture()));
  }
  EXPECT_TRUE(store_->List()->empty());
}

TEST_F(ArtifactStoreTest, AnEmptyBlobIsABlob) {
  ASSERT_TRUE(Put("").ok());
  EXPECT_TRUE(store_->IsWhole(core::Sha256Hex("")));
}

TEST_F(ArtifactStoreTest, ABrokenUploadGoesOnWhereItStopped) {
  const std::string bytes(3 << 20, 'z');
  const std::string sha = core::Sha256Hex(bytes);
  const auto size = static_cast<int64_t>(bytes.size());
  {
    auto upload = *store_->BeginUpload(sha, size, 0);
    ASSERT_TRUE(upload->Append(bytes.substr(0, 2000000)).ok());
  }
  store_ = *ArtifactStore::Open(dir_.path());
  EXPECT_EQ(store_->Find(sha)->received_bytes(), 2000000);
  EXPECT_FALSE(store_->Find(sha)->complete());
  EXPECT_FALSE(store_->IsWhole(sha));
  EXPECT_EQ(store_->BeginUpload(sha, size, 2000001).status().code(), absl::StatusCode::kOutOfRange);
  auto upload = *store_->BeginUpload(sha, size, 1999999);
  ASSERT_TRUE(upload->Append(bytes.substr(1999999)).ok());
  ASSERT_TRUE(upload->Finish().ok());
  EXPECT_TRUE(store_->IsWhole(sha));
}

TEST_F(ArtifactStoreTest, OtherBytesThanAnnouncedAreNotKept) {
  const std::string sha = core::Sha256Hex("right");
  auto upload = *store_->BeginUpload(sha, 5, 0);
  ASSERT_TRUE(upload->Append("wrong").ok());
  EXPECT_EQ(upload->Finish().code(), absl::StatusCode::kDataLoss);
  upload.reset();
  EXPECT_EQ(store_->Find(sha).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ArtifactStoreTest, MissingAndSurplusBytesAreFound) {
  const std::string sha = core::Sha256Hex("right");
  auto upload = *store_->BeginUpload(sha, 5, 0);
  EXPECT_EQ(upload->Append("righteous").code(), absl::StatusCode::kOutOfRange);
  ASSERT_TRUE(upload->Append("rig").ok());
  EXPECT_EQ(upload->Finish().code(), absl::StatusCode::kOutOfRange);
  upload.reset();
  EXPECT_EQ(store_->Find(sha)->received_bytes(), 3);
}

TEST_F(ArtifactStoreTest, OneUploadOfABlobAtATime) {
  const std::string sha = core::Sha256Hex("x");
  auto first = *store_->BeginUpload(sha, 1, 0);
  EXPECT_EQ(store_->BeginUpload(sha, 1, 0).status().code(), absl::StatusCode::kAborted);
  first.reset();
  EXPECT_TRUE(store_->BeginUpload(sha, 1, 0).ok());
}

TEST_F(ArtifactStoreTest, NamesThatAreNoDigestAreRefused) {
  for (const std::string name : {"", "../../etc/passwd", "ABC"}) {
    EXPECT_EQ(store_->Find(name).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(store_->Read(name, 0, 1).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(store_->BeginUpload(name, 1, 0).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_FALSE(store_->Remove(name, absl::Now()));
  }
  EXPECT_EQ(store_->BeginUpload(core::Sha256Hex("x"), -1, 0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ArtifactStoreTest, ABlobThatRotsCountsAsAbsentAndCanBeUploadedAgain) {
  const std::string blob(1000, 'x'), digest = core::Sha256Hex(blob);
  ASSERT_TRUE(Put(blob).ok());
  ASSERT_TRUE(store_->IsWhole(digest));
  const std::string path = dir_.path() + "/sha256/" + digest.substr(0, 2) + "/" + digest;
  ASSERT_TRUE(core::WriteFileDurably(path, std::string(999, 'x') + "y").ok());
  EXPECT_FALSE(store_->IsWhole(digest));
  EXPECT_EQ(store_->Find(digest).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->Read(digest, 0, 10).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Put(blob).ok());
  EXPECT_TRUE(store_->IsWhole(digest));
}

TEST_F(ArtifactStoreTest, ABlobInUseIsNotRemoved) {
  ASSERT_TRUE(Put("x").ok());
  const std::string sha = core::Sha256Hex("x");
  EXPECT_FALSE(store_->Remove(sha, absl::Now() - absl::Minutes(1)));
  EXPECT_TRUE(store_->IsWhole(sha));
  EXPECT_TRUE(store_->Remove(sha, absl::Now() + absl::Minutes(1)));
  EXPECT_FALSE(store_->IsWhole(sha));
}

}  // namespace
}  // namespace bitstair::server
