// Submits a small job, follows it, and prints what each stage reached: submit_and_watch HOST:PORT [WIDTH].
#include <bitstair/client.h>
#include <bitstair/status.h>

#include <cstdlib>
#include <iostream>

namespace {

// What a recipe says, field by field; what is left out takes its default.
bitstair::v1::JobSpec SmallJob(int width) {
  bitstair::v1::JobSpec spec;
  spec.set_name("example");
  spec.set_network("convnet28");
  spec.mutable_data()->set_name("fashion_mnist");
  spec.mutable_data()->set_train_limit(2048);
  spec.mutable_data()->set_test_limit(500);
  spec.add_widths(32);
  spec.add_widths(width);
  spec.mutable_pretrain()->set_epochs(1);
  spec.mutable_quantized()->set_epochs(1);
  return spec;
}

void PrintChange(const bitstair::v1::WatchJobResponse& change) {
  if (change.has_event()) std::cout << "event " << change.event().type() << ' ' << bitstair::client::ShortName(change.event().stage()) << std::endl;
}

int Fail(const absl::Status& status) {
  std::cerr << status << '\n';
  for (const auto& violation : bitstair::GetFieldViolations(status)) std::cerr << "  " << violation.field << ": " << violation.description << '\n';
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: submit_and_watch HOST:PORT [WIDTH]\n";
    return 2;
  }
  bitstair::Client client(argv[1]);
  bitstair::v1::CreateJobRequest request;
  *request.mutable_spec() = SmallJob(argc > 2 ? std::atoi(argv[2]) : 4);
  const auto created = client.CreateJob(request);
  if (!created.ok()) return Fail(created.status());
  std::cout << "job " << created->name() << std::endl;

  const auto job = client.WatchJob(created->name(), PrintChange);
  if (!job.ok()) return Fail(job.status());
  std::cout << "state " << bitstair::v1::JobState_Name(job->state()) << ' ' << job->reason() << '\n';
  for (const auto& stage : job->stages()) {
    std::cout << "stage " << bitstair::client::ShortName(stage.name());
    if (!stage.epochs().empty()) std::cout << " top-1 " << stage.epochs().rbegin()->test_top1() << " %";
    std::cout << ' ' << stage.checkpoint().sha256() << '\n';
  }
  return job->state() == bitstair::v1::JOB_STATE_SUCCEEDED ? 0 : 1;
}
