#include "core/import/pickle.h"

#include <algorithm>
#include <bit>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace bitstair::core {
namespace {

using Kind = PickleValue::Kind;

constexpr size_t kMaxSteps = size_t{1} << 23;  // each pushes at most one index
constexpr size_t kMaxMemo = size_t{1} << 20;
constexpr size_t kMark = ~size_t{0};  // on the stack, in place of a value's index

constexpr const char* kAllowedGlobals[] = {
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch.BFloat16Storage",
    "torch.BoolStorage",
    "torch.ByteStorage",
    "torch.CharStorage",
    "torch.DoubleStorage",
    "torch.FloatStorage",
    "torch.HalfStorage",
    "torch.IntStorage",
    "torch.LongStorage",
    "torch.ShortStorage",
};

// What is wrong is kept and told at the end; every step after it does nothing.
class Unpickler {
 public:
  Unpickler(absl::string_view bytes, size_t offset) : bytes_(bytes), offset_(offset) {}

  absl::StatusOr<Pickle> Run() {
    for (size_t step = 0; status_.ok(); ++step) {
      if (step == kMaxSteps) Fail("the pickle is too long");
      at_ = next_;
      const uint8_t opcode = Byte();
      if (!status_.ok()) break;
      if (opcode == '.') {
        if (stack_.size() != 1 || stack_[0] == kMark) Fail("the pickle ends with other than one value");
        pickle_.root = stack_.empty() ? 0 : stack_[0];
        pickle_.bytes = next_;
        break;
      }
      Step(opcode);
    }
    if (!status_.ok()) return status_;
    return std::move(pickle_);
  }

 private:
  void Fail(const std::string& what) {
    if (status_.ok()) status_ = absl::DataLossError(absl::StrCat("byte ", offset_ + at_, ": ", what));
  }

  absl::string_view Take(uint64_t size) {
    if (size > bytes_.size() - next_) {
      Fail("the pickle is truncated");
      return {};
    }
    next_ += size;
    return bytes_.substr(next_ - size, size);
  }
  uint64_t Unsigned(size_t size) {
    const absl::string_view raw = Take(size);
    uint64_t value = 0;
    for (size_t i = 0; i < raw.size(); ++i) value |= uint64_t{static_cast<uint8_t>(raw[i])} << (8 * i);
    return value;
  }
  uint8_t Byte() { return static_cast<uint8_t>(Unsigned(1)); }
  std::string Line() {
    const size_t end = bytes_.find('\n', next_);
    if (end == absl::string_view::npos || end - next_ > 256) {
      Fail("a name does not end");
      return "";
    }
    const std::string line(bytes_.substr(next_, end - next_));
    next_ = end + 1;
    return line;
  }

  size_t Add(PickleValue value) {
    if (pickle_.values.size() == kMaxPickleValues) Fail("the pickle has too many values");
    if (status_.ok()) pickle_.values.push_back(std::move(value));
    return pickle_.values.empty() ? 0 : pickle_.values.size() - 1;
  }
  void Push(PickleValue value) { stack_.push_back(Add(std::move(value))); }
  void PushText(uint64_t size) { Push({.kind = Kind::kString, .text = std::string(Take(size))}); }

  // The index on top of the stack, taken off.
  size_t Pop() {
    if (stack_.empty() || stack_.back() == kMark) {
      Fail("a value is missing on the stack");
      return 0;
    }
    const size_t top = stack_.back();
    stack_.pop_back();
    return top;
  }
  // Everything above the last mark, and the mark, taken off.
  std::vector<size_t> PopToMark() {
    const auto mark = std::find(stack_.rbegin(), stack_.rend(), kMark);
    if (mark == stack_.rend()) {
      Fail("a mark is missing on the stack");
      return {};
    }
    std::vector<size_t> items(mark.base(), stack_.end());
    stack_.erase(mark.base() - 1, stack_.end());
    return items;
  }
  // The value on top, which must be of this kind. Null after a fault.
  PickleValue* Top(Kind kind, const char* what) {
    if (status_.ok() && !stack_.empty() && stack_.back() != kMark && pickle_.values[stack_.back()].kind == kind) return &pickle_.values[stack_.back()];
    Fail(absl::StrCat("there is no ", what, " to add to"));
    return nullptr;
  }

  void Tuple(size_t size) {
    PickleValue tuple{.kind = Kind::kTuple};
    for (size_t i = 0; i < size; ++i) tuple.items.push_back(Pop());
    std::reverse(tuple.items.begin(), tuple.items.end());
    Push(std::move(tuple));
  }
  void Extend(Kind kind, const char* what, const std::vector<size_t>& items) {
    if (kind == Kind::kDict && items.size() % 2 != 0) Fail("a key has no value");
    PickleValue* const to = Top(kind, what);
    if (to != nullptr) to->items.insert(to->items.end(), items.begin(), items.end());
  }

  void Remember(uint64_t key) {
    if (stack_.empty() || stack_.back() == kMark) return Fail("there is nothing to remember");
    if (memo_.size() >= kMaxMemo) return Fail("the pickle remembers too many values");
    memo_[key] = stack_.back();
  }
  void Recall(uint64_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) return Fail(absl::StrCat("value ", key, " was never remembered"));
    stack_.push_back(found->second);
  }

  void Integer(uint64_t size) {
    const absl::string_view raw = Take(size);
    PickleValue value{.kind = Kind::kInteger};
    if (raw.size() > 8) {
      value.text = std::string(raw);
    } else if (!raw.empty()) {
      uint64_t bits = (static_cast<uint8_t>(raw.back()) & 0x80) != 0 ? ~uint64_t{0} : 0;
      for (size_t i = raw.size(); i-- > 0;) bits = bits << 8 | static_cast<uint8_t>(raw[i]);
      value.integer = static_cast<int64_t>(bits);
    }
    Push(std::move(value));
  }

  void Global(const std::string& name) {
    if (!status_.ok()) return;
    if (std::find(std::begin(kAllowedGlobals), std::end(kAllowedGlobals), name) == std::end(kAllowedGlobals)) {
      status_ = absl::PermissionDeniedError(absl::StrCat("byte ", offset_ + at_, ": the pickle asks for ", absl::CHexEscape(name),
                                                         ", which is no part of tensors in dicts; nothing else is read"));
      return;
    }
    Push({.kind = Kind::kGlobal, .text = name});
  }
  void StackGlobal() {
    const size_t name = Pop(), module = Pop();
    if (!status_.ok()) return;
    Global(absl::StrCat(pickle_.at(module).text, ".", pickle_.at(name).text));
  }

  void Reduce() {
    const size_t arguments = Pop(), callee = Pop();
    if (!status_.ok()) return;
    if (pickle_.at(callee).kind != Kind::kGlobal || pickle_.at(arguments).kind != Kind::kTuple) return Fail("something other than a known global is called");
    if (pickle_.at(callee).text != "collections.OrderedDict") return Push({.kind = Kind::kCall, .items = {callee, arguments}});
    // Old files give its items as one list of pairs.
    PickleValue dict{.kind = Kind::kDict};
    const std::vector<size_t>& given = pickle_.at(arguments).items;
    if (given.size() > 1 || (!given.empty() && pickle_.at(given[0]).kind != Kind::kList)) return Fail("an OrderedDict of other than pairs");
    copied_ += given.empty() ? 0 : pickle_.at(given[0]).items.size();
    if (copied_ > kMaxPickleValues) return Fail("the pickle has too many values");
    for (const size_t pair : given.empty() ? std::vector<size_t>() : pickle_.at(given[0]).items) {
      const std::vector<size_t>& parts = pickle_.at(pair).items;
      const bool is_pair = pickle_.at(pair).kind == Kind::kTuple || pickle_.at(pair).kind == Kind::kList;
      if (!is_pair || parts.size() != 2) return Fail("an OrderedDict of other than pairs");
      dict.items.insert(dict.items.end(), parts.begin(), parts.end());
    }
    Push(std::move(dict));
  }

  // A state_dict carries its modules' versions as an attribute, which is of no use here.
  void Build() {
    Pop();
    Top(Kind::kDict, "dict");
  }

  void Pair() {
    const size_t value = Pop(), key = Pop();
    Extend(Kind::kDict, "dict", {key, value});
  }

  void Step(uint8_t opcode) {
    switch (opcode) {
      case 0x80:  // PROTO
        if (const uint8_t protocol = Byte(); protocol < 2 || protocol > 5) Fail(absl::StrCat("pickle protocol ", protocol, " is none of 2 to 5"));
        return;
      case 0x95:  // FRAME
        Take(8);
        return;
      case '(':
        return stack_.push_back(kMark);
      case '0':
        if (!stack_.empty() && stack_.back() == kMark) return stack_.pop_back();
        Pop();
        return;
      case '1':
        PopToMark();
        return;
      case '2':
        if (stack_.empty() || stack_.back() == kMark) return Fail("there is nothing to copy");
        return stack_.push_back(stack_.back());
      case 'N':
        return Push({});
      case 0x88:
      case 0x89:
        return Push({.kind = Kind::kBoolean, .integer = opcode == 0x88 ? 1 : 0});
      case 'K':
        return Push({.kind = Kind::kInteger, .integer = Byte()});
      case 'M':
        return Push({.kind = Kind::kInteger, .integer = static_cast<int64_t>(Unsigned(2))});
      case 'J':
        return Push({.kind = Kind::kInteger, .integer = static_cast<int32_t>(Unsigned(4))});
      case 0x8a:  // LONG1
        return Integer(Byte());
      case 'G': {  // BINFLOAT, big endian
        uint64_t bits = 0;
        for (const char c : Take(8)) bits = bits << 8 | static_cast<uint8_t>(c);
        return Push({.kind = Kind::kReal, .real = std::bit_cast<double>(bits)});
      }
      case 0x8c:  // SHORT_BINUNICODE
      case 'U':   // SHORT_BINSTRING
      case 'C':   // SHORT_BINBYTES
        return PushText(Byte());
      case 'X':  // BINUNICODE
      case 'T':  // BINSTRING
      case 'B':  // BINBYTES
        return PushText(Unsigned(4));
      case ')':
        return Tuple(0);
      case 0x85:
      case 0x86:
      case 0x87:
        return Tuple(opcode - 0x84);
      case 't':
        return Push({.kind = Kind::kTuple, .items = PopToMark()});
      case ']':
        return Push({.kind = Kind::kList});
      case 'l':
        return Push({.kind = Kind::kList, .items = PopToMark()});
      case 'a':
        return Extend(Kind::kList, "list", {Pop()});
      case 'e':
        return Extend(Kind::kList, "list", PopToMark());
      case '}':
        return Push({.kind = Kind::kDict});
      case 's':
        return Pair();
      case 'u':
        return Extend(Kind::kDict, "dict", PopToMark());
      case 'q':
        return Remember(Byte());
      case 'r':
        return Remember(Unsigned(4));
      case 0x94:
        return Remember(memo_.size());
      case 'h':
        return Recall(Byte());
      case 'j':
        return Recall(Unsigned(4));
      case 'c': {
        const std::string module = Line();
        return Global(absl::StrCat(module, ".", Line()));
      }
      case 0x93:
        return StackGlobal();
      case 'Q':
        return Push({.kind = Kind::kPersistent, .items = {Pop()}});
      case 'R':
        return Reduce();
      case 'b':
        return Build();
      default:
        return Fail(absl::StrCat("pickle opcode ", opcode, " is no part of tensors in dicts"));
    }
  }

  const absl::string_view bytes_;
  const size_t offset_;
  size_t at_ = 0;    // of the step under way
  size_t next_ = 0;  // byte
  std::vector<size_t> stack_;
  std::map<uint64_t, size_t> memo_;
  size_t copied_ = 0;  // items of dicts made from lists, which no step of their own pays for
  Pickle pickle_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<Pickle> ReadPickle(absl::string_view bytes, size_t offset) {
  return Unpickler(bytes, offset).Run();
}

}  // namespace bitstair::core
