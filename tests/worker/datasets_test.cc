#include "worker/datasets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/digest/sha256.h"

namespace bitstair::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class DatasetsTest : public testing::Test {
 protected:
  DatasetsTest() {
    std::string pattern = testing::TempDir() + "bitstair-datasets-XXXXXX";
    top_ = fs::canonical(mkdtemp(pattern.data())).string();
    Write("set/b.bin", "bytes of b");
    Write("set/a/x.bin", "bytes of x");
    Write("outside/secret", "secret");
  }
  ~DatasetsTest() override { fs::remove_all(top_); }

  void Write(const std::string& path, const std::string& bytes) {
    fs::create_directories(fs::path(top_ + "/" + path).parent_path());
    std::ofstream(top_ + "/" + path, std::ios::binary) << bytes;
    // Old enough for its digest to be remembered.
    fs::last_write_time(top_ + "/" + path, fs::file_time_type::clock::now() - std::chrono::hours(1));
  }
  static v1::DataSpec Named(const std::string& name) {
    v1::DataSpec data;
    data.set_name(name);
    return data;
  }
  static v1::DataSpec Path(const std::string& path) {
    v1::DataSpec data;
    data.set_path(path);
    return data;
  }
  std::string Digest(Datasets& datasets, const v1::DataSpec& data) {
    const auto resolved = datasets.Resolve(data);
    return resolved.ok() ? resolved->digest : std::string(resolved.status().message());
  }

  std::string top_;
};

TEST_F(DatasetsTest, TheDigestIsThatOfSortedPathsSizesAndDigests) {
  Datasets datasets({.named = {{"set", top_ + "/set"}}});
  const std::string expected = core::Sha256Hex(std::string("bitstair-dataset-v1\n") + "a/x.bin" + '\0' + "10" + '\0' + core::Sha256Hex("bytes of x") + "\n" +
                                               "b.bin" + '\0' + "10" + '\0' + core::Sha256Hex("bytes of b") + "\n");
  const auto resolved = datasets.Resolve(Named("set"));
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->digest, expected);
  EXPECT_EQ(resolved->path, top_ + "/set");
}

TEST_F(DatasetsTest, TheDigestChangesWithContentNameAndNumberOfFiles) {
  Datasets datasets({.named = {{"set", top_ + "/set"}}});
  const std::string before = Digest(datasets, Named("set"));
  Write("set/b.bin", "bytes of B");
  const std::string changed = Digest(datasets, Named("set"));
  EXPECT_NE(before, changed);
  fs::rename(top_ + "/set/b.bin", top_ + "/set/c.bin");
  const std::string renamed = Digest(datasets, Named("set"));
  EXPECT_NE(changed, renamed);
  Write("set/d.bin", "");
  EXPECT_NE(renamed, Digest(datasets, Named("set")));
}

TEST_F(DatasetsTest, UnchangedFilesAreNotReadAgainEvenAfterARestart) {
  const std::string cache = top_ + "/cache";
  std::string first;
  {
    Datasets datasets({.named = {{"set", top_ + "/set"}}, .cache_file = cache});
    first = Digest(datasets, Named("set"));
  }
  // Same inode, size and time but other bytes: only somebody who does not read them can miss that.
  const auto time = fs::last_write_time(top_ + "/set/b.bin");
  std::ofstream(top_ + "/set/b.bin", std::ios::in | std::ios::binary) << "BYTES OF B";
  fs::last_write_time(top_ + "/set/b.bin", time);
  Datasets remembering({.named = {{"set", top_ + "/set"}}, .cache_file = cache});
  EXPECT_EQ(Digest(remembering, Named("set")), first);
  Datasets forgetful({.named = {{"set", top_ + "/set"}}});
  EXPECT_NE(Digest(forgetful, Named("set")), first);
}

TEST_F(DatasetsTest, AnImageFolderIsASetLikeAnyOther) {
  Write("pictures/train/n02/b.JPEG", "b");
  Write("pictures/train/n01/a.JPEG", "a");
  Write("pictures/val/n01/c.JPEG", "c");
  std::string expected = "bitstair-dataset-v1\n";
  for (const auto& [file, bytes] : {std::pair("train/n01/a.JPEG", "a"), std::pair("train/n02/b.JPEG", "b"), std::pair("val/n01/c.JPEG", "c")}) {
    expected += file + std::string(1, '\0') + "1" + '\0' + core::Sha256Hex(bytes) + "\n";
  }
  Datasets datasets({.named = {{"imagenet", top_ + "/pictures"}}, .cache_file = top_ + "/cache"});
  EXPECT_EQ(Digest(datasets, Named("imagenet")), core::Sha256Hex(expected));
  EXPECT_EQ(Digest(datasets, Named("imagenet")), core::Sha256Hex(expected));
  // What is remembered of a file is as long whatever its name is.
  EXPECT_EQ(fs::file_size(top_ + "/cache"), 3 * (64 + 1 + 32 + 1));
}

TEST_F(DatasetsTest, ADamagedCacheOnlyCostsTime) {
  std::ofstream(top_ + "/cache") << "not a cache\n\xff\xfe 1 2 3\n";
  Datasets with({.named = {{"set", top_ + "/set"}}, .cache_file = top_ + "/cache"});
  Datasets without({.named = {{"set", top_ + "/set"}}});
  EXPECT_EQ(Digest(with, Named("set")), Digest(without, Named("set")));
}

TEST_F(DatasetsTest, APathMustLieInsideARoot) {
  Datasets datasets({.roots = {top_ + "/set"}});
  EXPECT_TRUE(datasets.Resolve(Path(top_ + "/set/a")).ok());
  EXPECT_TRUE(datasets.Resolve(Path(top_ + "/set")).ok());
  for (const std::string& path : {top_ + "/outside", top_ + "/set/../outside", top_, std::string("/"), top_ + "/set-not", std::string("/nonexistent/x")}) {
    EXPECT_TRUE(absl::IsUnavailable(datasets.Resolve(Path(path)).status())) << path;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(datasets.Resolve(Path("set/a")).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(datasets.Resolve(Path("")).status()));
  EXPECT_TRUE(absl::IsUnavailable(Datasets({}).Resolve(Path(top_ + "/set")).status()));
}

TEST_F(DatasetsTest, AMissingPathInsideARootIsAFaultOfTheData) {
  Datasets datasets({.roots = {top_ + "/set"}});
  const auto resolved = datasets.Resolve(Path(top_ + "/set/none"));
  EXPECT_TRUE(absl::IsNotFound(resolved.status())) << resolved.status();
  EXPECT_THAT(std::string(resolved.status().message()), HasSubstr("set/none"));
}

TEST_F(DatasetsTest, ASymbolicLinkDoesNotLeadOutOfTheRoots) {
  fs::create_directory_symlink(top_ + "/outside", top_ + "/set/way-out");
  Datasets datasets({.roots = {top_ + "/set"}});
  EXPECT_TRUE(absl::IsPermissionDenied(datasets.Resolve(Path(top_ + "/set/way-out")).status()));
  fs::remove(top_ + "/set/way-out");
  fs::create_symlink(top_ + "/outside/secret", top_ + "/set/a/link");
  const auto resolved = datasets.Resolve(Path(top_ + "/set/a"));
  EXPECT_TRUE(absl::IsPermissionDenied(resolved.status()));
  EXPECT_THAT(std::string(resolved.status().message()), HasSubstr("a/link"));
  fs::remove(top_ + "/set/a/link");
  fs::create_symlink(top_ + "/set/b.bin", top_ + "/set/a/link");
  EXPECT_TRUE(datasets.Resolve(Path(top_ + "/set/a")).ok()) << "a link inside the root counts as the file";
}

TEST_F(DatasetsTest, AFileOfWeightsMustLieInsideARootToo) {
  Datasets datasets({.named = {{"set", top_ + "/set"}}, .roots = {top_ + "/set/a"}});
  const auto resolved = datasets.ResolveWeights(top_ + "/set/a/x.bin");
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->digest, core::Sha256Hex("bytes of x"));
  EXPECT_EQ(resolved->path, top_ + "/set/a/x.bin");
  EXPECT_TRUE(absl::IsUnavailable(datasets.ResolveWeights(top_ + "/set/b.bin").status())) << "that a data set is offered by name allows no paths";
  EXPECT_TRUE(absl::IsUnavailable(datasets.ResolveWeights(top_ + "/set/a/../b.bin").status()));
  fs::create_symlink(top_ + "/set/b.bin", top_ + "/set/a/way-out");
  EXPECT_TRUE(absl::IsPermissionDenied(datasets.ResolveWeights(top_ + "/set/a/way-out").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(datasets.ResolveWeights("x.bin").status()));
  EXPECT_TRUE(absl::IsNotFound(datasets.ResolveWeights(top_ + "/set/a/none").status()));
  EXPECT_THAT(std::string(datasets.ResolveWeights(top_ + "/set/a").status().message()), HasSubstr("set/a is not a regular file"));
}

TEST_F(DatasetsTest, FaultsNameTheFile) {
  Datasets datasets({.named = {{"set", top_ + "/set"}, {"empty", top_ + "/empty"}}});
  fs::create_directory(top_ + "/empty");
  EXPECT_THAT(Digest(datasets, Named("empty")), HasSubstr("/empty has no files"));
  mkfifo((top_ + "/set/pipe").c_str(), 0600);
  EXPECT_THAT(Digest(datasets, Named("set")), HasSubstr("set/pipe is not a regular file"));
  fs::remove(top_ + "/set/pipe");
  for (const char* name : {"\xff", "\xc3", "\xed\xa0\x80", "\xe0\x80\x80", "caf\xe9"}) {
    Write(std::string("set/") + name, "");
    EXPECT_THAT(Digest(datasets, Named("set")), HasSubstr("not UTF-8"));
    fs::remove(top_ + "/set/" + name);
  }
  Write("set/caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "");
  EXPECT_EQ(Digest(datasets, Named("set")).size(), 64u);
  fs::create_symlink(top_ + "/nowhere", top_ + "/set/dangling");
  EXPECT_THAT(Digest(datasets, Named("set")), HasSubstr("set/dangling"));
  EXPECT_TRUE(absl::IsUnavailable(datasets.Resolve(Named("other")).status()));
}

TEST_F(DatasetsTest, CheckNamesTheFlagAndTheFolder) {
  EXPECT_TRUE(Datasets({.named = {{"set", top_ + "/set"}}, .roots = {top_}}).Check().ok());
  EXPECT_THAT(std::string(Datasets({.named = {{"x", top_ + "/none"}}}).Check().message()), HasSubstr("--data x: cannot use " + top_ + "/none"));
  EXPECT_THAT(std::string(Datasets({.roots = {top_ + "/set/b.bin"}}).Check().message()), HasSubstr("b.bin is not a folder"));
}

}  // namespace
}  // namespace bitstair::worker
