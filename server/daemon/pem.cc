#include "server/daemon/pem.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include <ctime>

#include "absl/strings/str_cat.h"
#include "core/files/durable_file.h"

namespace bitstair::daemon {
namespace {

constexpr size_t kMaxPemBytes = 1 << 20;
using Bio = std::unique_ptr<BIO, OpenSslDeleter<BIO_free_all>>;

Bio Reader(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// OpenSSL would ask on the terminal.
int NoPassphrase(char*, int, int, void*) {
  return -1;
}

template <typename Write>
absl::StatusOr<std::string> Written(Write write, absl::string_view what) {
  const Bio bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || write(bio.get()) != 1) return OpenSslError(what);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

absl::Status NotReadable(absl::string_view what) {
  ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrCat("holds no ", what, " in PEM that can be read"));
}

absl::Time FromAsn1(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InfinitePast();
  return absl::FromTM(parts, absl::UTCTimeZone());
}

absl::Status In(const std::string& file, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(file, " ", status.message()));
}

std::string Shown(absl::Time time) {
  return absl::FormatTime(absl::RFC3339_sec, time, absl::UTCTimeZone());
}

}  // namespace

absl::Status OpenSslError(absl::string_view what) {
  char text[256] = "unknown";
  if (const unsigned long code = ERR_get_error(); code != 0) ERR_error_string_n(code, text, sizeof(text));
  ERR_clear_error();
  return absl::InternalError(absl::StrCat(what, ": ", text));
}

absl::StatusOr<Key> MakeKey() {
  Key key(EVP_EC_gen("P-256"));
  if (key == nullptr) return OpenSslError("cannot make a key");
  return key;
}

absl::StatusOr<Key> ReadKey(const std::string& pem) {
  Key key(PEM_read_bio_PrivateKey(Reader(pem).get(), nullptr, NoPassphrase, nullptr));
  if (key == nullptr) return NotReadable("private key without a passphrase");
  return key;
}

absl::StatusOr<Certificate> ReadCertificate(const std::string& pem) {
  Certificate certificate(PEM_read_bio_X509(Reader(pem).get(), nullptr, NoPassphrase, nullptr));
  if (certificate == nullptr) return NotReadable("certificate");
  return certificate;
}

absl::StatusOr<CertificateRequest> ReadRequest(const std::string& pem) {
  CertificateRequest request(PEM_read_bio_X509_REQ(Reader(pem).get(), nullptr, NoPassphrase, nullptr));
  if (request == nullptr) return NotReadable("certificate request");
  return request;
}

absl::StatusOr<std::string> ToPem(const EVP_PKEY& key) {
  return Written([&](BIO* bio) { return PEM_write_bio_PKCS8PrivateKey(bio, &key, nullptr, nullptr, 0, nullptr, nullptr); }, "cannot write a key");
}

absl::StatusOr<std::string> ToPem(const X509& certificate) {
  return Written([&](BIO* bio) { return PEM_write_bio_X509(bio, &certificate); }, "cannot write a certificate");
}

absl::StatusOr<std::string> MakeRequest(EVP_PKEY* key, const std::string& common_name) {
  const CertificateRequest request(X509_REQ_new());
  if (request == nullptr || X509_REQ_set_pubkey(request.get(), key) != 1 ||
      X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request.get()), "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(common_name.data()),
                                 static_cast<int>(common_name.size()), -1, 0) != 1 ||
      X509_REQ_sign(request.get(), key, EVP_sha256()) <= 0) {
    return OpenSslError("cannot make a certificate request");
  }
  return Written([&](BIO* bio) { return PEM_write_bio_X509_REQ(bio, request.get()); }, "cannot write a certificate request");
}

absl::Time NotBefore(const X509& certificate) {
  return FromAsn1(X509_get0_notBefore(&certificate));
}

absl::Time NotAfter(const X509& certificate) {
  return FromAsn1(X509_get0_notAfter(&certificate));
}

absl::Status CheckKeyPair(const std::string& certificate_file, const std::string& key_file, absl::Time now) {
  const auto certificate_pem = core::ReadFile(certificate_file, kMaxPemBytes), key_pem = core::ReadFile(key_file, kMaxPemBytes);
  if (!certificate_pem.ok()) return certificate_pem.status();
  if (!key_pem.ok()) return key_pem.status();
  const auto certificate = ReadCertificate(*certificate_pem);
  if (!certificate.ok()) return In(certificate_file, certificate.status());
  const auto key = ReadKey(*key_pem);
  if (!key.ok()) return In(key_file, key.status());
  if (X509_check_private_key(certificate->get(), key->get()) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError(absl::StrCat(key_file, " is not the key of the certificate in ", certificate_file));
  }
  if (NotAfter(**certificate) <= now)
    return absl::InvalidArgumentError(absl::StrCat("the certificate in ", certificate_file, " expired at ", Shown(NotAfter(**certificate))));
  if (NotBefore(**certificate) > now) {
    return absl::InvalidArgumentError(absl::StrCat("the certificate in ", certificate_file, " is not in force before ", Shown(NotBefore(**certificate))));
  }
  return absl::OkStatus();
}

}  // namespace bitstair::daemon
