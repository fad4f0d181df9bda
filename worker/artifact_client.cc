#include "worker/artifact_client.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/digest/sha256.h"
#include "core/files/durable_file.h"
#include "proto/status.h"
#include "worker/metrics.h"

namespace bitstair::worker {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr size_t kChunkBytes = 256 << 10;
constexpr std::chrono::milliseconds kFirstBackoff{200};
constexpr std::chrono::milliseconds kLastBackoff{5'000};
constexpr std::chrono::seconds kUnaryDeadline{10};
// A stream that is slower than this is broken off; it goes on from where it was.
constexpr int64_t kSlowestBytesPerSecond = 256 << 10;
constexpr int kDamagedTries = 3;

bool IsPermanent(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kUnimplemented:
      return true;
    default:
      return false;
  }
}

void SetStreamDeadline(grpc::ClientContext* context, int64_t bytes) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30 + bytes / kSlowestBytesPerSecond));
}

int64_t FileSize(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? info.st_size : -1;
}

// A call that posts to the transfer's thread. Owned by itself until OnDone has been handled there.
template <typename Reactor>
class OwnedReactor : public Reactor {
 public:
  OwnedReactor(std::shared_ptr<asio::io_context> io, std::function<void(const absl::Status&)> closed) : io_(std::move(io)), closed_(std::move(closed)) {}

  grpc::ClientContext context;

  void OnDone(const grpc::Status& status) override {
    PostToThread([this, status] {
      const std::unique_ptr<OwnedReactor> owner(this);
      closed_(FromGrpc(status));
    });
  }

 protected:
  // gRPC's thread may still be inside of post when what it posted has run, this object is deleted, and the client with its loop goes away.
  template <typename Handler>
  void PostToThread(Handler handler) {
    const std::shared_ptr<asio::io_context> io = io_;
    asio::post(*io, std::move(handler));
  }

 private:
  const std::shared_ptr<asio::io_context> io_;
  const std::function<void(const absl::Status&)> closed_;
};

}  // namespace

// One upload or download, over as many calls as it takes. Only on the client's thread.
class ArtifactClient::Transfer : public std::enable_shared_from_this<ArtifactClient::Transfer> {
 public:
  Transfer(ArtifactClient& client, std::string sha256, int64_t size_bytes)
      : client_(client), sha256_(std::move(sha256)), size_bytes_(size_bytes), timer_(*client.io_), started_(Clock::now()) {}
  virtual ~Transfer() = default;

  uint64_t number = 0;
  Lane* lane = nullptr;

  bool started() const { return running_; }
  void Start() {
    running_ = true;
    Step();
  }
  // Reports nothing. True if no call is under way, so that the transfer is over now; else it will be when the call has ended.
  bool Cancel() {
    cancelled_ = true;
    timer_.cancel();
    if (context_ != nullptr) context_->TryCancel();
    return context_ == nullptr;
  }

 protected:
  virtual void Step() = 0;
  virtual void Report(const absl::Status& status) = 0;

  void End(const absl::Status& status) {
    if (!cancelled_) Report(status);
    client_.Finished(shared_from_this());
  }

  void Retry(const absl::Status& why) {
    if (cancelled_) return End(absl::CancelledError());
    spdlog::debug("transfer of {} is tried again: {}", sha256_, std::string(why.message()));
    timer_.expires_after(backoff_);
    backoff_ = std::min(2 * backoff_, kLastBackoff);
    timer_.async_wait([self = shared_from_this()](const boost::system::error_code&) {
      if (self->cancelled_) return;  // the lane has let go of it already
      self->Step();
    });
  }

  std::shared_ptr<Transfer> Self() { return shared_from_this(); }

  ArtifactClient& client_;
  const std::string sha256_;
  const int64_t size_bytes_;
  asio::steady_timer timer_;
  const Clock::time_point started_;
  bool running_ = false;
  bool cancelled_ = false;
  grpc::ClientContext* context_ = nullptr;  // of the call under way
  std::chrono::milliseconds backoff_ = kFirstBackoff;
  int damaged_ = 0;
};

class ArtifactClient::Download : public Transfer {
 public:
  Download(ArtifactClient& client, std::string sha256, int64_t size_bytes, FetchDone done)
      : Transfer(client, std::move(sha256), size_bytes), done_(std::move(done)), path_(client.CachePath(sha256_)), part_(path_ + ".part") {}

  ~Download() override {
    if (fd_ >= 0) close(fd_);
  }

 private:
  class Call : public OwnedReactor<grpc::ClientReadReactor<v1::DownloadArtifactResponse>> {
   public:
    Call(std::shared_ptr<Download> download, std::shared_ptr<asio::io_context> io, std::function<void(const absl::Status&)> closed)
        : OwnedReactor(std::move(io), std::move(closed)), download_(std::move(download)) {}
    void OnReadDone(bool ok) override {
      PostToThread([this, ok] {
        if (ok && download_->Take(response.chunk())) {
          StartRead(&response);
        } else {
          if (ok) context.TryCancel();
          RemoveHold();
        }
      });
    }
    v1::DownloadArtifactRequest request;
    v1::DownloadArtifactResponse response;

   private:
    const std::shared_ptr<Download> download_;
  };

  void Step() override {
    if (FileSize(path_) == size_bytes_) {
      // Its digest was checked when it got this name; the time stamp says that it is in use.
      utimensat(AT_FDCWD, path_.c_str(), nullptr, 0);
      return End(absl::OkStatus());
    }
    local_error_ = absl::OkStatus();
    fd_ = open(part_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd_ < 0) return End(absl::ErrnoToStatus(errno, absl::StrCat("cannot create ", part_)));
    offset_ = std::max<int64_t>(0, FileSize(part_));
    if (offset_ > size_bytes_) offset_ = 0;
    if (ftruncate(fd_, offset_) != 0 || lseek(fd_, offset_, SEEK_SET) < 0) return End(absl::ErrnoToStatus(errno, absl::StrCat("cannot go on with ", part_)));
    begin_ = offset_;
    const auto self = std::static_pointer_cast<Download>(Self());
    Call* call = new Call(self, client_.io_, [self](const absl::Status& status) { self->Closed(status); });
    context_ = &call->context;
    SetStreamDeadline(context_, size_bytes_ - offset_);
    call->request.set_sha256(sha256_);
    call->request.set_offset(offset_);
    client_.stub_->async()->DownloadArtifact(context_, &call->request, call);
    call->AddHold();  // reads are started from this thread; OnReadDone lets go
    call->StartRead(&call->response);
    call->StartCall();
  }

  // False: no more is wanted.
  bool Take(absl::string_view chunk) {
    if (cancelled_) return false;
    if (offset_ + static_cast<int64_t>(chunk.size()) > size_bytes_) {
      local_error_ = absl::DataLossError(absl::StrCat("artifact ", sha256_, " is longer than ", size_bytes_, " bytes"));
      return false;
    }
    while (!chunk.empty()) {
      const ssize_t put = write(fd_, chunk.data(), chunk.size());
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) {
        local_error_ = absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", part_));
        return false;
      }
      chunk.remove_prefix(static_cast<size_t>(put));
      offset_ += put;
      client_.metrics_->AddDownloadBytes(put);
    }
    return true;
  }

  void Closed(const absl::Status& status) {
    context_ = nullptr;
    close(fd_);
    fd_ = -1;
    if (cancelled_) return End(absl::CancelledError());
    if (!local_error_.ok() && !absl::IsDataLoss(local_error_)) return End(local_error_);
    if (local_error_.ok() && !status.ok() && offset_ < size_bytes_) {
      if (IsPermanent(status)) return End(status);
      idle_tries_ = offset_ > begin_ ? 0 : idle_tries_ + 1;
      if (idle_tries_ >= client_.options_.download_tries) return End(status);
      if (offset_ > begin_) backoff_ = kFirstBackoff;
      return Retry(status);
    }
    absl::Status damage = local_error_;
    if (damage.ok() && offset_ < size_bytes_) damage = absl::DataLossError(absl::StrCat("artifact ", sha256_, " ended at byte ", offset_, " of ", size_bytes_));
    if (damage.ok()) {
      const absl::StatusOr<core::FileDigest> digest = core::Sha256OfFile(part_);
      if (!digest.ok()) return End(digest.status());
      if (digest->sha256 == sha256_) {
        const absl::Status published = core::PublishFile(part_, path_);
        client_.TrimCache(path_);
        return End(published);
      }
      damage = absl::DataLossError(absl::StrCat("artifact ", sha256_, " arrived with the digest ", digest->sha256));
    }
    unlink(part_.c_str());
    if (++damaged_ >= kDamagedTries) return End(damage);
    Retry(damage);
  }

  void Report(const absl::Status& status) override {
    asio::post(client_.owner_,
               [done = done_, result = status.ok() ? absl::StatusOr<std::string>(path_) : absl::StatusOr<std::string>(status)] { done(result); });
  }

  const FetchDone done_;
  const std::string path_;
  const std::string part_;
  int fd_ = -1;
  int64_t begin_ = 0;
  int64_t offset_ = 0;
  int idle_tries_ = 0;
  absl::Status local_error_;
};

class ArtifactClient::UploadTransfer : public Transfer {
 public:
  UploadTransfer(ArtifactClient& client, std::string path, std::string sha256, int64_t size_bytes, UploadDone done)
      : Transfer(client, std::move(sha256), size_bytes), done_(std::move(done)), path_(std::move(path)) {}

  ~UploadTransfer() override {
    if (fd_ >= 0) close(fd_);
  }

 private:
  struct Ask {  // one GetArtifact
    grpc::ClientContext context;
    v1::GetArtifactRequest request;
    v1::Artifact artifact;
  };

  class Call : public OwnedReactor<grpc::ClientWriteReactor<v1::UploadArtifactRequest>> {
   public:
    Call(std::shared_ptr<UploadTransfer> upload, std::shared_ptr<asio::io_context> io, std::function<void(const absl::Status&)> closed)
        : OwnedReactor(std::move(io), std::move(closed)), upload_(std::move(upload)) {}
    void OnWriteDone(bool ok) override {
      PostToThread([this, ok] {
        if (ok && upload_->NextChunk(&request)) {
          StartWrite(&request);
          return;
        }
        // A write that failed means that the store has answered already; its status says why.
        if (ok && (!upload_->local_error_.ok() || upload_->cancelled_)) context.TryCancel();
        if (ok && upload_->local_error_.ok()) StartWritesDone();
        RemoveHold();
      });
    }
    v1::UploadArtifactRequest request;
    v1::Artifact artifact;

   private:
    const std::shared_ptr<UploadTransfer> upload_;
  };

  void Step() override {
    auto self = std::static_pointer_cast<UploadTransfer>(Self());
    auto ask = std::make_shared<Ask>();
    ask->context.set_deadline(std::chrono::system_clock::now() + kUnaryDeadline);
    ask->request.set_sha256(sha256_);
    context_ = &ask->context;
    // Moves all it holds to the client's thread, and keeps the loop until it has returned.
    client_.stub_->async()->GetArtifact(&ask->context, &ask->request, &ask->artifact,
                                        [self = std::move(self), ask, io = client_.io_](const grpc::Status& status) mutable {
                                          asio::post(*io, [self = std::move(self), ask = std::move(ask), status = FromGrpc(status)] {
                                            self->context_ = nullptr;
                                            self->Asked(status, ask->artifact);
                                          });
                                        });
  }

  void Asked(const absl::Status& status, const v1::Artifact& artifact) {
    if (cancelled_) return End(absl::CancelledError());
    if (!status.ok() && !absl::IsNotFound(status)) return IsPermanent(status) ? End(status) : Retry(status);
    if (status.ok() && artifact.complete()) return Succeed();
    offset_ = status.ok() && damaged_ == 0 ? std::clamp<int64_t>(artifact.received_bytes(), 0, size_bytes_) : 0;
    local_error_ = absl::OkStatus();
    if (fd_ < 0) fd_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) return End(absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path_)));
    if (FileSize(path_) != size_bytes_) return End(absl::DataLossError(absl::StrCat(path_, " is not ", size_bytes_, " bytes long")));
    const auto self = std::static_pointer_cast<UploadTransfer>(Self());
    Call* call = new Call(self, client_.io_, [self](const absl::Status& closed) { self->Closed(closed); });
    context_ = &call->context;
    SetStreamDeadline(context_, size_bytes_ - offset_);
    v1::UploadHeader& header = *call->request.mutable_header();
    header.set_sha256(sha256_);
    header.set_size_bytes(size_bytes_);
    header.set_offset(offset_);
    client_.stub_->async()->UploadArtifact(context_, &call->artifact, call);
    answer_ = &call->artifact;
    call->AddHold();  // writes are started from this thread; OnWriteDone lets go
    call->StartWrite(&call->request);
    call->StartCall();
  }

  // False at the end, on a fault of the file, or when nobody wants it any more.
  bool NextChunk(v1::UploadArtifactRequest* request) {
    if (cancelled_ || offset_ >= size_bytes_) return false;
    std::string& chunk = *request->mutable_chunk();
    chunk.resize(static_cast<size_t>(std::min<int64_t>(kChunkBytes, size_bytes_ - offset_)));
    const ssize_t got = pread(fd_, chunk.data(), chunk.size(), offset_);
    if (got <= 0) {
      local_error_ = got < 0 ? absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path_)) : absl::DataLossError(absl::StrCat(path_, " became shorter"));
      return false;
    }
    chunk.resize(static_cast<size_t>(got));
    offset_ += got;
    client_.metrics_->AddUploadBytes(got);
    return true;
  }

  void Closed(const absl::Status& status) {
    context_ = nullptr;
    if (cancelled_) return End(absl::CancelledError());
    if (!local_error_.ok()) return End(local_error_);
    if (status.ok() && answer_->complete()) return Succeed();
    if (absl::IsAlreadyExists(status)) return Retry(status);  // somebody else sent it meanwhile; the next question says so
    if (absl::IsDataLoss(status) && ++damaged_ >= kDamagedTries) return End(status);
    if (IsPermanent(status) && !absl::IsNotFound(status)) return End(status);
    Retry(status.ok() ? absl::UnavailableError("the store took the artifact but not all of it") : status);
  }

  void Succeed() {
    // The next stage on this host starts from the very same file.
    const std::string cached = client_.CachePath(sha256_);
    if (link(path_.c_str(), cached.c_str()) != 0 && errno != EEXIST) spdlog::debug("cannot keep {} in the cache", path_);
    client_.TrimCache(cached);
    End(absl::OkStatus());
  }

  void Report(const absl::Status& status) override {
    client_.metrics_->UploadDone(status.ok(), std::chrono::duration<double>(Clock::now() - started_).count());
    asio::post(client_.owner_, [done = done_, status] { done(status); });
  }

  const UploadDone done_;
  const std::string path_;
  int fd_ = -1;
  int64_t offset_ = 0;
  const v1::Artifact* answer_ = nullptr;
  absl::Status local_error_;
};

ArtifactClient::ArtifactClient(asio::io_context& owner, std::shared_ptr<grpc::Channel> channel, Options options, WorkerMetrics* metrics)
    : owner_(owner),
      options_(std::move(options)),
      metrics_(metrics),
      channel_(std::move(channel)),
      stub_(v1::Artifacts::NewStub(channel_)),
      work_(asio::make_work_guard(*io_)),
      thread_([this] { io_->run(); }) {}

ArtifactClient::~ArtifactClient() {
  asio::post(*io_, [this] {
    closing_ = true;
    for (Lane* lane : {&downloads_, &uploads_}) {
      while (lane->waiting.size() > 1) lane->waiting.pop_back();  // these have not begun
      if (!lane->waiting.empty() && lane->waiting.front()->Cancel()) lane->waiting.clear();
    }
    LeaveIfIdle();
  });
  thread_.join();
}

// A call under way posts here when it ends, so the thread stays until then.
void ArtifactClient::LeaveIfIdle() {
  if (closing_ && downloads_.waiting.empty() && uploads_.waiting.empty()) work_.reset();
}

std::string ArtifactClient::CachePath(const std::string& sha256) const {
  return absl::StrCat(options_.cache_dir, "/", sha256);
}

uint64_t ArtifactClient::Enqueue(Lane& lane, std::shared_ptr<Transfer> transfer) {
  transfer->number = next_number_++;
  transfer->lane = &lane;
  asio::post(*io_, [transfer, &lane] {
    lane.waiting.push_back(transfer);
    if (lane.waiting.size() == 1) transfer->Start();
  });
  return transfer->number;
}

uint64_t ArtifactClient::Fetch(const std::string& sha256, int64_t size_bytes, FetchDone done) {
  return Enqueue(downloads_, std::make_shared<Download>(*this, sha256, size_bytes, std::move(done)));
}

uint64_t ArtifactClient::Upload(const std::string& path, const std::string& sha256, int64_t size_bytes, UploadDone done) {
  return Enqueue(uploads_, std::make_shared<UploadTransfer>(*this, path, sha256, size_bytes, std::move(done)));
}

void ArtifactClient::Cancel(uint64_t number) {
  asio::post(*io_, [this, number] {
    for (Lane* lane : {&downloads_, &uploads_}) {
      const auto found = std::find_if(lane->waiting.begin(), lane->waiting.end(), [number](const auto& transfer) { return transfer->number == number; });
      if (found == lane->waiting.end()) continue;
      const std::shared_ptr<Transfer> transfer = *found;
      if (found != lane->waiting.begin()) {
        lane->waiting.erase(found);
      } else if (transfer->Cancel()) {
        Finished(transfer);
      }
    }
  });
}

void ArtifactClient::Finished(const std::shared_ptr<Transfer>& transfer) {
  Lane& lane = *transfer->lane;
  if (!lane.waiting.empty() && lane.waiting.front() == transfer) lane.waiting.pop_front();
  LeaveIfIdle();
  // From a fresh handler: a chain of transfers that end at once must not nest.
  asio::post(*io_, [&lane, transfer] {
    if (!lane.waiting.empty() && !lane.waiting.front()->started()) lane.waiting.front()->Start();
  });
}

void ArtifactClient::TrimCache(const std::string& keep_path) {
  struct Entry {
    fs::file_time_type used;
    int64_t size;
    fs::path path;
  };
  std::vector<Entry> entries;
  int64_t total = 0;
  std::error_code error;
  for (fs::directory_iterator file(options_.cache_dir, error); !error && file != fs::directory_iterator(); file.increment(error)) {
    std::error_code ignored;
    const int64_t size = static_cast<int64_t>(file->file_size(ignored));
    if (ignored) continue;
    total += size;
    entries.push_back({file->last_write_time(ignored), size, file->path()});
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.used < b.used; });
  for (const Entry& entry : entries) {
    if (total <= options_.cache_bytes) break;
    if (entry.path == keep_path) continue;
    fs::remove(entry.path, error);
    total -= entry.size;
  }
}

}  // namespace bitstair::worker
