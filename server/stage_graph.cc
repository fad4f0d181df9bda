#include "server/stage_graph.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/gate.h"
#include "server/phase_spec.h"

namespace bitstair::server {
namespace {

bool IsQuantized(const v1::StageRecipe& stage) {
  return stage.weight_bits() != 32 || stage.activation_bits() != 32;
}

bool IsWidth(int bits) {
  return (bits >= 1 && bits <= 8) || bits == 16 || bits == 32;
}

bool IsStageName(const std::string& name) {
  return name.size() <= 40 && name != "." && name != ".." && std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
         });
}

class GraphResolver {
 public:
  GraphResolver(v1::JobSpec* spec, std::vector<FieldViolation>* faults) : spec_(*spec), faults_(*faults) {}

  void Run() {
    if (spec_.stages_size() > kMaxStages) return Fault("stages", absl::StrCat("has ", spec_.stages_size(), " entries; at most ", kMaxStages));
    StandsInFor("widths", !spec_.widths().empty());
    StandsInFor("two_stage", spec_.has_two_stage() && spec_.two_stage());
    StandsInFor("order", spec_.order() == v1::STAGE_ORDER_PER_STAGE);
    StandsInFor("pretrain", spec_.has_pretrain());
    StandsInFor("quantized", spec_.has_quantized());
    if (spec_.schedule() == v1::SCHEDULE_SCOPE_CHAIN) Fault("schedule", "is chain, but each of `stages` has a schedule of its own");
    const size_t faults_before = faults_.size();
    for (int i = 0; i < spec_.stages_size(); ++i) ResolveStage(Path(i), spec_.mutable_stages(i));
    if (faults_.size() == faults_before) Parents();
  }

 private:
  void Fault(std::string field, std::string description) { faults_.push_back({std::move(field), std::move(description)}); }
  static std::string Path(int i) { return absl::StrCat("stages[", i, "]"); }
  void StandsInFor(const char* field, bool given) {
    if (given) Fault(field, "and stages exclude each other: stages say it all");
  }

  void ResolveStage(const std::string& path, v1::StageRecipe* stage) {
    if (!stage->has_activation_bits()) stage->set_activation_bits(stage->weight_bits());
    if (stage->weight_bits() == 0) return Fault(path + ".weight_bits", "is required");
    if (!IsWidth(stage->weight_bits())) Fault(path + ".weight_bits", absl::StrCat("is ", stage->weight_bits(), "; must be 1 to 8, 16 or 32"));
    if (!IsWidth(stage->activation_bits())) Fault(path + ".activation_bits", absl::StrCat("is ", stage->activation_bits(), "; must be 1 to 8, 16 or 32"));
    if (stage->name().empty()) stage->set_name(absl::StrCat("W", stage->weight_bits(), "A", stage->activation_bits()));
    if (!IsStageName(stage->name())) Fault(path + ".name", "must be 1 to 40 characters of A-Z, a-z, 0-9, '-', '_' and '.'");
    Schedule(path, stage);
    if (!stage->has_require() && IsQuantized(*stage) && !spec_.require().empty()) stage->set_require(spec_.require());
    if (stage->require() == "none") stage->set_require("");
    if (!stage->require().empty()) {
      const auto gate = ParseGate(stage->require());
      if (!gate.ok()) Fault(path + ".require", std::string(gate.status().message()));
    }
    if (stage->on_gate_failure() == v1::GATE_ACTION_UNSPECIFIED) stage->set_on_gate_failure(spec_.on_gate_failure());
    if (!v1::GateAction_IsValid(stage->on_gate_failure())) Fault(path + ".on_gate_failure", "has no such value");
  }

  // Its own fields are those of a PhaseSpec.
  void Schedule(const std::string& path, v1::StageRecipe* stage) {
    v1::PhaseSpec phase;
    if (stage->has_epochs()) phase.set_epochs(stage->epochs());
    if (stage->has_learning_rate()) phase.set_learning_rate(stage->learning_rate());
    phase.set_learning_rate_schedule(stage->learning_rate_schedule());
    *phase.mutable_step_epochs() = stage->step_epochs();
    if (stage->has_step_gamma()) phase.set_step_gamma(stage->step_gamma());
    ResolvePhase(path, !IsQuantized(*stage) && stage->parent().empty() ? 0.1 : 0.02, &phase, &faults_);
    stage->set_learning_rate(phase.learning_rate());
    stage->set_learning_rate_schedule(phase.learning_rate_schedule());
    if (phase.has_step_gamma()) stage->set_step_gamma(phase.step_gamma());
  }

  void Parents() {
    std::map<std::string, int> index;
    for (int i = 0; i < spec_.stages_size(); ++i) {
      const auto [known, added] = index.emplace(spec_.stages(i).name(), i);
      if (!added) Fault(Path(i) + ".name", absl::StrCat("\"", spec_.stages(i).name(), "\" is the name of ", Path(known->second), ", too"));
    }
    const auto parent_of = [&](int i) {
      const auto found = index.find(spec_.stages(i).parent());
      return found == index.end() ? -1 : found->second;
    };
    for (int i = 0; i < spec_.stages_size(); ++i) {
      const v1::StageRecipe& stage = spec_.stages(i);
      if (stage.parent().empty()) {
        Root(i, stage);
        continue;
      }
      const int parent = parent_of(i);
      if (parent < 0) {
        Fault(Path(i) + ".parent", absl::StrCat("\"", stage.parent().substr(0, 80), "\" is no stage of this recipe"));
        continue;
      }
      const v1::StageRecipe& from = spec_.stages(parent);
      if (stage.weight_bits() > from.weight_bits() || stage.activation_bits() > from.activation_bits()) {
        Fault(Path(i) + ".parent", absl::StrCat("is ", from.name(), " with ", from.weight_bits(), "/", from.activation_bits(), " bits; ", stage.name(),
                                                " with ", stage.weight_bits(), "/", stage.activation_bits(), " must not have more"));
      }
      // Told once, at the first stage of the cycle.
      std::vector<std::string> way{stage.name()};
      int at = parent, first = i;
      for (; at >= 0 && at != i && static_cast<int>(way.size()) <= spec_.stages_size(); at = parent_of(at)) {
        way.push_back(spec_.stages(at).name());
        first = std::min(first, at);
      }
      if (at != i || first != i) continue;
      way.push_back(stage.name());
      std::reverse(way.begin(), way.end());
      Fault(Path(i) + ".parent", absl::StrCat("makes a cycle: ", absl::StrJoin(way, " -> ")));
    }
    Drops(parent_of);
  }

  void Root(int i, const v1::StageRecipe& stage) {
    const bool full = !IsQuantized(stage) || spec_.has_initial_weights();
    if (!full && (spec_.has_guided() || spec_.has_distillation())) {
      Fault(Path(i) + ".parent", absl::StrCat("is required: the full-precision net of ", spec_.has_guided() ? "a guided pair" : "a distillation",
                                              " needs a full-precision stage to start from"));
    }
  }

  template <typename ParentOf>
  void Drops(ParentOf parent_of) {
    for (int i = 0; i < spec_.stages_size(); ++i) {
      const auto gate = ParseGate(spec_.stages(i).require());
      if (!gate.ok() || !IsDrop(*gate)) continue;
      int at = parent_of(i);
      for (int steps = 0; at >= 0 && IsQuantized(spec_.stages(at)) && steps < spec_.stages_size(); ++steps) at = parent_of(at);
      if (at < 0) Fault(Path(i) + ".require", absl::StrCat(gate->metric, " needs a full-precision stage that ", spec_.stages(i).name(), " comes from"));
    }
  }

  v1::JobSpec& spec_;
  std::vector<FieldViolation>& faults_;
};

}  // namespace

void ResolveStages(v1::JobSpec* spec, std::vector<FieldViolation>* faults) {
  GraphResolver(spec, faults).Run();
}

std::vector<int> StagesInOrder(const v1::JobSpec& resolved) {
  std::vector<int> order;
  std::set<std::string> done{""};
  while (static_cast<int>(order.size()) < resolved.stages_size()) {
    const size_t before = order.size();
    for (int i = 0; i < resolved.stages_size(); ++i) {
      const v1::StageRecipe& stage = resolved.stages(i);
      if (done.count(stage.name()) > 0 || done.count(stage.parent()) == 0) continue;
      order.push_back(i);
      done.insert(stage.name());
    }
    if (order.size() == before) break;  // a cycle: not resolved
  }
  return order;
}

bool HasQuantizedStages(const v1::JobSpec& spec) {
  if (!spec.stages().empty()) return std::any_of(spec.stages().begin(), spec.stages().end(), IsQuantized);
  return std::any_of(spec.widths().begin(), spec.widths().end(), [](int bits) { return bits != 32; });
}

}  // namespace bitstair::server
