// The client side of `./dev bench server` (bench/server.py starts the server): one phase a call, a JSON object on stdout.
//   create: CreateJob of a 3-stage recipe with --in-flight calls at a time, for --seconds or --jobs; meanwhile --watchers jobs change once a second each, and
//   each
//           has a watcher. The lag of a change goes from the moment before the call that asks for it to the watcher's receipt.
//   list:   ListJobs, --calls of them one after the other, the first page with and without filters.
#include <grpcpp/grpcpp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "bitstair/v1/jobs.grpc.pb.h"

namespace bitstair::bench {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())))];
}

// Full precision, then W4A32 and W4A4. No worker offers the data: jobs wait, and are only stored.
v1::JobSpec Spec(uint64_t seed) {
  v1::JobSpec spec;
  spec.set_name("bench");
  spec.set_network("resnet20");
  spec.mutable_data()->set_name("nobody-has-it");
  for (const int bits : {32, 4}) spec.add_widths(bits);
  spec.set_two_stage(true);
  spec.mutable_pretrain()->set_epochs(24);
  spec.mutable_quantized()->set_epochs(10);
  spec.set_seed(seed);
  return spec;
}

// Keeps --in-flight CreateJob calls under way. Lives until all have been answered.
class Creator {
 public:
  Creator(v1::Jobs::Stub* stub, int in_flight, double seconds, int64_t jobs)
      : stub_(stub), end_(Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds))), left_(jobs) {
    begin_ = Clock::now();
    under_way_ = in_flight;
    for (int i = 0; i < in_flight; ++i) Next();
  }

  void Wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return under_way_ == 0; });
  }

  nlohmann::json Result() const {
    return {{"created", latencies_.size()},
            {"failed", failed_},
            {"seconds", Seconds(last_ - begin_)},
            {"p50_ms", 1e3 * Percentile(latencies_, 0.5)},
            {"p99_ms", 1e3 * Percentile(latencies_, 0.99)}};
  }

 private:
  struct Call {
    grpc::ClientContext context;
    v1::CreateJobRequest request;
    v1::Job job;
    Clock::time_point begin;
  };

  void Next() {
    if (Clock::now() >= end_ || left_.fetch_sub(1) <= 0) {
      const std::lock_guard lock(mutex_);
      if (--under_way_ == 0) done_.notify_all();
      return;
    }
    auto call = std::make_shared<Call>();
    *call->request.mutable_spec() = Spec(1);
    call->begin = Clock::now();
    stub_->async()->CreateJob(&call->context, &call->request, &call->job, [this, call](const grpc::Status& status) {
      {
        const std::lock_guard lock(mutex_);
        last_ = Clock::now();
        if (status.ok()) {
          latencies_.push_back(Seconds(last_ - call->begin));
        } else {
          ++failed_;
        }
      }
      Next();
    });
  }

  v1::Jobs::Stub* const stub_;
  const Clock::time_point end_;
  std::atomic<int64_t> left_;
  std::mutex mutex_;
  std::condition_variable done_;
  int under_way_ = 0;
  Clock::time_point begin_, last_;
  std::vector<double> latencies_;
  int64_t failed_ = 0;
};

// One job, its watcher, and when each change was asked for.
class Watched final : public grpc::ClientReadReactor<v1::WatchJobResponse> {
 public:
  Watched(v1::Jobs::Stub* stub, std::string name) : stub_(stub), name_(std::move(name)) {
    request_.set_name(name_);
    stub_->async()->WatchJob(&context_, &request_, this);
    StartRead(&change_);
    StartCall();
  }

  // Not before the last change was answered.
  void Change() {
    {
      const std::lock_guard lock(mutex_);
      if (asking_) {
        ++missed_;
        return;
      }
      asking_ = true;
      asked_ = Clock::now();
      wanted_ = wanted_ == v1::PRIORITY_CLASS_LOW ? v1::PRIORITY_CLASS_HIGH : v1::PRIORITY_CLASS_LOW;
      waits_ = true;
    }
    auto context = std::make_shared<grpc::ClientContext>();
    auto request = std::make_shared<v1::PrioritizeJobRequest>();
    auto job = std::make_shared<v1::Job>();
    request->set_name(name_);
    request->set_priority(wanted_);
    stub_->async()->PrioritizeJob(context.get(), request.get(), job.get(), [this, context, request, job](const grpc::Status& status) {
      const std::lock_guard lock(mutex_);
      asking_ = false;
      if (!status.ok()) ++failed_;
    });
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    {
      const std::lock_guard lock(mutex_);
      if (waits_ && change_.has_job() && change_.job().spec().priority() == wanted_) {
        lags_.push_back(Seconds(Clock::now() - asked_));
        waits_ = false;
      }
    }
    StartRead(&change_);
  }
  void OnDone(const grpc::Status&) override {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    end_.notify_all();
  }

  void Stop() {
    context_.TryCancel();
    std::unique_lock lock(mutex_);
    end_.wait(lock, [this] { return ended_ && !asking_; });
  }
  void AddTo(std::vector<double>* lags, int64_t* lost) {
    const std::lock_guard lock(mutex_);
    lags->insert(lags->end(), lags_.begin(), lags_.end());
    *lost += failed_ + missed_ + (waits_ ? 1 : 0);
  }

 private:
  v1::Jobs::Stub* const stub_;
  const std::string name_;
  grpc::ClientContext context_;
  v1::WatchJobRequest request_;
  v1::WatchJobResponse change_;
  std::mutex mutex_;
  std::condition_variable end_;
  Clock::time_point asked_;
  v1::PriorityClass wanted_ = v1::PRIORITY_CLASS_NORMAL;
  bool asking_ = false, waits_ = false, ended_ = false;
  int64_t failed_ = 0, missed_ = 0;
  std::vector<double> lags_;
};

std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

nlohmann::json RunCreate(const std::string& address, int in_flight, double seconds, int64_t jobs, int watchers) {
  const auto stub = v1::Jobs::NewStub(Connect(address)), watch_stub = v1::Jobs::NewStub(Connect(address));
  std::vector<std::unique_ptr<Watched>> watched;
  for (int i = 0; i < watchers; ++i) {
    v1::CreateJobRequest request;
    *request.mutable_spec() = Spec(static_cast<uint64_t>(i) + 2);
    v1::Job job;
    grpc::ClientContext context;
    const grpc::Status status = watch_stub->CreateJob(&context, request, &job);
    if (!status.ok()) throw std::runtime_error("CreateJob: " + status.error_message());
    watched.push_back(std::make_unique<Watched>(watch_stub.get(), job.name()));
  }
  Creator creator(stub.get(), in_flight, seconds, jobs);
  std::atomic<bool> stop = false;
  std::thread changer([&] {
    // Spread over the second, as the changes of a fleet are.
    for (auto round = Clock::now(); !stop && !watched.empty(); round += std::chrono::seconds(1)) {
      for (size_t i = 0; i < watched.size() && !stop; ++i) {
        std::this_thread::sleep_until(round + std::chrono::microseconds(1'000'000 * i / watched.size()));
        watched[i]->Change();
      }
      std::this_thread::sleep_until(round + std::chrono::seconds(1));
    }
  });
  creator.Wait();
  stop = true;
  changer.join();
  std::this_thread::sleep_for(std::chrono::seconds(2));  // what is on its way
  nlohmann::json result = creator.Result();
  std::vector<double> lags;
  int64_t lost = 0;
  for (auto& one : watched) {
    one->AddTo(&lags, &lost);
    one->Stop();
  }
  result["changes"] = lags.size();
  result["changes_lost"] = lost;
  result["watch_lag_p50_ms"] = 1e3 * Percentile(lags, 0.5);
  result["watch_lag_p99_ms"] = 1e3 * Percentile(lags, 0.99);
  return result;
}

nlohmann::json RunList(const std::string& address, int calls) {
  const auto stub = v1::Jobs::NewStub(Connect(address));
  std::vector<double> all;
  for (int i = 0; i < calls; ++i) {
    const char* filters[] = {"", "state=ACTIVE", "name=bench", "state=RESOLVING AND name=ben*", "state=FAILED"};  // the last one matches none of them
    v1::ListJobsRequest request;
    request.set_filter(filters[i % 5]);
    v1::ListJobsResponse response;
    grpc::ClientContext context;
    const auto begin = Clock::now();
    const grpc::Status status = stub->ListJobs(&context, request, &response);
    if (!status.ok()) throw std::runtime_error("ListJobs: " + status.error_message());
    all.push_back(Seconds(Clock::now() - begin));
    if (response.jobs_size() != (i % 5 == 4 ? 0 : 50)) throw std::runtime_error("ListJobs: not the jobs that were asked for");
  }
  return {{"p50_ms", 1e3 * Percentile(all, 0.5)}, {"p99_ms", 1e3 * Percentile(all, 0.99)}};
}

int Main(int argc, char** argv) {
  CLI::App app{"The client side of ./dev bench server"};
  std::string address, mode;
  int in_flight = 64, watchers = 0, calls = 1000;
  double seconds = 60;
  int64_t jobs = 1'000'000;
  app.add_option("mode", mode)->required()->check(CLI::IsMember({"create", "list"}));
  app.add_option("--address", address)->required();
  app.add_option("--in-flight", in_flight);
  app.add_option("--seconds", seconds);
  app.add_option("--jobs", jobs, "at most so many");
  app.add_option("--watchers", watchers);
  app.add_option("--calls", calls);
  CLI11_PARSE(app, argc, argv);
  try {
    const nlohmann::json result = mode == "create" ? RunCreate(address, in_flight, seconds, jobs, watchers) : RunList(address, calls);
    std::printf("%s\n", result.dump().c_str());
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_server: %s\n", e.what());
    return 1;
  }
}

}  // namespace
}  // namespace bitstair::bench

int main(int argc, char** argv) {
  return bitstair::bench::Main(argc, argv);
}
