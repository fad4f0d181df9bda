#include "client/json.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/timestamp.pb.h>
#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "client/client.h"

namespace bitstair::client {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::util::TimeUtil;

Json Number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

Json AnyJson(const google::protobuf::Value& value) {
  switch (value.kind_case()) {
    case google::protobuf::Value::kNumberValue:
      return value.number_value() == std::floor(value.number_value()) && std::abs(value.number_value()) < 1e15
                 ? Json(static_cast<int64_t>(value.number_value()))
                 : Number(value.number_value());
    case google::protobuf::Value::kStringValue:
      return value.string_value();
    case google::protobuf::Value::kBoolValue:
      return value.bool_value();
    case google::protobuf::Value::kListValue: {
      Json list = Json::array();
      for (const auto& item : value.list_value().values()) list.push_back(AnyJson(item));
      return list;
    }
    case google::protobuf::Value::kStructValue: {
      std::map<std::string, Json> sorted;
      for (const auto& [key, item] : value.struct_value().fields()) sorted[key] = AnyJson(item);
      return sorted.empty() ? Json::object() : Json(sorted);
    }
    default:
      return nullptr;
  }
}

// One value; index < 0: of a field that is not repeated.
Json ValueJson(const Message& message, const FieldDescriptor& field, int index, EnumWords words) {
  const auto& r = *message.GetReflection();
  const bool one = index < 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return one ? r.GetString(message, &field) : r.GetRepeatedString(message, &field, index);
    case FieldDescriptor::CPPTYPE_BOOL:
      return one ? r.GetBool(message, &field) : r.GetRepeatedBool(message, &field, index);
    case FieldDescriptor::CPPTYPE_INT32:
      return one ? r.GetInt32(message, &field) : r.GetRepeatedInt32(message, &field, index);
    case FieldDescriptor::CPPTYPE_INT64:
      return one ? r.GetInt64(message, &field) : r.GetRepeatedInt64(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT32:
      return one ? r.GetUInt32(message, &field) : r.GetRepeatedUInt32(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return one ? r.GetUInt64(message, &field) : r.GetRepeatedUInt64(message, &field, index);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Number(one ? r.GetDouble(message, &field) : r.GetRepeatedDouble(message, &field, index));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Number(one ? r.GetFloat(message, &field) : r.GetRepeatedFloat(message, &field, index));
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumWord(one ? *r.GetEnum(message, &field) : *r.GetRepeatedEnum(message, &field, index), words);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(one ? r.GetMessage(message, &field) : r.GetRepeatedMessage(message, &field, index), words);
  }
  return nullptr;
}

std::optional<double> LastTop1(const v1::Stage& stage) {
  if (stage.epochs().empty()) return std::nullopt;
  return stage.epochs(stage.epochs_size() - 1).test_top1();
}

}  // namespace

std::string EnumWord(const google::protobuf::EnumValueDescriptor& value, EnumWords words) {
  const std::string prefix(absl::StripSuffix(value.type()->value(0)->name(), "UNSPECIFIED"));
  const std::string word(absl::StripPrefix(value.name(), prefix));
  return words == EnumWords::kRecipe ? absl::AsciiStrToLower(word) : word;
}

std::string StateWord(v1::JobState state) {
  const auto* value = v1::JobState_descriptor()->FindValueByNumber(state);
  return value == nullptr ? std::to_string(state) : EnumWord(*value);
}

std::string StateWord(v1::StageState state) {
  const auto* value = v1::StageState_descriptor()->FindValueByNumber(state);
  return value == nullptr ? std::to_string(state) : EnumWord(*value);
}

std::string ShortTime(const google::protobuf::Timestamp& time) {
  return TimeUtil::ToString(time).substr(0, sizeof("2026-01-02T03:04:05") - 1);
}

Json ToJson(const Message& message, EnumWords words) {
  if (message.GetDescriptor() == google::protobuf::Timestamp::descriptor()) {
    return TimeUtil::ToString(static_cast<const google::protobuf::Timestamp&>(message));
  }
  if (message.GetDescriptor() == google::protobuf::Duration::descriptor()) {
    return TimeUtil::ToString(static_cast<const google::protobuf::Duration&>(message));
  }
  if (message.GetDescriptor() == google::protobuf::ListValue::descriptor()) {
    google::protobuf::Value value;
    *value.mutable_list_value() = static_cast<const google::protobuf::ListValue&>(message);
    return AnyJson(value);
  }
  Json result = Json::object();
  const auto& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    if (field.is_map()) {
      std::map<std::string, Json> sorted;  // keys are strings
      for (int j = 0; j < reflection.FieldSize(message, &field); ++j) {
        const Message& entry = reflection.GetRepeatedMessage(message, &field, j);
        sorted[entry.GetReflection()->GetString(entry, field.message_type()->map_key())] = ValueJson(entry, *field.message_type()->map_value(), -1, words);
      }
      if (!sorted.empty()) result[field.name()] = sorted;
    } else if (field.is_repeated()) {
      Json list = Json::array();
      for (int j = 0; j < reflection.FieldSize(message, &field); ++j) list.push_back(ValueJson(message, field, j, words));
      if (!list.empty()) result[field.name()] = std::move(list);
    } else if (!field.has_presence() || reflection.HasField(message, &field)) {
      result[field.name()] = ValueJson(message, field, -1, words);
    }
  }
  return result;
}

Shared CountShared(const v1::Job& job) {
  Shared shared;
  for (const v1::Stage& stage : job.stages()) {
    if (stage.sharing() != v1::STAGE_SHARING_JOINED && stage.sharing() != v1::STAGE_SHARING_REUSED) continue;
    ++shared.stages;
    shared.slot_seconds += stage.seconds() * std::max({1, stage.spec().ranks(), stage.placement_size()});
  }
  return shared;
}

std::optional<double> FullPrecisionTop1(const v1::Job& job, const v1::Stage& stage) {
  const v1::Stage* at = &stage;
  for (int steps = 0; at != nullptr && steps <= job.stages_size(); ++steps) {
    if (at->spec().weight_bits() == 32 && at->spec().activation_bits() == 32) return LastTop1(*at);
    const auto parent =
        std::find_if(job.stages().begin(), job.stages().end(), [&](const v1::Stage& other) { return other.spec().name() == at->spec().parent(); });
    at = parent == job.stages().end() ? nullptr : &*parent;
  }
  return std::nullopt;
}

Json JobJson(const v1::Job& job, bool details) {
  Json result;
  result["job"] = ShortName(job.name());
  result["name"] = job.spec().name();
  result["state"] = StateWord(job.state());
  result["reason"] = job.reason();
  result["create_time"] = ToJson(job.create_time());
  result["end_time"] = job.has_end_time() ? ToJson(job.end_time()) : Json(nullptr);
  double seconds = 0;
  for (const v1::Stage& stage : job.stages()) seconds += stage.seconds();
  if (job.has_expected_end_time()) result["expected_end_time"] = ToJson(job.expected_end_time());
  result["pinned"] = job.pinned();
  result["seconds"] = seconds;
  result["slot_seconds_saved"] = CountShared(job).slot_seconds;
  if (details) result["spec"] = ToJson(job.spec(), EnumWords::kRecipe);
  result["stages"] = Json::array();
  for (const v1::Stage& stage : job.stages()) {
    const bool measured = !stage.epochs().empty();
    const v1::EpochResult last = measured ? stage.epochs(stage.epochs_size() - 1) : v1::EpochResult();
    const std::optional<double> full_precision = FullPrecisionTop1(job, stage);
    Json out;
    out["name"] = ShortName(stage.name());
    out["parent"] = stage.spec().parent();
    out["weight_bits"] = stage.spec().weight_bits();
    out["activation_bits"] = stage.spec().activation_bits();
    out["state"] = StateWord(stage.state());
    out["reason"] = stage.reason();
    out["epochs"] = stage.spec().epochs();
    out["epochs_done"] = stage.epochs_size();
    out["top1"] = measured ? Number(last.test_top1()) : Json(nullptr);
    out["top5"] = measured ? Number(last.test_top5()) : Json(nullptr);
    out["drop"] = measured && full_precision ? Number(std::round((*full_precision - last.test_top1()) * 1e4) / 1e4) : Json(nullptr);
    if (last.has_teacher()) {
      out["teacher_top1"] = Number(last.teacher().test_top1());
      if (stage.spec().has_distillation()) {
        out["divergence"] = Number(last.teacher().divergence());
      } else {
        out["hint"] = Number(last.teacher().hint());
      }
    }
    for (const v1::StudentResult& student : last.students()) out["students"].push_back({{"name", student.name()}, {"top1", Number(student.test_top1())}});
    out["loss"] = measured ? Number(last.train_loss()) : Json(nullptr);
    out["images_per_second"] = measured ? Number(last.images_per_second()) : Json(nullptr);
    double data_wait_seconds = 0;
    int64_t skipped_images = 0;
    for (const v1::EpochResult& epoch : stage.epochs()) {
      data_wait_seconds += epoch.data_wait_seconds();
      skipped_images += epoch.skipped_images();
    }
    out["seconds"] = Number(stage.seconds());
    out["data_wait_seconds"] = Number(data_wait_seconds);
    out["skipped_images"] = skipped_images;
    out["checkpoint_sha256"] = stage.checkpoint().sha256();
    out["key"] = stage.key();
    out["sharing"] = absl::AsciiStrToLower(absl::StripPrefix(v1::StageSharing_Name(stage.sharing()), "STAGE_SHARING_"));
    if (!stage.shared_with().empty()) out["shared_with"] = stage.shared_with();
    if (!stage.gate().empty()) out["gate"] = stage.gate();
    if (stage.memory_bytes() > 0) out["memory_bytes"] = stage.memory_bytes();
    if (stage.has_expected_start_time()) out["expected_start_time"] = ToJson(stage.expected_start_time());
    if (stage.has_expected_end_time()) out["expected_end_time"] = ToJson(stage.expected_end_time());
    out["attempts"] = stage.attempts();
    out["generation"] = stage.generation();
    out["resumed_epoch"] = stage.resumed_epoch();
    out["resumed_step"] = stage.resumed_step();
    out["bit_exact"] = stage.bit_exact();
    out["placement"] = Json::array();
    for (const v1::RankPlacement& rank : stage.placement()) {
      out["placement"].push_back({{"rank", rank.rank()}, {"worker", ShortName(rank.worker())}, {"pid", rank.pid()}});
    }
    if (details) {
      if (stage.has_progress()) out["progress"] = ToJson(stage.progress());
      out["results"] = Json::array();
      for (const v1::EpochResult& epoch : stage.epochs()) out["results"].push_back(ToJson(epoch));
    }
    result["stages"].push_back(std::move(out));
  }
  return result;
}

}  // namespace bitstair::client
