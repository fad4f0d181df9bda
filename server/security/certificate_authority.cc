#include "server/security/certificate_authority.h"

#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/digest/sha256.h"
#include "core/files/durable_file.h"
#include "core/random/secure_random.h"

namespace bitstair::server {
namespace {

constexpr absl::Duration kAuthorityLife = absl::Hours(24 * 365 * 20);
constexpr absl::Duration kClockTolerance = absl::Minutes(5);
constexpr size_t kMaxPemBytes = 1 << 16;

bool AddExtension(X509* certificate, X509* issuer, int kind, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_nconf_nid(nullptr, &context, kind, value);
  const bool added = extension != nullptr && X509_add_ext(certificate, extension, -1) == 1;
  X509_EXTENSION_free(extension);
  return added;
}

bool SetRandomSerial(X509* certificate) {
  std::string bytes = core::SecureRandomBytes(16);
  bytes[0] &= 0x7f;
  BIGNUM* number = BN_bin2bn(reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()), nullptr);
  const bool set = number != nullptr && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != nullptr;
  BN_free(number);
  return set;
}

struct Content {
  std::string common_name;
  EVP_PKEY* public_key = nullptr;
  X509* issuer = nullptr;  // null: itself
  EVP_PKEY* issuer_key = nullptr;
  absl::Time from, to;
  bool authority = false;
};

absl::StatusOr<daemon::Certificate> Make(const Content& content) {
  daemon::Certificate certificate(X509_new());
  X509* x = certificate.get();
  X509* issuer = content.issuer == nullptr ? x : content.issuer;
  const bool made =
      x != nullptr && X509_set_version(x, X509_VERSION_3) == 1 && SetRandomSerial(x) &&
      X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(content.common_name.data()),
                                 static_cast<int>(content.common_name.size()), -1, 0) == 1 &&
      X509_set_issuer_name(x, X509_get_subject_name(issuer)) == 1 && X509_set_pubkey(x, content.public_key) == 1 &&
      ASN1_TIME_set(X509_getm_notBefore(x), absl::ToTimeT(content.from)) != nullptr &&
      ASN1_TIME_set(X509_getm_notAfter(x), absl::ToTimeT(content.to)) != nullptr && AddExtension(x, issuer, NID_subject_key_identifier, "hash") &&
      AddExtension(x, issuer, NID_authority_key_identifier, "keyid") &&
      AddExtension(x, issuer, NID_basic_constraints, content.authority ? "critical,CA:TRUE,pathlen:0" : "critical,CA:FALSE") &&
      AddExtension(x, issuer, NID_key_usage, content.authority ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature") &&
      (content.authority || AddExtension(x, issuer, NID_ext_key_usage, "clientAuth")) && X509_sign(x, content.issuer_key, EVP_sha256()) > 0;
  if (!made) return daemon::OpenSslError("cannot make a certificate");
  return certificate;
}

absl::StatusOr<daemon::CertificateRequest> CheckedRequest(const std::string& pem) {
  if (pem.size() > kMaxPemBytes) return absl::InvalidArgumentError("certificate_request: is too long");
  auto request = daemon::ReadRequest(pem);
  if (!request.ok()) return absl::InvalidArgumentError(absl::StrCat("certificate_request: ", request.status().message()));
  EVP_PKEY* key = X509_REQ_get0_pubkey(request->get());
  if (key == nullptr || X509_REQ_verify(request->get(), key) != 1) return absl::InvalidArgumentError("certificate_request: its signature is not by its key");
  return request;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CertificateAuthority>> CertificateAuthority::Open(const std::string& state_dir, absl::Time now) {
  const std::string key_file = state_dir + "/worker-ca.key", certificate_file = state_dir + "/worker-ca.crt";
  const bool has_key = access(key_file.c_str(), F_OK) == 0, has_certificate = access(certificate_file.c_str(), F_OK) == 0;
  // The certificate is written last: a key alone is from a start that was cut short.
  if (!has_certificate) {
    auto key = daemon::MakeKey();
    if (!key.ok()) return key.status();
    Content content{"Bitstair workers", key->get(), nullptr, key->get(), now - kClockTolerance, now + kAuthorityLife, true};
    auto certificate = Make(content);
    if (!certificate.ok()) return certificate.status();
    const auto key_pem = daemon::ToPem(**key), certificate_pem = daemon::ToPem(**certificate);
    if (!key_pem.ok()) return key_pem.status();
    if (!certificate_pem.ok()) return certificate_pem.status();
    if (auto s = core::WriteFileDurably(key_file, *key_pem); !s.ok()) return s;
    if (auto s = core::WriteFileDurably(certificate_file, *certificate_pem); !s.ok()) return s;
  } else if (!has_key) {
    return absl::DataLossError(
        absl::StrCat(certificate_file, " is there without ", key_file, ". Restore the key; or remove the certificate, and every worker joins anew"));
  }
  if (auto s = daemon::CheckKeyPair(certificate_file, key_file, now); !s.ok()) return absl::DataLossError(s.message());
  const auto key_pem = core::ReadFile(key_file, kMaxPemBytes), certificate_pem = core::ReadFile(certificate_file, kMaxPemBytes);
  if (!key_pem.ok()) return key_pem.status();
  if (!certificate_pem.ok()) return certificate_pem.status();
  auto key = daemon::ReadKey(*key_pem);
  if (!key.ok()) return key.status();
  auto certificate = daemon::ReadCertificate(*certificate_pem);
  if (!certificate.ok()) return certificate.status();
  return std::unique_ptr<CertificateAuthority>(new CertificateAuthority(*std::move(key), *std::move(certificate), certificate_file));
}

absl::StatusOr<std::string> CertificateAuthority::Sign(const std::string& request_pem, const std::string& common_name, absl::Duration life,
                                                       absl::Time now) const {
  const auto request = CheckedRequest(request_pem);
  if (!request.ok()) return request.status();
  Content content{common_name, X509_REQ_get0_pubkey(request->get()), certificate_.get(), key_.get(), now - kClockTolerance, now + life, false};
  const auto certificate = Make(content);
  if (!certificate.ok()) return certificate.status();
  return daemon::ToPem(**certificate);
}

absl::StatusOr<std::string> PublicKeyDigest(const std::string& request_pem) {
  const auto request = CheckedRequest(request_pem);
  if (!request.ok()) return request.status();
  unsigned char* der = nullptr;
  const int size = i2d_PUBKEY(X509_REQ_get0_pubkey(request->get()), &der);
  if (size <= 0) return daemon::OpenSslError("cannot read a public key");
  const std::string digest = core::Sha256Hex(absl::string_view(reinterpret_cast<char*>(der), static_cast<size_t>(size)));
  OPENSSL_free(der);
  return digest;
}

}  // namespace bitstair::server
