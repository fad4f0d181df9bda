// One connection of a worker to its coordinator: Fleet.Connect of the gRPC callback API, seen from an io_context.
#pragma once

#include <functional>
#include <future>
#include <memory>

#include <grpcpp/grpcpp.h>
#include <boost/asio/io_context.hpp>

#include "bitstair/v1/fleet.grpc.pb.h"

namespace bitstair::worker {

// All functions are called on the io_context's thread, and all events come there. gRPC's threads only post. One write is in flight at a time.
// Lives until on_closed, whoever lets go of it before.
class CoordinatorStream : public grpc::ClientBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>, public std::enable_shared_from_this<CoordinatorStream> {
 public:
  struct Events {
    std::function<void(const v1::CoordinatorMessage&)> on_message;
    // The last write was taken; the next may follow.
    std::function<void()> on_writable;
    // Once, last.
    std::function<void(const grpc::Status&)> on_closed;
  };

  // Starts the call and writes the hello. Borrows io and stub, which outlive the stream.
  static std::shared_ptr<CoordinatorStream> Open(boost::asio::io_context& io, v1::Fleet::StubInterface& stub, const v1::WorkerMessage& hello, Events events);

  bool writable() const { return open_ && !writing_; }
  // Requires writable().
  void Write(v1::WorkerMessage message);
  // Nothing more will be written; the coordinator answers by ending the stream. Requires writable().
  void FinishWriting();
  // Ends the call now; on_closed follows.
  void Cancel();
  // Blocks until gRPC has let go of the stream; after Cancel that is soon. The one function that does not need the io_context to run.
  void WaitUntilDone() { done_future_.wait(); }

  // gRPC's threads:
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  CoordinatorStream(boost::asio::io_context& io, Events events) : io_(io), events_(std::move(events)) {}
  void Break();

  boost::asio::io_context& io_;
  Events events_;
  grpc::ClientContext context_;
  std::shared_ptr<CoordinatorStream> self_;  // until OnDone, as gRPC needs it
  v1::CoordinatorMessage incoming_;
  v1::WorkerMessage outgoing_;
  bool open_ = true;  // new operations may be started, and the hold is ours
  bool writing_ = false;
  std::promise<void> done_;
  std::shared_future<void> done_future_ = done_.get_future().share();
};

}  // namespace bitstair::worker
