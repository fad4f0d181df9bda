#include "server/security/certificate_authority.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <filesystem>

#include "absl/time/clock.h"
#include "core/files/durable_file.h"
#include "tests/support/temporary_directory.h"

namespace bitstair::server {
namespace {

using ::testing::HasSubstr;

class CertificateAuthorityTest : public ::testing::Test {
 protected:
  std::unique_ptr<CertificateAuthority> Open(const std::string& folder = "") {
    auto authority = CertificateAuthority::Open(dir_.path() + folder, now_);
    EXPECT_TRUE(authority.ok()) << authority.status();
    return *std::move(authority);
  }
  // As a server that asks for client certificates checks them, at `time`.
  static std::string Verify(const std::string& authority_file, const std::string& certificate_pem, absl::Time time) {
    const auto certificate = daemon::ReadCertificate(certificate_pem);
    X509_STORE* store = X509_STORE_new();
    X509_STORE_load_file(store, authority_file.c_str());
    X509_STORE_CTX* context = X509_STORE_CTX_new();
    X509_STORE_CTX_init(context, store, certificate->get(), nullptr);
    X509_VERIFY_PARAM_set_time(X509_STORE_CTX_get0_param(context), absl::ToTimeT(time));
    X509_STORE_CTX_set_purpose(context, X509_PURPOSE_SSL_CLIENT);
    const std::string result = X509_verify_cert(context) == 1 ? "ok" : X509_verify_cert_error_string(X509_STORE_CTX_get_error(context));
    X509_STORE_CTX_free(context);
    X509_STORE_free(store);
    return result;
  }

  const absl::Time now_ = absl::Now();
  testing::TemporaryDirectory dir_;
  const daemon::Key key_ = *daemon::MakeKey();
  const std::string request_ = *daemon::MakeRequest(key_.get(), "whatever it says");
};

TEST_F(CertificateAuthorityTest, SignsForAsLongAsItSaysAndSurvivesARestart) {
  const std::string certificate = *Open()->Sign(request_, "0a1b", absl::Hours(10), now_);
  const auto authority = Open();
  EXPECT_EQ(Verify(authority->certificate_file(), certificate, now_), "ok");
  EXPECT_EQ(Verify(authority->certificate_file(), certificate, now_ + absl::Hours(11)), "certificate has expired");
  EXPECT_EQ(Verify(authority->certificate_file(), certificate, now_ - absl::Minutes(10)), "certificate is not yet valid");
  const auto read = daemon::ReadCertificate(certificate);
  char name[64] = "";
  X509_NAME_get_text_by_NID(X509_get_subject_name(read->get()), NID_commonName, name, sizeof(name));
  EXPECT_STREQ(name, "0a1b") << "not what the request asked for";
  EXPECT_EQ(X509_check_private_key(read->get(), key_.get()), 1);
  EXPECT_EQ(X509_check_ca(read->get()), 0) << "it signs nothing itself";
  struct stat info {};
  ASSERT_EQ(stat((dir_.path() + "/worker-ca.key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(CertificateAuthorityTest, AnotherAuthoritysCertificateDoesNotCount) {
  std::filesystem::create_directory(dir_.path() + "/other");
  const std::string foreign = *Open("/other")->Sign(request_, "0a1b", absl::Hours(10), now_);
  EXPECT_NE(Verify(Open()->certificate_file(), foreign, now_), "ok");
}

TEST_F(CertificateAuthorityTest, RequestsMustBeSignedByTheirKey) {
  const auto authority = Open();
  std::string tampered = request_;
  const size_t middle = tampered.size() / 2;
  tampered[middle] = tampered[middle] == 'A' ? 'B' : 'A';
  for (const std::string& bad : {std::string(), std::string("x"), tampered, *daemon::ToPem(*key_), std::string(1 << 20, 'x')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(authority->Sign(bad, "0a1b", absl::Hours(1), now_).status())) << bad.substr(0, 40);
    EXPECT_TRUE(absl::IsInvalidArgument(PublicKeyDigest(bad).status()));
  }
  EXPECT_EQ(*PublicKeyDigest(request_), *PublicKeyDigest(*daemon::MakeRequest(key_.get(), "another name"))) << "of the key alone";
}

TEST_F(CertificateAuthorityTest, DamagedOrMissingFilesAreNamed) {
  Open();
  std::filesystem::remove(dir_.path() + "/worker-ca.key");
  auto opened = CertificateAuthority::Open(dir_.path(), now_);
  EXPECT_TRUE(absl::IsDataLoss(opened.status()));
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr("worker-ca.key"));
  ASSERT_TRUE(core::WriteFileDurably(dir_.path() + "/worker-ca.key", *daemon::ToPem(*key_)).ok());
  opened = CertificateAuthority::Open(dir_.path(), now_);
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr("is not the key of the certificate"));
  ASSERT_TRUE(core::WriteFileDurably(dir_.path() + "/worker-ca.crt", "nonsense").ok());
  opened = CertificateAuthority::Open(dir_.path(), now_);
  EXPECT_TRUE(absl::IsDataLoss(opened.status()));
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr("worker-ca.crt holds no certificate"));
}

}  // namespace
}  // namespace bitstair::server
