// Queues: what they used lately, what they may use, and who pays for a stage.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/scheduling/types.h"

namespace bitstair::server::scheduling {

// One queue's part of a stage that runs. A queue pays for a stage once, however many of its jobs wait for it.
struct Charge {
  int queue = 0;
  double slots = 0;
  std::string job_id;  // which of its jobs counts as running for the quota of jobs
};

class Queues {
 public:
  // The queue's number, which it keeps.
  int Number(const std::string& name);
  // -1: never heard of.
  int Find(const std::string& name) const;
  const std::string& name(int queue) const { return queues_[queue].name; }
  const QueueLimits& limits(int queue) const { return queues_[queue].limits; }
  void Set(const std::string& name, const QueueLimits& limits) { queues_[Number(name)].limits = limits; }

  // Who pays for a stage of so many ranks: the queues of its waiters that have room for their part, in equal parts. Empty: none has room. current: what they
  // pay for the stage already. A queue that pays already stays among the payers.
  std::vector<Charge> Split(const std::vector<Waiter>& waiters, int ranks, const std::vector<Charge>& current = {});
  // Without regard to quotas.
  std::vector<Charge> SplitAmongAll(const std::vector<Waiter>& waiters, int ranks);

  // Slots are charged from `now` on, until they are taken back. version(queue) changes with each.
  void Add(const std::vector<Charge>& charges, absl::Time now, absl::Duration window) { Change(charges, 1, now, window); }
  void Remove(const std::vector<Charge>& charges, absl::Time now, absl::Duration window) { Change(charges, -1, now, window); }
  int version(int queue) const { return queues_[queue].version; }

  // Mean of the slots used over the decaying window and those held now, per weight. The queue with the smallest goes first.
  double Share(int queue, absl::Time now, absl::Duration window) const;
  // Of which Share is made; and its state as it was saved at `at`, to which nothing was charged since. Only for a queue that nothing was charged to yet.
  double SlotSeconds(int queue, absl::Time now, absl::Duration window) const { return SlotSeconds(queues_[queue], now, window); }
  void Restore(int queue, double slot_seconds, absl::Time at) {
    queues_[queue].slot_seconds = slot_seconds;
    queues_[queue].at = at;
  }
  int size() const { return static_cast<int>(queues_.size()); }
  double slots(int queue) const { return queues_[queue].slots; }
  int jobs(int queue) const { return static_cast<int>(queues_[queue].jobs.size()); }
  bool HasSlotsFor(int queue, double slots) const;
  bool HasRoomForJob(int queue, const std::string& job_id) const;

 private:
  struct Queue {
    std::string name;
    QueueLimits limits;
    double slots = 0;         // charged at present
    double slot_seconds = 0;  // decayed, as of `at`
    absl::Time at = absl::InfinitePast();
    std::map<std::string, int> jobs;  // job id -> its charges
    int version = 0;
  };
  double SlotSeconds(const Queue& queue, absl::Time now, absl::Duration window) const;
  void Change(const std::vector<Charge>& charges, int sign, absl::Time now, absl::Duration window);

  std::vector<Queue> queues_;
  std::map<std::string, int> index_;
};

}  // namespace bitstair::server::scheduling
