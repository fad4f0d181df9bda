#include "server/stage_key.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "core/digest/sha256.h"
#include "core/version/numerics_version.h"

namespace bitstair::server {
namespace {

void AppendString(const std::string& text, std::string* out) {
  out->push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        out->append("\\\"");
        break;
      case '\\':
        out->append("\\\\");
        break;
      case '\b':
        out->append("\\b");
        break;
      case '\f':
        out->append("\\f");
        break;
      case '\n':
        out->append("\\n");
        break;
      case '\r':
        out->append("\\r");
        break;
      case '\t':
        out->append("\\t");
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          absl::StrAppendFormat(out, "\\u%04x", static_cast<int>(c));
        } else {
          out->push_back(c);
        }
    }
  }
  out->push_back('"');
}

// UTF-16 code units of valid UTF-8: the order that RFC 8785 sorts keys by.
std::u16string Utf16(const std::string& text) {
  std::u16string units;
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const int length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    char32_t point = length == 1 ? lead : lead & (0xff >> (length + 1));
    for (int k = 1; k < length && i + k < text.size(); ++k) point = (point << 6) | (static_cast<unsigned char>(text[i + k]) & 0x3f);
    i += length;
    if (point >= 0x10000) {
      units.push_back(static_cast<char16_t>(0xd800 + ((point - 0x10000) >> 10)));
      units.push_back(static_cast<char16_t>(0xdc00 + ((point - 0x10000) & 0x3ff)));
    } else {
      units.push_back(static_cast<char16_t>(point));
    }
  }
  return units;
}

void Append(const nlohmann::json& value, std::string* out) {
  if (value.is_object()) {
    std::vector<std::pair<std::u16string, std::string>> keys;
    for (const auto& item : value.items()) keys.emplace_back(Utf16(item.key()), item.key());
    std::sort(keys.begin(), keys.end());
    out->push_back('{');
    for (size_t i = 0; i < keys.size(); ++i) {
      if (i > 0) out->push_back(',');
      AppendString(keys[i].second, out);
      out->push_back(':');
      Append(value.at(keys[i].second), out);
    }
    out->push_back('}');
  } else if (value.is_array()) {
    out->push_back('[');
    for (size_t i = 0; i < value.size(); ++i) {
      if (i > 0) out->push_back(',');
      Append(value[i], out);
    }
    out->push_back(']');
  } else if (value.is_string()) {
    AppendString(value.get_ref<const std::string&>(), out);
  } else if (value.is_number()) {
    out->append(EcmaScriptNumber(value.get<double>()));
  } else if (value.is_boolean()) {
    out->append(value.get<bool>() ? "true" : "false");
  } else {
    out->append("null");
  }
}

// "PREFIX_KIND_VALUE" -> "value", the same word that a recipe uses.
std::string Word(const std::string& enum_name, const std::string& prefix) {
  return absl::AsciiStrToLower(absl::StripPrefix(enum_name, prefix));
}

}  // namespace

std::string EcmaScriptNumber(double value) {
  if (value == 0) return "0";
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), std::abs(value), std::chars_format::scientific).ptr;
  const std::string text(buffer, end);  // d.ddde+xx, the shortest that reads back as value
  const size_t e = text.find('e');
  std::string digits = text.substr(0, 1) + (e > 2 ? text.substr(2, e - 2) : "");
  const int count = static_cast<int>(digits.size());
  const int point = std::atoi(text.c_str() + e + 1) + 1;  // "n" of ECMA-262: value = 0.digits * 10^point
  const std::string sign = value < 0 ? "-" : "";
  if (count <= point && point <= 21) return sign + digits + std::string(point - count, '0');
  if (0 < point && point <= 21) return sign + digits.substr(0, point) + "." + digits.substr(point);
  if (-6 < point && point <= 0) return sign + "0." + std::string(-point, '0') + digits;
  if (count > 1) digits.insert(1, ".");
  return absl::StrCat(sign, digits, point > 0 ? "e+" : "e-", std::abs(point - 1));
}

std::string CanonicalJson(const nlohmann::json& value) {
  std::string out;
  Append(value, &out);
  return out;
}

std::string StageKeyDocument(const v1::StageSpec& stage, const std::string& parent_key) {
  nlohmann::json document = {
      {"numerics_version", core::kNumericsVersion},
      {"network", stage.network()},
      {"weight_bits", stage.weight_bits()},
      {"activation_bits", stage.activation_bits()},
      {"activation", Word(v1::ActivationFunction_Name(stage.activation()), "ACTIVATION_FUNCTION_")},
      {"numerics", Word(v1::Numerics_Name(stage.numerics()), "NUMERICS_")},
      {"seed", absl::StrCat(stage.seed())},
      {"epochs", stage.epochs()},
      {"momentum", stage.momentum()},
      {"nesterov", stage.nesterov()},
      {"weight_decay", stage.weight_decay()},
      {"decay_batch_norm", stage.decay_batch_norm()},
  };
  // With fixed shards the number of ranks changes no bit.
  if (stage.reduction() == v1::REDUCTION_FIXED_SHARDS) {
    document["shards"] = stage.shards();
    document["images_per_shard"] = stage.shards() > 0 ? stage.batch_size() / stage.shards() : 0;
  } else {
    document["ranks"] = stage.ranks();
    document["images_per_rank"] = stage.ranks() > 0 ? stage.batch_size() / stage.ranks() : 0;
  }
  nlohmann::json& data = document["data"];
  data["sha256"] = stage.data_digest();
  data["augmentation"] = Word(v1::Augmentation_Name(stage.data().augmentation()), "AUGMENTATION_");
  if (stage.data().unreadable_images() == v1::UNREADABLE_IMAGES_SKIP) data["unreadable_images"] = "skip";
  if (stage.data().train_limit() > 0) data["train_limit"] = stage.data().train_limit();
  if (stage.data().held_back() > 0) data["held_back"] = stage.data().held_back();
  if (stage.data().test_limit() > 0) data["test_limit"] = stage.data().test_limit();

  nlohmann::json& schedule = document["schedule"];
  schedule["kind"] = Word(v1::LearningRateSchedule_Name(stage.learning_rate_schedule()), "LEARNING_RATE_SCHEDULE_");
  schedule["learning_rate"] = stage.learning_rate();
  schedule["epochs"] = stage.schedule_epochs();
  schedule["offset"] = stage.schedule_offset();
  if (stage.learning_rate_schedule() == v1::LEARNING_RATE_SCHEDULE_STEP) {
    schedule["gamma"] = stage.step_gamma();
    schedule["step_epochs"] = std::vector<int>(stage.step_epochs().begin(), stage.step_epochs().end());
  }
  if (stage.carry_momentum()) document["carry_momentum"] = true;
  if (!parent_key.empty()) document["parents"] = {parent_key};
  // Which names may be missing decides whether the stage starts, not from what.
  if (stage.has_initial_weights()) document["initial_weights"] = stage.initial_weights_digest();
  if (stage.calibration() == v1::ACTIVATION_CALIBRATION_PERCENTILE) document["calibration_percentile"] = stage.calibration_percentile();
  const bool weights = stage.weight_bits() < 32, activations = stage.activation_bits() < 32;
  if (weights || activations) document["quantizer"] = stage.quantizer();
  if (stage.has_batch_norm_learning_rate_factor()) document["batch_norm_learning_rate_factor"] = stage.batch_norm_learning_rate_factor();
  if (weights && stage.detach_weight_max()) document["detach_weight_max"] = true;
  if ((activations || stage.activation() == v1::ACTIVATION_FUNCTION_CLIP) && stage.quantize_last_activation()) document["quantize_last_activation"] = true;
  if (weights && stage.quantize_first_last()) document["quantize_first_last"] = true;
  if (activations && stage.shortcut_values() == v1::SHORTCUT_VALUES_FLOAT) document["shortcut_values"] = "float";
  if (weights && stage.shortcut_conv_bits() != 0) document["shortcut_conv_bits"] = stage.shortcut_conv_bits();
  if (weights && stage.weight_norm() == v1::WEIGHT_NORM_STD) document["weight_norm"] = "std";
  if (weights || activations) {
    for (const auto& [pattern, bits] : stage.layer_widths()) document["layer_widths"][pattern] = bits;
  }
  if (stage.has_guided()) {
    nlohmann::json& guided = document["guided"];
    guided["lambda"] = stage.guided().lambda();
    guided["teacher"] = Word(v1::TeacherStart_Name(stage.guided().teacher()), "TEACHER_START_");
    guided["teacher_learning_rate_factor"] = stage.guided().teacher_learning_rate_factor();
    // Sorted: the trainer goes through them in the network's order, whatever the recipe's.
    std::vector<std::string> points(stage.guided().hint_points().begin(), stage.guided().hint_points().end());
    std::sort(points.begin(), points.end());
    if (!points.empty()) guided["hint_points"] = points;
    if (stage.guided().has_temperature()) guided["temperature"] = stage.guided().temperature();
  }
  if (stage.has_stochastic_precision()) {
    document["stochastic_precision"] = {{"start_share", stage.stochastic_precision().start_share()},
                                        {"full_share_at", stage.stochastic_precision().full_share_at()}};
  }
  if (stage.has_distillation()) {
    nlohmann::json& distillation = document["distillation"];
    distillation["temperature"] = stage.distillation().temperature();
    distillation["student_weight"] = stage.distillation().student_weight();
    distillation["teacher_weight"] = stage.distillation().teacher_weight();
    distillation["teacher"] = Word(v1::TeacherStart_Name(stage.distillation().teacher()), "TEACHER_START_");
    distillation["teacher_learning_rate_factor"] = stage.distillation().teacher_learning_rate_factor();
    // In the recipe's order: their names in checkpoints follow it.
    if (stage.distillation().students_size() > 0) {
      distillation["students"] = std::vector<int>(stage.distillation().students().begin(), stage.distillation().students().end());
    }
  }
  return CanonicalJson(document);
}

std::string SaltedKey(const std::string& key, const std::string& salt) {
  return salt.empty() ? key : core::Sha256Hex(absl::StrCat("bitstair-salt-v1\n", key, "\n", salt));
}

std::string StageKey(const v1::StageSpec& stage, const std::string& parent_key) {
  return core::Sha256Hex(absl::StrCat("bitstair-stage-v1\n", StageKeyDocument(stage, parent_key)));
}

}  // namespace bitstair::server
