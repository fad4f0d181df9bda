// Hint features between rank i of a split pair's one set and rank i of the other, by c10d's asynchronous send and recv.
#pragma once

#include <cstdint>
#include <vector>

#include <c10/util/intrusive_ptr.h>

#include "core/training/feature_exchange.h"
#include "worker/trainer/process_group.h"

namespace c10d {
class Work;
}

namespace bitstair::trainer {

// What goes before each tensor, little-endian.
struct FeatureHeader {
  uint32_t point = 0;     // index among the chosen hint points
  uint32_t bits = 0;      // 1..16: packed codes follow; 32: float32; 0: the sender's pass failed
  uint64_t elements = 0;  // of the tensor
};
static_assert(sizeof(FeatureHeader) == 16);

// Bytes that follow the header: ceil(elements bits / 8).
int64_t FeatureBytes(const FeatureHeader& header);

// Two messages for each hint point and pass, with tags of their own: the header and what follows it. Where sizes cannot change (fixed_sizes) both are awaited
// from Begin on, so that they come in while this rank computes; Gloo and NCCL move bytes only when both sides are there.
// On GPU slots headers travel through Gloo and what follows through NCCL. NCCL has no tags and does one thing after the other: each direction has a group of
// its own, in which both sides take the points in the same order.
class PairExchange final : public core::FeatureExchange {
 public:
  // Borrows the groups, which nobody else may use: `there` carries what the lower rank of the two sends, `back` what the other does. On CPU slots both may be
  // one. peer: the other rank.
  PairExchange(ProcessGroup& there, ProcessGroup& back, int peer, size_t points, bool fixed_sizes);
  ~PairExchange() override;

  void Begin() override;
  void Send(size_t point, const core::HintFeatures& own) override;
  void SendFailure(size_t point) override;
  core::HintFeatures Receive(size_t point, at::IntArrayRef shape) override;
  void Finish() override;

  // Headers included.
  int64_t bytes_sent() const { return bytes_sent_; }

 private:
  struct Incoming {
    at::Tensor header, payload;
    c10::intrusive_ptr<c10d::Work> header_work, payload_work;
  };
  c10::intrusive_ptr<c10d::Work> StartReceive(at::Tensor& into, int tag);
  void StartReceivePayload(Incoming& in, size_t point, int64_t bytes);
  void StartSend(at::Tensor bytes, int tag);
  void SendHeader(const FeatureHeader& header);

  ProcessGroup &to_peer_, &from_peer_;
  const int peer_;
  const bool fixed_sizes_;
  std::vector<int64_t> sent_, received_;  // bytes of the last payload, by point; 0: there was none
  std::vector<Incoming> incoming_;
  std::vector<at::Tensor> sending_;  // alive until sent
  std::vector<c10::intrusive_ptr<c10d::Work>> works_;
  int64_t bytes_sent_ = 0;
};

}  // namespace bitstair::trainer
