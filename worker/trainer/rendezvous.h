// How the ranks of a gang find each other: a c10d TCPStore in rank 0's process.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include <c10/util/intrusive_ptr.h>

#include "absl/status/statusor.h"

namespace c10d {
class Store;
}

namespace bitstair::trainer {

// From the moment when all ranks are ready to the joined group.
inline constexpr std::chrono::seconds kRendezvousTimeout{30};

// The exchange:
//   a) rank 0 binds a port that the system chooses on its worker's data address and tells it to its worker (RendezvousReady);
//   b) worker, coordinator and the other workers pass the address on (Rendezvous); the other ranks connect;
//   c) all keys begin with stage, generation and the attempt's random token, so that a stray process of another attempt meets nobody.
// Functions of the store throw c10::Error when rank 0 is gone.
class RendezvousStore {
 public:
  // Rank 0. UNAVAILABLE names the address that cannot be bound. May throw c10::Error.
  static absl::StatusOr<std::unique_ptr<RendezvousStore>> Host(const std::string& data_address, const std::string& scope);
  // The others; address is "host:port". Throws c10::Error if nobody answers within kRendezvousTimeout.
  static absl::StatusOr<std::unique_ptr<RendezvousStore>> Connect(const std::string& address, const std::string& scope);
  ~RendezvousStore();

  // "stage/generation/token"
  static std::string Scope(const std::string& stage, int generation, const std::string& token);

  // Where the others reach rank 0.
  const std::string& address() const { return address_; }
  const c10::intrusive_ptr<c10d::Store>& store() const;

  // Returns when all ranks have come here. Ranks load their data at different speeds; this keeps that out of the time in which sockets must be joined.
  void AwaitAll(int rank, int world_size, std::chrono::milliseconds timeout);

  // The last thing a rank does with its peers: the others say that they need nothing any more, and rank 0, whose process is the store, waits for them all.
  void Leave(int rank, int world_size);

 private:
  struct Impl;
  RendezvousStore(std::string address, std::unique_ptr<Impl> impl);
  std::string address_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bitstair::trainer
