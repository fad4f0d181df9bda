#include "server/scheduling/queues.h"

#include <algorithm>
#include <cmath>

namespace bitstair::server::scheduling {
namespace {

// Parts such as 4/3 do not add up exactly.
constexpr double kRounding = 1e-6;

}  // namespace

int Queues::Number(const std::string& name) {
  const auto [found, added] = index_.emplace(name, static_cast<int>(queues_.size()));
  if (added) queues_.emplace_back().name = name;
  return found->second;
}

int Queues::Find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? -1 : found->second;
}

bool Queues::HasSlotsFor(int queue, double slots) const {
  const Queue& q = queues_[queue];
  return !q.limits.max_slots || q.slots + slots <= *q.limits.max_slots + kRounding;
}

bool Queues::HasRoomForJob(int queue, const std::string& job_id) const {
  const Queue& q = queues_[queue];
  return !q.limits.max_jobs || q.jobs.count(job_id) > 0 || jobs(queue) < *q.limits.max_jobs;
}

std::vector<Charge> Queues::SplitAmongAll(const std::vector<Waiter>& waiters, int ranks) {
  std::vector<Charge> charges;
  for (const Waiter& waiter : waiters) {
    const int queue = Number(waiter.queue);
    auto charge = std::find_if(charges.begin(), charges.end(), [&](const Charge& other) { return other.queue == queue; });
    if (charge == charges.end()) {
      charges.push_back({queue, 0, waiter.job_id});
    } else if (queues_[queue].jobs.count(charge->job_id) == 0 && queues_[queue].jobs.count(waiter.job_id) > 0) {
      charge->job_id = waiter.job_id;  // one that runs already uses up no more of the quota
    }
  }
  for (Charge& charge : charges) charge.slots = static_cast<double>(ranks) / static_cast<double>(charges.size());
  return charges;
}

std::vector<Charge> Queues::Split(const std::vector<Waiter>& waiters, int ranks, const std::vector<Charge>& current) {
  std::vector<Charge> charges = SplitAmongAll(waiters, ranks);
  const auto pays = [&](int queue) { return std::find_if(current.begin(), current.end(), [&](const Charge& charge) { return charge.queue == queue; }); };
  // Each queue that drops out makes the parts of the others larger.
  for (size_t before = charges.size() + 1; before != charges.size() && !charges.empty();) {
    before = charges.size();
    const double part = static_cast<double>(ranks) / static_cast<double>(before);
    const auto has_no_room = [&](const Charge& charge) {
      if (pays(charge.queue) != current.end()) return false;
      return !HasSlotsFor(charge.queue, part) || !HasRoomForJob(charge.queue, charge.job_id);
    };
    charges.erase(std::remove_if(charges.begin(), charges.end(), has_no_room), charges.end());
  }
  for (Charge& charge : charges) charge.slots = static_cast<double>(ranks) / static_cast<double>(charges.size());
  return charges;
}

double Queues::SlotSeconds(const Queue& queue, absl::Time now, absl::Duration window) const {
  if (queue.at == absl::InfinitePast() || now <= queue.at) return queue.slot_seconds;
  if (window == absl::InfiniteDuration()) return queue.slot_seconds + queue.slots * absl::ToDoubleSeconds(now - queue.at);
  const double decay = std::exp(-absl::FDivDuration(now - queue.at, window));
  return queue.slot_seconds * decay + queue.slots * absl::ToDoubleSeconds(window) * (1 - decay);
}

void Queues::Change(const std::vector<Charge>& charges, int sign, absl::Time now, absl::Duration window) {
  for (const Charge& charge : charges) {
    Queue& queue = queues_[charge.queue];
    queue.slot_seconds = SlotSeconds(queue, now, window);
    queue.at = std::max(queue.at, now);
    queue.slots += sign * charge.slots;
    if (std::abs(queue.slots) < kRounding) queue.slots = 0;
    ++queue.version;
    int& count = queue.jobs[charge.job_id];
    count += sign;
    if (count == 0) queue.jobs.erase(charge.job_id);
  }
}

double Queues::Share(int queue, absl::Time now, absl::Duration window) const {
  const Queue& q = queues_[queue];
  // With an endless window only the sum is left to compare.
  if (window == absl::InfiniteDuration()) return SlotSeconds(q, now, window) / q.limits.weight;
  return (SlotSeconds(q, now, window) / absl::ToDoubleSeconds(window) + q.slots) / 2 / q.limits.weight;
}

}  // namespace bitstair::server::scheduling
