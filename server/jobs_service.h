// bitstair.v1.Jobs: gRPC on one side, the coordinator on the other, nothing else.
#pragma once

#include <boost/asio/thread_pool.hpp>

#include "bitstair/v1/jobs.grpc.pb.h"
#include "server/coordinator.h"
#include "server/security/gatekeeper.h"

namespace bitstair::server {

class JobsService final : public v1::Jobs::CallbackService {
 public:
  // Borrows all; they outlive the gRPC server. Log files are read on `file_threads`.
  JobsService(Coordinator* coordinator, LogStore* logs, Metrics* metrics, Gatekeeper* gatekeeper, boost::asio::thread_pool* file_threads)
      : coordinator_(coordinator), logs_(logs), metrics_(metrics), gatekeeper_(gatekeeper), file_threads_(file_threads) {}

  grpc::ServerUnaryReactor* CreateJob(grpc::CallbackServerContext* context, const v1::CreateJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context, const v1::GetJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context, const v1::ListJobsRequest* request, v1::ListJobsResponse* response) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* context, const v1::CancelJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* PauseJob(grpc::CallbackServerContext* context, const v1::PauseJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* ResumeJob(grpc::CallbackServerContext* context, const v1::ResumeJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* RetryJob(grpc::CallbackServerContext* context, const v1::RetryJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* PrioritizeJob(grpc::CallbackServerContext* context, const v1::PrioritizeJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* PinJob(grpc::CallbackServerContext* context, const v1::PinJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* UnpinJob(grpc::CallbackServerContext* context, const v1::UnpinJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* ListStages(grpc::CallbackServerContext* context, const v1::ListStagesRequest* request, v1::ListStagesResponse* response) override;
  grpc::ServerUnaryReactor* ListEvents(grpc::CallbackServerContext* context, const v1::ListEventsRequest* request, v1::ListEventsResponse* response) override;
  grpc::ServerUnaryReactor* ListMetrics(grpc::CallbackServerContext* context, const v1::ListMetricsRequest* request,
                                        v1::ListMetricsResponse* response) override;
  grpc::ServerWriteReactor<v1::StreamLogsResponse>* StreamLogs(grpc::CallbackServerContext* context, const v1::StreamLogsRequest* request) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) override;

 private:
  template <typename Request, typename Change>
  grpc::ServerUnaryReactor* ChangeJob(grpc::CallbackServerContext* context, const std::string& method, const Request& request, v1::Job* response,
                                      Change change);

  Coordinator* const coordinator_;
  LogStore* const logs_;
  Metrics* const metrics_;
  Gatekeeper* const gatekeeper_;
  boost::asio::thread_pool* const file_threads_;
};

}  // namespace bitstair::server
