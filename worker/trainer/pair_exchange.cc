#include "worker/trainer/pair_exchange.h"

#include <ATen/ATen.h>

#include <cstring>
#include <utility>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "core/kernels/packed_codes.h"

namespace bitstair::trainer {
namespace {

int HeaderTag(size_t point) {
  return static_cast<int>(2 * point);
}
int PayloadTag(size_t point) {
  return static_cast<int>(2 * point + 1);
}

}  // namespace

int64_t FeatureBytes(const FeatureHeader& header) {
  return header.bits == 32 ? static_cast<int64_t>(header.elements) * 4
                           : core::PackedBytes(static_cast<int64_t>(header.elements), static_cast<int>(header.bits));
}

PairExchange::PairExchange(ProcessGroup& there, ProcessGroup& back, int peer, size_t points, bool fixed_sizes)
    : to_peer_(there.rank() < peer ? there : back),
      from_peer_(there.rank() < peer ? back : there),
      peer_(peer),
      fixed_sizes_(fixed_sizes),
      sent_(points, 0),
      received_(points, 0),
      incoming_(points) {
  if (!to_peer_.gpu().has_value()) return;
  // NCCL connects two ranks at their first message, and both must be there: first the one way, then the other.
  at::Tensor byte = at::zeros({1}, at::TensorOptions(at::kByte).device(to_peer_.device()));
  const auto send = [&] { StartSend(byte, 0); };
  const auto receive = [&] { StartReceive(byte, 0)->wait(); };
  const bool first = there.rank() < peer;
  first ? send() : receive();
  first ? receive() : send();
  Finish();
  bytes_sent_ = 0;
}
PairExchange::~PairExchange() = default;

void PairExchange::Begin() {
  for (size_t i = 0; i < incoming_.size(); ++i) {
    Incoming& in = incoming_[i] = {};
    in.header = at::empty({sizeof(FeatureHeader)}, at::kByte);
    in.header_work = StartReceive(in.header, HeaderTag(i));
    if (!fixed_sizes_ || received_[i] == 0) continue;
    StartReceivePayload(in, i, received_[i]);
  }
}

void PairExchange::Send(size_t point, const core::HintFeatures& own) {
  const FeatureHeader header{static_cast<uint32_t>(point), static_cast<uint32_t>(own.bits), static_cast<uint64_t>(own.values.numel())};
  SendHeader(header);
  const at::Tensor payload = own.bits == 32 ? own.values.flatten().view(at::kByte) : core::PackCodes(own.values, own.bits);
  StartSend(payload.to(to_peer_.device()), PayloadTag(point));
  sent_[point] = FeatureBytes(header);
}

void PairExchange::SendFailure(size_t point) {
  SendHeader({static_cast<uint32_t>(point), 0, 0});
  // The peer awaits as much as in the pass before.
  if (fixed_sizes_ && sent_[point] > 0) StartSend(at::zeros({sent_[point]}, at::TensorOptions(at::kByte).device(to_peer_.device())), PayloadTag(point));
}

core::HintFeatures PairExchange::Receive(size_t point, at::IntArrayRef shape) {
  Incoming& in = incoming_.at(point);
  in.header_work->wait();
  FeatureHeader header;
  std::memcpy(&header, in.header.const_data_ptr(), sizeof header);
  const bool failed = header.bits == 0;
  const int64_t bytes = FeatureBytes(header);
  TORCH_CHECK(header.point == point && (failed || header.bits <= 16 || header.bits == 32), "a header of point ", header.point, " and ", header.bits,
              " bits came for hint point ", point);
  if (in.payload_work == nullptr && !failed) StartReceivePayload(in, point, bytes);
  if (in.payload_work != nullptr) in.payload_work->wait();
  // A rank that failed takes what comes and looks at none of it.
  if (failed || shape.empty()) return {};
  TORCH_CHECK(c10::multiply_integers(shape) == static_cast<int64_t>(header.elements) && in.payload.numel() == bytes, header.elements, " features of ",
              header.bits, " bits came where there are ", shape);
  received_[point] = bytes;
  const int bits = static_cast<int>(header.bits);
  const at::Tensor payload = in.payload.to(at::kCPU);
  if (bits == 32) return {payload.view(at::kFloat).view(shape), bits};
  return {core::UnpackCodes(payload, shape, bits), bits};
}

void PairExchange::Finish() {
  for (const auto& work : works_) work->wait();
  works_.clear();
  sending_.clear();
  incoming_.assign(incoming_.size(), {});
}

c10::intrusive_ptr<c10d::Work> PairExchange::StartReceive(at::Tensor& into, int tag) {
  std::vector<at::Tensor> tensors{into};
  return from_peer_.group()->recv(tensors, peer_, tag);
}

void PairExchange::StartReceivePayload(Incoming& in, size_t point, int64_t bytes) {
  in.payload = at::empty({bytes}, at::TensorOptions(at::kByte).device(from_peer_.device()));
  in.payload_work = StartReceive(in.payload, PayloadTag(point));
}

void PairExchange::StartSend(at::Tensor bytes, int tag) {
  bytes_sent_ += bytes.numel();
  std::vector<at::Tensor> tensors{bytes};
  works_.push_back(to_peer_.group()->send(tensors, peer_, tag));
  sending_.push_back(std::move(bytes));
}

void PairExchange::SendHeader(const FeatureHeader& header) {
  at::Tensor bytes = at::empty({sizeof header}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), &header, sizeof header);
  StartSend(std::move(bytes), HeaderTag(header.point));
}

}  // namespace bitstair::trainer
