// The API may grow but not break: each line of api_baseline.txt (messages, fields, enum values, methods of every released version) must still be true.
// After adding to the protos: UPDATE_API_BASELINE=1 proto_test --gtest_filter='ApiBaseline*', and commit the longer file.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "bitstair/store/v1/records.pb.h"
#include "bitstair/v1/access.pb.h"
#include "bitstair/v1/artifacts.pb.h"
#include "bitstair/v1/fleet.pb.h"
#include "bitstair/v1/jobs.pb.h"
#include "bitstair/v1/trainer.pb.h"

namespace bitstair {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;

std::string TypeName(const FieldDescriptor& field) {
  if (field.message_type() != nullptr) return field.message_type()->full_name();
  if (field.enum_type() != nullptr) return field.enum_type()->full_name();
  return field.type_name();
}

void AddEnum(const EnumDescriptor& type, std::set<std::string>* lines) {
  for (int i = 0; i < type.value_count(); ++i)
    lines->insert(absl::StrCat("value ", type.full_name(), " ", type.value(i)->name(), " = ", type.value(i)->number()));
}

void AddMessage(const Descriptor& message, std::set<std::string>* lines) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    const std::string oneof = field.real_containing_oneof() != nullptr ? absl::StrCat(" in ", field.real_containing_oneof()->name()) : "";
    lines->insert(absl::StrCat("field ", message.full_name(), ".", field.name(), " = ", field.number(), field.is_repeated() ? " repeated " : " ",
                               TypeName(field), oneof));
  }
  for (int i = 0; i < message.nested_type_count(); ++i) AddMessage(*message.nested_type(i), lines);
  for (int i = 0; i < message.enum_type_count(); ++i) AddEnum(*message.enum_type(i), lines);
}

std::set<std::string> Lines() {
  std::set<std::string> lines;
  for (const FileDescriptor* file :
       {v1::JobSpec::descriptor()->file(), v1::Job::descriptor()->file(), v1::CreateJobRequest::descriptor()->file(), v1::WorkerMessage::descriptor()->file(),
        v1::Artifact::descriptor()->file(), v1::ToTrainer::descriptor()->file(), v1::Token::descriptor()->file(), store::v1::JobRecord::descriptor()->file()}) {
    for (int i = 0; i < file->message_type_count(); ++i) AddMessage(*file->message_type(i), &lines);
    for (int i = 0; i < file->enum_type_count(); ++i) AddEnum(*file->enum_type(i), &lines);
    for (int i = 0; i < file->service_count(); ++i) {
      for (int k = 0; k < file->service(i)->method_count(); ++k) {
        const auto& method = *file->service(i)->method(k);
        lines.insert(absl::StrCat("method ", method.full_name(), method.client_streaming() ? " stream " : " ", method.input_type()->full_name(),
                                  method.server_streaming() ? " -> stream " : " -> ", method.output_type()->full_name()));
      }
    }
  }
  return lines;
}

TEST(ApiBaselineTest, NothingThatWasReleasedIsGoneOrChanged) {
  const std::set<std::string> now = Lines();
  if (std::getenv("UPDATE_API_BASELINE") != nullptr) {
    std::ofstream out(API_BASELINE_FILE);
    for (const std::string& line : now) out << line << "\n";
  }
  std::ifstream in(API_BASELINE_FILE);
  ASSERT_TRUE(in.good()) << API_BASELINE_FILE;
  std::set<std::string> released;
  for (std::string line; std::getline(in, line);) {
    released.insert(line);
    EXPECT_TRUE(now.count(line) == 1) << "broken: " << line;
  }
  for (const std::string& line : now) EXPECT_TRUE(released.count(line) == 1) << "not in the baseline yet: " << line;
}

}  // namespace
}  // namespace bitstair
