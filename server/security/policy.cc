#include "server/security/policy.h"

#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"

namespace bitstair::server {
namespace {

constexpr Rule kSees{v1::ROLE_VIEWER, false, false, false};
constexpr Rule kSubmits{v1::ROLE_SUBMITTER, false, false, true};
constexpr Rule kAdministers{v1::ROLE_ADMIN, false, false, true};
constexpr Rule kWorks{v1::ROLE_UNSPECIFIED, true, false, false};
constexpr Rule kSeesOrWorks{v1::ROLE_VIEWER, true, false, false};
constexpr Rule kShowsItsOwn{v1::ROLE_UNSPECIFIED, true, true, true};

const std::map<absl::string_view, Rule>& Rules() {
  static const auto* const rules = new std::map<absl::string_view, Rule>{
      // Jobs
      {"GetJob", kSees},
      {"ListJobs", kSees},
      {"ListStages", kSees},
      {"ListEvents", kSees},
      {"ListMetrics", kSees},
      {"StreamLogs", kSees},
      {"WatchJob", kSees},
      {"CreateJob", kSubmits},
      {"CancelJob", kSubmits},
      {"PauseJob", kSubmits},
      {"ResumeJob", kSubmits},
      {"RetryJob", kSubmits},
      {"PrioritizeJob", kSubmits},
      {"PinJob", kSubmits},
      {"UnpinJob", kSubmits},
      // Fleet
      {"ListWorkers", kSees},
      {"ListDatasets", kSees},
      {"CordonWorker", kAdministers},
      {"UncordonWorker", kAdministers},
      {"DrainWorker", kAdministers},
      {"Connect", kWorks},
      // Artifacts
      {"GetArtifact", kSeesOrWorks},
      {"DownloadArtifact", kSeesOrWorks},
      {"UploadArtifact", kWorks},
      {"CollectGarbage", kAdministers},
      // Access
      {"CreateToken", kAdministers},
      {"ListTokens", kAdministers},
      {"RevokeToken", kAdministers},
      {"IssueWorkerCertificate", kShowsItsOwn},
  };
  return *rules;
}

}  // namespace

Rule RuleOf(absl::string_view method) {
  const auto found = Rules().find(method);
  return found == Rules().end() ? kAdministers : found->second;
}

bool Includes(v1::Role role, v1::Role least) {
  const bool person = role == v1::ROLE_VIEWER || role == v1::ROLE_SUBMITTER || role == v1::ROLE_ADMIN;
  return person && least != v1::ROLE_UNSPECIFIED && role >= least;
}

std::string RoleWord(v1::Role role) {
  return absl::AsciiStrToLower(absl::StripPrefix(v1::Role_Name(role), "ROLE_"));
}

}  // namespace bitstair::server
