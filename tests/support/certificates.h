// What TLS tests need of the world: a server's certificate, and an address that is not loopback.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <openssl/x509v3.h>

#include <string>

#include "absl/time/time.h"
#include "core/files/durable_file.h"
#include "server/daemon/pem.h"

namespace bitstair::testing {

struct CertificateFiles {
  std::string certificate, key;
};

// Signed by itself, for localhost and 127.0.0.1, in force since a day before `expires`.
inline CertificateFiles MakeServerCertificate(const std::string& folder, absl::Time expires) {
  const auto key = *daemon::MakeKey();
  const daemon::Certificate certificate(X509_new());
  X509* x = certificate.get();
  X509_set_version(x, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>("server"), -1, -1, 0);
  X509_set_issuer_name(x, X509_get_subject_name(x));
  X509_set_pubkey(x, key.get());
  ASN1_TIME_set(X509_getm_notBefore(x), absl::ToTimeT(expires - absl::Hours(24)));
  ASN1_TIME_set(X509_getm_notAfter(x), absl::ToTimeT(expires));
  X509_EXTENSION* names = X509V3_EXT_nconf_nid(nullptr, nullptr, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
  X509_add_ext(x, names, -1);
  X509_EXTENSION_free(names);
  EXPECT_GT(X509_sign(x, key.get(), EVP_sha256()), 0);
  CertificateFiles files{folder + "/server.crt", folder + "/server.key"};
  EXPECT_TRUE(core::WriteFileDurably(files.certificate, *daemon::ToPem(*x)).ok());
  EXPECT_TRUE(core::WriteFileDurably(files.key, *daemon::ToPem(*key)).ok());
  return files;
}

// An IPv4 address of this machine by which it reaches itself not through 127.0.0.0/8; empty if it has none.
inline std::string AddressOfThisHost() {
  ifaddrs* list = nullptr;
  std::string found;
  if (getifaddrs(&list) != 0) return found;
  for (const ifaddrs* entry = list; entry != nullptr && found.empty(); entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET || (entry->ifa_flags & IFF_LOOPBACK) != 0 || (entry->ifa_flags & IFF_UP) == 0)
      continue;
    char text[INET_ADDRSTRLEN] = "";
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr, text, sizeof(text));
    found = text;
  }
  freeifaddrs(list);
  return found;
}

}  // namespace bitstair::testing
