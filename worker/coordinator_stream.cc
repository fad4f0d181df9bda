#include "worker/coordinator_stream.h"

#include <boost/asio/post.hpp>

namespace bitstair::worker {

namespace asio = boost::asio;

std::shared_ptr<CoordinatorStream> CoordinatorStream::Open(asio::io_context& io, v1::Fleet::StubInterface& stub, const v1::WorkerMessage& hello,
                                                           Events events) {
  const std::shared_ptr<CoordinatorStream> stream(new CoordinatorStream(io, std::move(events)));
  stream->self_ = stream;
  stub.async()->Connect(&stream->context_, stream.get());
  stream->AddHold();  // writes are started from outside of reactions
  stream->StartRead(&stream->incoming_);
  stream->outgoing_ = hello;
  stream->writing_ = true;
  stream->StartWrite(&stream->outgoing_);
  stream->StartCall();
  return stream;
}

void CoordinatorStream::Write(v1::WorkerMessage message) {
  outgoing_ = std::move(message);
  writing_ = true;
  StartWrite(&outgoing_);
}

void CoordinatorStream::FinishWriting() {
  writing_ = true;
  StartWritesDone();
}

void CoordinatorStream::Cancel() {
  context_.TryCancel();
  Break();
}

void CoordinatorStream::Break() {
  if (!open_) return;
  open_ = false;
  RemoveHold();
}

void CoordinatorStream::OnReadDone(bool ok) {
  if (!ok) {
    asio::post(io_, [self = shared_from_this()] { self->Break(); });
    return;
  }
  asio::post(io_, [self = shared_from_this(), message = std::move(incoming_)] {
    if (self->events_.on_message) self->events_.on_message(message);
  });
  incoming_.Clear();
  StartRead(&incoming_);
}

void CoordinatorStream::OnWriteDone(bool ok) {
  asio::post(io_, [self = shared_from_this(), ok] {
    self->writing_ = false;
    if (!ok) return self->Break();
    if (self->open_ && self->events_.on_writable) self->events_.on_writable();
  });
}

void CoordinatorStream::OnDone(const grpc::Status& status) {
  // The io_context's thread lets go of the stream, never this one: it belongs to gRPC, and the process may be leaving meanwhile.
  std::promise<void> done = std::move(done_);
  asio::post(io_, [self = std::move(self_), status] {
    const Events events = std::move(self->events_);
    self->events_ = {};
    if (events.on_closed) events.on_closed(status);
  });
  done.set_value();
}

}  // namespace bitstair::worker
