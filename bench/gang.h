// Gangs of rank processes over loopback for the benches: started once, then they take turns.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <sys/types.h>

#include "worker/trainer/process_group.h"
#include "worker/trainer/rendezvous.h"

namespace bitstair::bench {

// A rank's end of a gang: its peers, and the ways that it can take a turn in.
struct Seat {
  std::unique_ptr<trainer::RendezvousStore> store;  // null in a gang of one
  std::unique_ptr<trainer::ProcessGroup> group;
};

class Gang {
 public:
  // What a rank does: the ways that it made, each of which takes one turn and returns what it measured. Runs in the rank's process, with one thread.
  using Ways = std::vector<std::function<double()>>;
  using MakeWays = std::function<Ways(Seat& seat)>;

  // Forks. To be called before LibTorch has threads in this process. Functions throw where a rank is gone.
  Gang(int world_size, const MakeWays& make);

  void AwaitReady();
  // By rank.
  std::vector<double> TakeTurn(size_t way);
  void End();

 private:
  struct Rank {
    pid_t pid;
    int down, up;
  };
  std::vector<Rank> ranks_;
};

}  // namespace bitstair::bench
