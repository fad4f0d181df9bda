// The real bitstair-worker against a scripted coordinator, with trainers that train nothing (fake_trainer.cc).
#include "worker/agent.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/digest/sha256.h"
#include "tests/worker/scripted_coordinator.h"
#include "tests/worker/worker_process.h"

namespace bitstair::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Record = ScriptedCoordinator::Record;

class AgentTest : public testing::Test {
 protected:
  AgentTest() : coordinator_(std::make_unique<ScriptedCoordinator>(&artifacts_)) {
    std::string pattern = testing::TempDir() + "bitstair-agent-XXXXXX";
    folder_ = fs::canonical(mkdtemp(pattern.data())).string();
    fs::create_directory(folder_ + "/data");
    std::ofstream(folder_ + "/data/images") << "pixels";
  }
  ~AgentTest() override {
    coordinator_.reset();
    fs::remove_all(folder_);
  }

  std::unique_ptr<WorkerProcess> StartWorker(const std::string& name, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"--coordinator", coordinator_->address(),    "--state-dir", folder_ + "/" + name, "--name", name, "--slots", "2",
                                          "--data",        "toy=" + folder_ + "/data", "--data-root", folder_ + "/data"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return std::make_unique<WorkerProcess>(arguments);
  }
  void RestartCoordinator() {
    const int port = coordinator_->port();
    coordinator_.reset();
    coordinator_ = std::make_unique<ScriptedCoordinator>(&artifacts_, port);
    ASSERT_EQ(coordinator_->port(), port);
  }

  static v1::AttemptId Id(const std::string& stage, int generation = 1) {
    v1::AttemptId id;
    id.set_stage("jobs/j/stages/" + stage);
    id.set_generation(generation);
    return id;
  }
  static v1::CoordinatorMessage Assignment(const std::string& stage, const std::vector<int>& ranks, int world_size, int generation = 1) {
    v1::CoordinatorMessage message;
    v1::AssignAttempt& assign = *message.mutable_assign();
    *assign.mutable_attempt() = Id(stage, generation);
    assign.mutable_spec()->set_name(stage);
    assign.mutable_spec()->mutable_data()->set_name("toy");
    for (size_t i = 0; i < ranks.size(); ++i) {
      v1::RankAssignment& rank = *assign.add_ranks();
      rank.set_rank(ranks[i]);
      rank.set_slot(static_cast<int>(i));
    }
    assign.set_world_size(world_size);
    return message;
  }
  static v1::CoordinatorMessage Stop(const std::string& stage, bool graceful) {
    v1::CoordinatorMessage message;
    *message.mutable_stop()->mutable_attempt() = Id(stage);
    message.mutable_stop()->set_graceful(graceful);
    return message;
  }
  v1::RankExited WaitForExit(int rank, int generation = 1) {
    const auto record = coordinator_->WaitFor([=](const Record& r) {
      return r.message.has_rank_exited() && r.message.rank_exited().rank() == rank && r.message.rank_exited().attempt().generation() == generation;
    });
    if (!record.has_value()) ADD_FAILURE() << "rank " << rank << " did not report its end";
    return record.has_value() ? record->message.rank_exited() : v1::RankExited{};
  }
  // The process id of a running rank.
  pid_t WaitForRank(int rank) {
    const auto record = coordinator_->WaitFor([=](const Record& r) { return r.message.has_rank_running() && r.message.rank_running().rank() == rank; });
    if (!record.has_value()) ADD_FAILURE() << "rank " << rank << " does not run";
    return record.has_value() ? static_cast<pid_t>(record->message.rank_running().pid()) : -1;
  }
  v1::WorkerHello WaitForHello(int connection = 1) {
    const auto record = coordinator_->WaitFor([=](const Record& r) { return r.message.has_hello() && r.connection == connection; });
    if (!record.has_value()) ADD_FAILURE() << "no hello number " << connection;
    return record.has_value() ? record->message.hello() : v1::WorkerHello{};
  }
  std::string Log(int rank) {
    std::string text;
    for (const Record& record : coordinator_->records()) {
      if (!record.message.has_log() || record.message.log().rank() != rank) continue;
      text.resize(std::max<size_t>(text.size(), static_cast<size_t>(record.message.log().offset())));
      text.replace(static_cast<size_t>(record.message.log().offset()), std::string::npos, record.message.log().text());
    }
    return text;
  }
  // Position of the first such message among all; -1 if there is none.
  int Position(const ScriptedCoordinator::Test& test) {
    const auto records = coordinator_->records();
    const auto found = std::find_if(records.begin(), records.end(), test);
    return found == records.end() ? -1 : static_cast<int>(found - records.begin());
  }

  MemoryArtifacts artifacts_;
  std::unique_ptr<ScriptedCoordinator> coordinator_;
  std::string folder_;
};

TEST_F(AgentTest, SaysWhoItIsAndWhatItOffers) {
  std::string first_incarnation;
  std::string id;
  for (int start = 1; start <= 2; ++start) {
    const auto worker = StartWorker("ann");
    const v1::WorkerHello hello = WaitForHello(start);
    EXPECT_EQ(hello.host(), "ann");
    EXPECT_EQ(hello.protocol_version(), 1);
    EXPECT_EQ(hello.slots_size(), 2);
    EXPECT_THAT(hello.datasets(), testing::Contains("toy"));
    EXPECT_THAT(hello.numeric_profile(), testing::StartsWith("cpu-"));
    EXPECT_EQ(hello.running_size(), 0);
    EXPECT_THAT(worker->WaitForReady(), HasSubstr("\"metrics_address\":\"" + hello.metrics_address() + "\""));
    if (start == 1) {
      id = hello.worker_id();
      first_incarnation = hello.incarnation();
    }
    EXPECT_EQ(hello.worker_id(), id);
    EXPECT_EQ(hello.incarnation() == first_incarnation, start == 1);
    EXPECT_LE(first_incarnation, hello.incarnation());
  }
}

TEST_F(AgentTest, ResolvesDataSets) {
  const auto worker = StartWorker("ann");
  const auto resolve = [&](const std::string& name, const std::string& path, const std::string& weights = "") {
    v1::CoordinatorMessage message;
    message.mutable_resolve_dataset()->set_token(name + path + weights);
    message.mutable_resolve_dataset()->set_weights_path(weights);
    message.mutable_resolve_dataset()->mutable_data()->set_name(name);
    message.mutable_resolve_dataset()->mutable_data()->set_path(path);
    coordinator_->Send("ann", message);
    const auto answer = coordinator_->WaitFor(
        [&](const Record& r) { return r.message.has_dataset_resolved() && r.message.dataset_resolved().token() == name + path + weights; });
    return answer.has_value() ? answer->message.dataset_resolved() : v1::DatasetResolved{};
  };
  Datasets datasets({.named = {{"toy", folder_ + "/data"}}});
  v1::DataSpec spec;
  spec.set_name("toy");
  EXPECT_EQ(resolve("toy", "").digest(), datasets.Resolve(spec)->digest);
  EXPECT_EQ(resolve("", folder_ + "/data").digest(), datasets.Resolve(spec)->digest);
  EXPECT_TRUE(resolve("other", "").not_offered());
  EXPECT_TRUE(resolve("", folder_).not_offered());
  EXPECT_TRUE(resolve("", folder_).forbidden());
  EXPECT_FALSE(resolve("other", "").forbidden());
  std::filesystem::create_directory_symlink(folder_, folder_ + "/data/way-out");
  EXPECT_TRUE(resolve("", folder_ + "/data/way-out").forbidden());
  EXPECT_FALSE(resolve("", folder_ + "/data/way-out").not_offered()) << "a fault";
  std::filesystem::remove(folder_ + "/data/way-out");
  EXPECT_THAT(resolve("", folder_ + "/data/missing").error(), HasSubstr("/data/missing"));

  std::ofstream(folder_ + "/data/w") << "weights";
  const v1::DatasetResolved both = resolve("toy", "", folder_ + "/data/w");
  EXPECT_EQ(both.weights_digest(), core::Sha256Hex("weights"));
  EXPECT_EQ(both.digest(), datasets.Resolve(spec)->digest);
  EXPECT_TRUE(resolve("toy", "", folder_ + "/w").not_offered());
  EXPECT_TRUE(resolve("toy", "", folder_ + "/w").forbidden());
  EXPECT_THAT(resolve("toy", "", folder_ + "/data/none").error(), HasSubstr("/data/none"));
}

TEST_F(AgentTest, InitialWeightsAreLookedUpBeforeTheTrainersStart) {
  const auto worker = StartWorker("ann");
  std::ofstream(folder_ + "/data/w") << "weights";
  v1::CoordinatorMessage message = Assignment("finish", {0}, 1);
  message.mutable_assign()->mutable_spec()->mutable_initial_weights()->set_path(folder_ + "/data/w");
  message.mutable_assign()->mutable_spec()->set_initial_weights_digest(core::Sha256Hex("other weights"));
  coordinator_->Send("ann", message);
  EXPECT_EQ(WaitForExit(0).cause(), v1::EXIT_CAUSE_BAD_DATA);
  EXPECT_THAT(WaitForExit(0).message(), HasSubstr("the job's weights, has changed since the job was planned"));
  message.mutable_assign()->mutable_attempt()->set_generation(2);
  message.mutable_assign()->mutable_spec()->set_initial_weights_digest(core::Sha256Hex("weights"));
  coordinator_->Send("ann", message);
  EXPECT_EQ(WaitForExit(0, 2).cause(), v1::EXIT_CAUSE_FINISHED);
}

TEST_F(AgentTest, TwoWorkersMeetThroughTheCoordinator) {
  const auto ann = StartWorker("ann");
  const auto bob = StartWorker("bob");
  coordinator_->Send("bob", Assignment("finish", {1}, 2));
  coordinator_->Send("ann", Assignment("finish", {0}, 2));
  const auto ready = coordinator_->WaitFor([](const Record& r) { return r.message.has_rendezvous_ready(); });
  ASSERT_TRUE(ready.has_value());
  EXPECT_EQ(ready->worker, "ann");
  EXPECT_EQ(ready->message.rendezvous_ready().address(), "127.0.0.1:4711");
  v1::CoordinatorMessage rendezvous;
  *rendezvous.mutable_rendezvous()->mutable_attempt() = Id("finish");
  rendezvous.mutable_rendezvous()->set_address("127.0.0.1:4711");
  coordinator_->Send("bob", rendezvous);
  EXPECT_EQ(WaitForExit(0).cause(), v1::EXIT_CAUSE_FINISHED);
  EXPECT_EQ(WaitForExit(1).cause(), v1::EXIT_CAUSE_FINISHED);
  EXPECT_THAT(Log(1), HasSubstr("rendezvous at 127.0.0.1:4711"));

  // The result, its epoch, and the end come in an order that loses nothing.
  const auto uploaded = coordinator_->WaitFor([](const Record& r) { return r.message.has_checkpoint_uploaded(); });
  ASSERT_TRUE(uploaded.has_value());
  const v1::Checkpoint& checkpoint = uploaded->message.checkpoint_uploaded().checkpoint();
  EXPECT_TRUE(checkpoint.final());
  EXPECT_EQ(checkpoint.generation(), 1);
  EXPECT_EQ(core::Sha256Hex(artifacts_.Get(checkpoint.sha256())), checkpoint.sha256());
  const int epoch = Position([](const Record& r) { return r.message.has_epoch_done(); });
  const int upload = Position([](const Record& r) { return r.message.has_checkpoint_uploaded(); });
  const int exit = Position([](const Record& r) { return r.message.has_rank_exited() && r.message.rank_exited().rank() == 0; });
  EXPECT_LT(-1, epoch);
  EXPECT_LT(epoch, upload);
  EXPECT_LT(upload, exit);
  EXPECT_EQ(coordinator_->Count([](const Record& r) { return r.message.has_rank_running(); }), 2);
}

TEST_F(AgentTest, OneRanksCrashEndsItsGangWithTheLastLines) {
  const auto worker = StartWorker("ann");
  coordinator_->Send("ann", Assignment("crash", {0, 1}, 2));
  const v1::RankExited crashed = WaitForExit(1);
  EXPECT_EQ(crashed.cause(), v1::EXIT_CAUSE_CRASHED);
  EXPECT_THAT(crashed.message(), HasSubstr("SIGABRT"));
  EXPECT_THAT(crashed.message(), HasSubstr("line 30"));
  const v1::RankExited peer = WaitForExit(0);
  EXPECT_EQ(peer.cause(), v1::EXIT_CAUSE_PEER_LOST);
  EXPECT_THAT(peer.message(), HasSubstr("rank 1 ended (crashed)"));
  EXPECT_THAT(Log(1), HasSubstr("line 1\nline 2\n"));
}

TEST_F(AgentTest, AGracefulStopTakesACheckpointFirst) {
  const auto worker = StartWorker("ann");
  coordinator_->Send("ann", Assignment("wait", {0, 1}, 2));
  WaitForRank(0);
  WaitForRank(1);
  coordinator_->Send("ann", Stop("wait", true));
  EXPECT_EQ(WaitForExit(0).cause(), v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(WaitForExit(1).cause(), v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(
      coordinator_->Count([](const Record& r) { return r.message.has_checkpoint_uploaded() && r.message.checkpoint_uploaded().checkpoint().epoch() == 2; }), 1);
}

TEST_F(AgentTest, AStopThatIsNotGracefulKills) {
  const auto worker = StartWorker("ann");
  coordinator_->Send("ann", Assignment("stubborn", {0, 1}, 2));
  WaitForRank(0);
  WaitForRank(1);
  coordinator_->Send("ann", Stop("stubborn", false));
  EXPECT_EQ(WaitForExit(0).cause(), v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(WaitForExit(1).cause(), v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(coordinator_->Count([](const Record& r) { return r.message.has_checkpoint_uploaded(); }), 0);
}

TEST_F(AgentTest, AStalledTrainerIsKilled) {
  const auto worker = StartWorker("ann");
  coordinator_->Send("ann", Assignment("hang", {0}, 1));
  const v1::RankExited exited = WaitForExit(0);
  EXPECT_EQ(exited.cause(), v1::EXIT_CAUSE_STALLED);
  EXPECT_THAT(exited.message(), HasSubstr("evaluate"));
}

TEST_F(AgentTest, AReconnectListsWhatRunsAndRepeatsWhatMayBeLost) {
  coordinator_->commit_checkpoints = false;
  const auto worker = StartWorker("ann");
  coordinator_->Send("ann", Assignment("wait-saved", {0}, 1));
  const pid_t trainer = WaitForRank(0);
  const auto is_upload = [](const Record& r) { return r.message.has_checkpoint_uploaded(); };
  ASSERT_TRUE(coordinator_->WaitFor(is_upload).has_value());

  RestartCoordinator();
  const v1::WorkerHello hello = WaitForHello();
  ASSERT_EQ(hello.running_size(), 1);
  EXPECT_EQ(hello.running(0).attempt().stage(), "jobs/j/stages/wait-saved");
  EXPECT_THAT(hello.running(0).ranks(), ElementsAre(0));
  EXPECT_EQ(WaitForRank(0), trainer);
  EXPECT_TRUE(coordinator_->WaitFor([](const Record& r) { return r.message.has_rendezvous_ready(); }).has_value());
  // This coordinator commits it, so the next one is not told.
  ASSERT_TRUE(coordinator_->WaitFor(is_upload).has_value());
  v1::CoordinatorMessage again = Assignment("wait-saved", {0}, 1);
  coordinator_->Send("ann", again);  // a repeat of the assignment starts nothing
  coordinator_->Send("ann", Assignment("exit3", {0}, 1));
  EXPECT_EQ(WaitForExit(0).cause(), v1::EXIT_CAUSE_CRASHED);

  RestartCoordinator();
  EXPECT_EQ(WaitForHello().running_size(), 2) << "an end that a new coordinator may not know is listed, too";
  EXPECT_EQ(WaitForExit(0).cause(), v1::EXIT_CAUSE_CRASHED);
  EXPECT_TRUE(IsRunning(trainer));
  coordinator_->Send("ann", Stop("wait-saved", true));
  ASSERT_TRUE(coordinator_->WaitFor(
      [](const Record& r) { return r.message.has_rank_exited() && r.message.rank_exited().attempt().stage() == "jobs/j/stages/wait-saved"; }));
  for (const Record& record : coordinator_->records()) {
    if (!is_upload(record)) continue;
    EXPECT_EQ(record.message.checkpoint_uploaded().checkpoint().epoch(), 2);
  }
}

TEST_F(AgentTest, AFencedAttemptIsKilledWithoutAReport) {
  const auto worker = StartWorker("ann");
  coordinator_->Send("ann", Assignment("wait", {0}, 1));
  const pid_t trainer = WaitForRank(0);
  const int port = coordinator_->port();
  coordinator_.reset();
  coordinator_ = std::make_unique<ScriptedCoordinator>(&artifacts_, port);
  coordinator_->fence = [](const v1::WorkerHello& hello) {
    std::vector<v1::AttemptId> fenced;
    for (const auto& running : hello.running()) fenced.push_back(running.attempt());
    return fenced;
  };
  ASSERT_TRUE(WaitUntilGone(trainer));
  // The next generation runs; nothing of the old one was told.
  coordinator_->Send("ann", Assignment("finish", {0}, 1, 2));
  EXPECT_EQ(WaitForExit(0, 2).cause(), v1::EXIT_CAUSE_FINISHED);
  EXPECT_EQ(coordinator_->Count([](const Record& r) { return r.message.has_rank_exited() && r.message.rank_exited().attempt().generation() == 1; }), 0);
}

TEST_F(AgentTest, ANewGenerationEndsTheOldOneAndAnOldOneIsNotStarted) {
  const auto worker = StartWorker("ann");
  coordinator_->Send("ann", Assignment("wait", {0}, 1, 2));
  const pid_t old = WaitForRank(0);
  coordinator_->Send("ann", Assignment("wait", {0}, 1, 3));
  EXPECT_EQ(WaitForExit(0, 2).cause(), v1::EXIT_CAUSE_STOPPED);
  EXPECT_TRUE(WaitUntilGone(old));
  coordinator_->Send("ann", Assignment("wait", {0}, 1, 1));
  ASSERT_TRUE(coordinator_->WaitFor([](const Record& r) { return r.message.has_rank_running() && r.message.rank_running().attempt().generation() == 3; }));
  EXPECT_EQ(coordinator_->Count([](const Record& r) { return r.message.has_rank_running() && r.message.rank_running().attempt().generation() == 1; }), 0);
}

TEST_F(AgentTest, StartsFromCheckpointsOfTheArtifactStore) {
  const std::string parent(500'000, 'p');
  artifacts_.Put(core::Sha256Hex(parent), parent);
  artifacts_.BreakStreams(1, 100'000);
  const auto worker = StartWorker("ann");
  v1::CoordinatorMessage message = Assignment("finish", {0}, 1);
  message.mutable_assign()->mutable_parent_checkpoint()->set_sha256(core::Sha256Hex(parent));
  message.mutable_assign()->mutable_parent_checkpoint()->set_size_bytes(500'000);
  coordinator_->Send("ann", message);
  EXPECT_EQ(WaitForExit(0).cause(), v1::EXIT_CAUSE_FINISHED);
  EXPECT_THAT(Log(0), HasSubstr("starts from " + core::Sha256Hex(parent)));
}

TEST_F(AgentTest, AnUnusableCheckpointEndsTheAttempt) {
  const auto worker = StartWorker("ann");
  v1::CoordinatorMessage message = Assignment("finish", {0}, 1);
  message.mutable_assign()->mutable_resume_from()->set_sha256(core::Sha256Hex("gone"));
  message.mutable_assign()->mutable_resume_from()->set_size_bytes(4);
  coordinator_->Send("ann", message);
  const v1::RankExited exited = WaitForExit(0);
  EXPECT_EQ(exited.cause(), v1::EXIT_CAUSE_BAD_CHECKPOINT);
  EXPECT_THAT(exited.message(), HasSubstr(core::Sha256Hex("gone")));
  message.mutable_assign()->mutable_attempt()->set_generation(2);
  message.mutable_assign()->mutable_resume_from()->set_sha256("../../etc/passwd");
  coordinator_->Send("ann", message);
  EXPECT_EQ(WaitForExit(0, 2).cause(), v1::EXIT_CAUSE_BAD_CHECKPOINT);
}

TEST_F(AgentTest, WhatCannotBeStartedIsReportedForEveryRank) {
  const auto worker = StartWorker("ann");
  v1::CoordinatorMessage message = Assignment("finish", {0, 1}, 2);
  message.mutable_assign()->mutable_spec()->set_data_digest(core::Sha256Hex("other data"));
  coordinator_->Send("ann", message);
  EXPECT_EQ(WaitForExit(0).cause(), v1::EXIT_CAUSE_BAD_DATA);
  EXPECT_THAT(WaitForExit(1).message(), HasSubstr("has changed since the job was planned"));
  message = Assignment("finish", {0, 1}, 2, 2);
  (*message.mutable_assign()->mutable_spec()->mutable_environment())["LD_PRELOAD"] = "x.so";
  coordinator_->Send("ann", message);
  EXPECT_EQ(WaitForExit(0, 2).cause(), v1::EXIT_CAUSE_NOT_STARTED);
  EXPECT_EQ(WaitForExit(1, 2).cause(), v1::EXIT_CAUSE_PEER_LOST);
  message = Assignment("finish", {0}, 1, 3);
  message.mutable_assign()->mutable_ranks(0)->set_slot(2);
  coordinator_->Send("ann", message);
  EXPECT_THAT(WaitForExit(0, 3).message(), HasSubstr("no slot 2"));
}

TEST_F(AgentTest, TrainersGetTheirSlotsThreadsAndTheRecipesEnvironment) {
  const auto worker = StartWorker("ann");
  v1::CoordinatorMessage message = Assignment("finish", {0}, 1);
  (*message.mutable_assign()->mutable_spec()->mutable_environment())["GLOO_TEST"] = "7";
  coordinator_->Send("ann", message);
  WaitForExit(0);
  const int threads = WaitForHello().slots(0).threads();
  EXPECT_THAT(Log(0), HasSubstr("rank 0 of 1, threads " + std::to_string(threads) + ", gloo 7, data " + folder_ + "/data"));
}

TEST_F(AgentTest, SigtermStopsTrainersSaysGoodbyeAndLeaves) {
  const auto worker = StartWorker("ann");
  coordinator_->Send("ann", Assignment("wait", {0}, 1));
  const pid_t trainer = WaitForRank(0);
  worker->Signal(SIGTERM);
  EXPECT_EQ(worker->WaitForExit(), 0) << worker->Errors();
  EXPECT_FALSE(IsRunning(trainer));
  EXPECT_TRUE(coordinator_->WaitForEnd("ann"));
  const auto records = coordinator_->records();
  EXPECT_TRUE(records.back().message.has_goodbye());
  EXPECT_EQ(WaitForExit(0).cause(), v1::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(coordinator_->Count([](const Record& r) { return r.message.has_checkpoint_uploaded(); }), 1);
}

TEST_F(AgentTest, ASecondSigtermEndsStubbornTrainers) {
  const auto worker = StartWorker("ann");
  coordinator_->Send("ann", Assignment("stubborn", {0}, 1));
  const pid_t trainer = WaitForRank(0);
  worker->Signal(SIGTERM);
  // The first is being handled once the coordinator hears nothing new but heartbeats; the second may come at any time after it, or before.
  worker->Signal(SIGTERM);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (IsRunning(trainer) && std::chrono::steady_clock::now() < deadline) {
    worker->Signal(SIGTERM);
    usleep(50'000);
  }
  EXPECT_FALSE(IsRunning(trainer));
  EXPECT_EQ(worker->WaitForExit(), 0);
}

TEST_F(AgentTest, AnEmbeddedWorkerLeavesWithItsCoordinator) {
  const auto worker = StartWorker("ann", {"--embedded"});
  coordinator_->Send("ann", Assignment("wait", {0}, 1));
  WaitForRank(0);
  v1::CoordinatorMessage goodbye;
  goodbye.mutable_goodbye();
  coordinator_->Send("ann", goodbye);
  EXPECT_EQ(worker->WaitForExit(), 0);
  EXPECT_EQ(WaitForExit(0).cause(), v1::EXIT_CAUSE_STOPPED);
}

TEST_F(AgentTest, LeavesWhenTheWatchedProcessEnds) {
  const pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  const auto worker = StartWorker("ann", {"--exit-with-pid", std::to_string(child)});
  WaitForHello();
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(worker->WaitForExit(), 0);
}

TEST_F(AgentTest, TrainersDieWithAKilledWorker) {
  const auto worker = StartWorker("ann");
  coordinator_->Send("ann", Assignment("wait", {0, 1}, 2));
  const pid_t first = WaitForRank(0);
  const pid_t second = WaitForRank(1);
  worker->Signal(SIGKILL);
  EXPECT_TRUE(WaitUntilGone(first));
  EXPECT_TRUE(WaitUntilGone(second));
}

TEST_F(AgentTest, StopsItsTrainersOnceLeaseAndGraceHavePassedAlone) {
  coordinator_->lease_seconds = 0.4;
  coordinator_->grace_seconds = 0.4;
  const auto worker = StartWorker("ann");
  coordinator_->Send("ann", Assignment("stubborn", {0}, 1));
  const pid_t trainer = WaitForRank(0);
  const int port = coordinator_->port();
  coordinator_.reset();
  EXPECT_TRUE(WaitUntilGone(trainer));
  coordinator_ = std::make_unique<ScriptedCoordinator>(&artifacts_, port);
  const v1::RankExited exited = WaitForExit(0);
  EXPECT_EQ(exited.cause(), v1::EXIT_CAUSE_STOPPED);
  EXPECT_THAT(exited.message(), HasSubstr("could not reach the coordinator"));
}

TEST_F(AgentTest, HeartbeatsFourTimesPerLease) {
  coordinator_->lease_seconds = 0.8;
  const auto worker = StartWorker("ann");
  const auto start = std::chrono::steady_clock::now();
  int beats = 0;
  ASSERT_TRUE(coordinator_->WaitFor([&](const Record& r) {
    if (r.message.has_hello()) beats = 0;  // each look begins with it
    return r.message.has_heartbeat() && ++beats >= 5;
  }));
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(600));
}

TEST_F(AgentTest, AReplacedWorkerLeavesWithAnError) {
  coordinator_->refuse = grpc::Status(grpc::ALREADY_EXISTS, "a newer process runs as this worker");
  const auto worker = StartWorker("ann");
  EXPECT_EQ(worker->WaitForExit(), 1);
  EXPECT_THAT(worker->Errors(), HasSubstr("took over this worker's identity"));
}

TEST_F(AgentTest, ARefusalIsTriedAgain) {
  coordinator_->refuse = grpc::Status(grpc::FAILED_PRECONDITION, "protocol 1 is too old");
  const auto worker = StartWorker("ann");
  WaitForHello(3);
  worker->Signal(SIGTERM);
  EXPECT_EQ(worker->WaitForExit(), 0);
  EXPECT_THAT(worker->Errors(), HasSubstr("protocol 1 is too old"));
}

TEST_F(AgentTest, MetricsPassPromtoolAndFollowTheWork) {
  const auto worker = StartWorker("ann");
  coordinator_->Send("ann", Assignment("wait", {0}, 1));
  WaitForRank(0);
  ASSERT_TRUE(coordinator_->WaitFor([](const Record& r) { return r.message.has_progress(); }));
  const std::string address = WaitForHello().metrics_address();
  std::string text = HttpGetMetrics(address);
  EXPECT_THAT(text, HasSubstr("bitstair_worker_slots{state=\"busy\"} 1"));
  EXPECT_THAT(text, HasSubstr("bitstair_worker_connected 1"));
  EXPECT_THAT(text, HasSubstr("bitstair_worker_trainer_exits_total{cause=\"stalled\"} 0"));
  EXPECT_THAT(text, HasSubstr("bitstair_worker_stage_loss{stage=\"jobs/j/stages/wait\"} 2.5"));
  const std::string file = folder_ + "/metrics.txt";
  std::ofstream(file) << text;
  if (std::system("command -v promtool > /dev/null") == 0) {
    EXPECT_EQ(std::system(("promtool check metrics < " + file).c_str()), 0);
  }
  coordinator_->Send("ann", Stop("wait", true));
  WaitForExit(0);
  text = HttpGetMetrics(address);
  EXPECT_THAT(text, HasSubstr("bitstair_worker_slots{state=\"busy\"} 0"));
  EXPECT_THAT(text, HasSubstr("bitstair_worker_trainer_exits_total{cause=\"stopped\"} 1"));
  EXPECT_THAT(text, HasSubstr("bitstair_worker_uploads_total{result=\"ok\"} 1"));
  EXPECT_THAT(text, testing::Not(HasSubstr("bitstair_worker_stage_loss{")));
}

TEST_F(AgentTest, BadUseEndsWithStatusTwoAndSaysWhy) {
  const auto holder = StartWorker("ann");
  const std::string ready = holder->WaitForReady();
  const size_t at = ready.find("127.0.0.1:");
  ASSERT_NE(at, std::string::npos);
  const std::string taken = ready.substr(at, ready.find('"', at) - at);
  std::ofstream(folder_ + "/file") << "x";
  const struct {
    std::vector<std::string> arguments;
    std::string message;
  } cases[] = {
      {{"--state-dir", folder_ + "/ann"}, "is in use by another process"},
      {{"--state-dir", folder_ + "/new", "--metrics-listen", taken}, "cannot serve metrics on " + taken},
      {{"--state-dir", folder_ + "/new", "--metrics-listen", "0.0.0.0:0"}, "refusing to listen on 0.0.0.0:0"},
      {{"--state-dir", folder_ + "/new", "--coordinator", "10.1.2.3:7420"}, "refusing to talk to 10.1.2.3:7420"},
      {{"--state-dir", folder_ + "/new", "--coordinator", "nowhere"}, "--coordinator: \"nowhere\" is not HOST:PORT"},
      {{"--state-dir", folder_ + "/file/sub"}, folder_ + "/file/sub"},
      {{"--state-dir", folder_ + "/new", "--data", "x=" + folder_ + "/none"}, "--data x: cannot use " + folder_ + "/none"},
      {{"--state-dir", folder_ + "/new", "--data", "nopath"}, "write NAME=PATH"},
      {{"--state-dir", folder_ + "/new", "--data", "a=/", "--data", "a=/tmp"}, "the name a is given twice"},
      {{"--state-dir", folder_ + "/new", "--data-root", folder_ + "/file"}, "is not a folder"},
      {{"--state-dir", folder_ + "/new", "--slots", "0"}, "--slots"},
      {{"--state-dir", folder_ + "/new", "--exit-with-pid", "1073741823"}, "--exit-with-pid 1073741823"},
      {{"--state-dir", folder_ + "/new", "--log-level", "loud"}, "log level \"loud\""},
      {{"--state-dir", folder_ + "/new", "--no-such-flag"}, "--no-such-flag"},
      {{}, "--state-dir is required"},
  };
  for (const auto& bad : cases) {
    WorkerProcess worker(bad.arguments);
    EXPECT_EQ(worker.WaitForExit(), 2) << bad.message;
    EXPECT_THAT(worker.Errors(), HasSubstr(bad.message));
  }
  fs::create_directory(folder_ + "/damaged");
  std::ofstream(folder_ + "/damaged/worker_id") << "not an id\n";
  WorkerProcess worker({"--state-dir", folder_ + "/damaged"});
  EXPECT_EQ(worker.WaitForExit(), 2);
  EXPECT_THAT(worker.Errors(), HasSubstr("damaged/worker_id does not hold a worker's id"));
}

}  // namespace
}  // namespace bitstair::worker
