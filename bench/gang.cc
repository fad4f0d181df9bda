#include "bench/gang.h"

#include <ATen/Parallel.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <iostream>
#include <stdexcept>
#include <string>

namespace bitstair::bench {
namespace {

void Write(int fd, double number) {
  if (write(fd, &number, sizeof number) != sizeof number) throw std::runtime_error("a rank is gone");
}

double Read(int fd) {
  double number = 0;
  if (read(fd, &number, sizeof number) != sizeof number) throw std::runtime_error("a rank is gone");
  return number;
}

// Rank 0 tells the others where it is through a pipe.
Seat Join(int rank, int world_size, int port_from, int port_to) {
  Seat seat;
  if (world_size == 1) {
    seat.group = std::make_unique<trainer::ProcessGroup>();
    return seat;
  }
  std::array<char, 64> address{};
  if (rank == 0) {
    seat.store = trainer::RendezvousStore::Host("127.0.0.1", "bench").value();
    seat.store->address().copy(address.data(), address.size() - 1);
    for (int peer = 1; peer < world_size; ++peer) {
      if (write(port_to, address.data(), address.size()) != static_cast<ssize_t>(address.size())) throw std::runtime_error("a rank is gone");
    }
  } else {
    if (read(port_from, address.data(), address.size()) != static_cast<ssize_t>(address.size())) throw std::runtime_error("rank 0 is gone");
    seat.store = trainer::RendezvousStore::Connect(address.data(), "bench").value();
  }
  seat.group = std::make_unique<trainer::ProcessGroup>(seat.store->store(), rank, world_size, "127.0.0.1");
  return seat;
}

// Reads which way is next, and answers with what it measured.
void RunRank(int rank, int world_size, const Gang::MakeWays& make, int from, int to, int port_from, int port_to) {
  at::set_num_threads(1);
  Seat seat = Join(rank, world_size, port_from, port_to);
  {
    const Gang::Ways ways = make(seat);
    Write(to, 0);  // ready
    for (double way = Read(from); way >= 0; way = Read(from)) Write(to, ways.at(static_cast<size_t>(way))());
  }
  if (seat.store != nullptr) seat.store->Leave(rank, world_size);
}

}  // namespace

Gang::Gang(int world_size, const MakeWays& make) {
  std::array<int, 2> port{};
  if (pipe(port.data()) != 0) throw std::runtime_error("no pipe");
  for (int rank = 0; rank < world_size; ++rank) {
    std::array<int, 2> down{}, up{};
    if (pipe(down.data()) != 0 || pipe(up.data()) != 0) throw std::runtime_error("no pipe");
    const pid_t pid = fork();
    if (pid == 0) {
      int status = 0;
      try {
        close(down[1]);
        close(up[0]);
        RunRank(rank, world_size, make, down[0], up[1], port[0], port[1]);
      } catch (const std::exception& error) {
        std::cerr << "rank " << rank << " of " << world_size << ": " << error.what() << "\n";
        status = 1;
      }
      _exit(status);
    }
    close(down[0]);
    close(up[1]);
    ranks_.push_back({pid, down[1], up[0]});
  }
  close(port[0]);
  close(port[1]);
}

void Gang::AwaitReady() {
  for (const Rank& rank : ranks_) Read(rank.up);
}

std::vector<double> Gang::TakeTurn(size_t way) {
  for (const Rank& rank : ranks_) Write(rank.down, static_cast<double>(way));
  std::vector<double> measured;
  for (const Rank& rank : ranks_) measured.push_back(Read(rank.up));
  return measured;
}

void Gang::End() {
  for (const Rank& rank : ranks_) Write(rank.down, -1);
  for (const Rank& rank : ranks_) waitpid(rank.pid, nullptr, 0);
}

}  // namespace bitstair::bench
