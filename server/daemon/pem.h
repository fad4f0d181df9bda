// Keys, certificates and requests for them, over OpenSSL. Errors say what OpenSSL says.
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bitstair::daemon {

template <auto Free>
struct OpenSslDeleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Key = std::unique_ptr<EVP_PKEY, OpenSslDeleter<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, OpenSslDeleter<X509_free>>;
using CertificateRequest = std::unique_ptr<X509_REQ, OpenSslDeleter<X509_REQ_free>>;

// INTERNAL: `what`, and the first of OpenSSL's errors on this thread, whose list is emptied.
absl::Status OpenSslError(absl::string_view what);

// A fresh key on the curve P-256.
absl::StatusOr<Key> MakeKey();

// The first such block in the text. INVALID_ARGUMENT if there is none that can be read; keys with a passphrase are refused.
absl::StatusOr<Key> ReadKey(const std::string& pem);
absl::StatusOr<Certificate> ReadCertificate(const std::string& pem);
absl::StatusOr<CertificateRequest> ReadRequest(const std::string& pem);

absl::StatusOr<std::string> ToPem(const EVP_PKEY& key);
absl::StatusOr<std::string> ToPem(const X509& certificate);

// PKCS#10, PEM, signed with the key.
absl::StatusOr<std::string> MakeRequest(EVP_PKEY* key, const std::string& common_name);

absl::Time NotBefore(const X509& certificate);
absl::Time NotAfter(const X509& certificate);

// Whether a server or client can use the pair at `now`: both can be read, belong together, and the certificate is in force. Errors name the file, and never
// show what a key's file holds.
absl::Status CheckKeyPair(const std::string& certificate_file, const std::string& key_file, absl::Time now);

}  // namespace bitstair::daemon
