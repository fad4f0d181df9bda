#include "server/security/policy.h"

#include <gtest/gtest.h>

#include "bitstair/v1/access.pb.h"
#include "bitstair/v1/artifacts.pb.h"
#include "bitstair/v1/fleet.pb.h"
#include "bitstair/v1/jobs.pb.h"

namespace bitstair::server {
namespace {

TEST(PolicyTest, WhoMayDoWhat) {
  // method, viewer, submitter, admin, worker
  const std::vector<std::tuple<const char*, bool, bool, bool, bool>> expected{
      {"GetJob", true, true, true, false},        {"CreateJob", false, true, true, false},     {"DrainWorker", false, false, true, false},
      {"CreateToken", false, false, true, false}, {"Connect", false, false, false, true},      {"UploadArtifact", false, false, false, true},
      {"GetArtifact", true, true, true, true},    {"NoSuchMethod", false, false, true, false},
  };
  for (const auto& [method, viewer, submitter, admin, worker] : expected) {
    const Rule rule = RuleOf(method);
    EXPECT_EQ(Includes(v1::ROLE_VIEWER, rule.least), viewer) << method;
    EXPECT_EQ(Includes(v1::ROLE_SUBMITTER, rule.least), submitter) << method;
    EXPECT_EQ(Includes(v1::ROLE_ADMIN, rule.least), admin) << method;
    EXPECT_EQ(rule.workers, worker) << method;
    EXPECT_FALSE(Includes(v1::ROLE_WORKER, rule.least)) << method;
    EXPECT_FALSE(Includes(v1::ROLE_JOIN, rule.least)) << method;
    EXPECT_FALSE(Includes(v1::ROLE_UNSPECIFIED, rule.least)) << method;
  }
  EXPECT_EQ(RoleWord(v1::ROLE_SUBMITTER), "submitter");
}

// What changes something leaves a line in the audit log.
TEST(PolicyTest, ChangesAreAudited) {
  int changes = 0;
  for (const auto* file : {v1::CreateJobRequest::descriptor()->file(), v1::ListWorkersRequest::descriptor()->file(),
                           v1::GetArtifactRequest::descriptor()->file(), v1::CreateTokenRequest::descriptor()->file()}) {
    for (int i = 0; i < file->service_count(); ++i) {
      for (int j = 0; j < file->service(i)->method_count(); ++j) {
        const std::string name(file->service(i)->method(j)->name());
        const bool reads =
            name.starts_with("Get") || name.starts_with("List") || name.starts_with("Watch") || name.starts_with("Stream") || name.starts_with("Download");
        const bool work = name == "Connect" || name == "UploadArtifact";  // many, and the workers' own
        if (name == "ListTokens") continue;
        EXPECT_EQ(RuleOf(name).audited, !reads && !work) << name;
        changes += RuleOf(name).audited ? 1 : 0;
      }
    }
  }
  EXPECT_GT(changes, 10);
}

}  // namespace
}  // namespace bitstair::server
