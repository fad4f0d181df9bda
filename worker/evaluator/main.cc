// bitstair-evaluator: accuracy of a file of weights. `bitstair evaluate` becomes this program.
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <cstdio>
#include <exception>
#include <string>

#include <CLI/CLI.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/completion.h"
#include "client/dump.h"
#include "core/version/version.h"
#include "worker/evaluator/evaluation.h"

namespace {

namespace core = bitstair::core;
using bitstair::evaluator::EvaluationReport;
using bitstair::evaluator::EvaluationRequest;

constexpr char kExamples[] = R"(
Examples:
  bitstair evaluate --network resnet20 --weights resnet20.th --data ~/data/cifar10 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
  bitstair evaluate --weights W4A4.safetensors --data fashion_mnist --output json | jq .top1

Exit status: 0 done, 1 it failed, 2 wrong usage or a file that does not fit.
)";

struct Flags {
  EvaluationRequest request;
  std::string split = "test", weight_norm = "max", shortcut_values = "codes", output = "table";
  std::vector<std::string> layer_widths;
  int threads = 0;
};

void AddOptions(CLI::App& app, Flags& flags) {
  EvaluationRequest& request = flags.request;
  core::NetworkConfig& network = request.network;
  network.weight_bits = network.activation_bits = 0;
  app.add_option("--weights", request.weights, "safetensors, or a state dict of torch.save")->type_name("FILE")->required();
  app.add_option("--data", request.data, "Folder of a data set; NAME=PATH as for `bitstair run`; or a name that needs no path: fashion_mnist")
      ->type_name("PATH|NAME=PATH|NAME")
      ->required();
  app.add_option("--network", network.network, "As in a recipe. Default: what a checkpoint of bitstair's says")->type_name("NAME");
  app.add_option("--mean", request.mean, "Of pixels in [0, 1], per channel. Default: the data set's own")->delimiter(',')->type_name("R,G,B");
  app.add_option("--std", request.std, "Likewise")->delimiter(',')->type_name("R,G,B");
  app.add_option("--split", flags.split, "Which images")->capture_default_str()->check(CLI::IsMember({"test", "train"}));
  app.add_option("--limit", request.limit, "Only the first so many images; 0: all")->capture_default_str()->check(CLI::NonNegativeNumber);
  app.add_flag("--allow-missing", request.allow_missing, "Tensors that the file lacks keep their initial values");
  app.add_flag("--allow-unexpected", request.allow_unexpected, "Tensors that the network lacks are passed over");
  app.add_option("--weight-bits", network.weight_bits, "Default: what a checkpoint of bitstair's says, else 32")->type_name("K");
  app.add_option("--activation-bits", network.activation_bits, "Likewise")->type_name("K");
  app.add_option("--activation", request.activation, "Default: clip where weights or activations have few bits, else relu")
      ->check(CLI::IsMember({"relu", "clip"}));
  app.add_option("--quantizer", network.quantizer, "As in the recipe that trained it")->capture_default_str();
  app.add_option("--weight-norm", flags.weight_norm, "Likewise")->capture_default_str()->check(CLI::IsMember({"max", "std"}));
  app.add_option("--shortcut-values", flags.shortcut_values, "Likewise")->capture_default_str()->check(CLI::IsMember({"codes", "float"}));
  app.add_option("--shortcut-conv-bits", network.shortcut_conv_bits, "Likewise; 0: the weights' width")->capture_default_str();
  app.add_option("--layer-width", flags.layer_widths, "Likewise, one entry of layer_widths; can be repeated")
      ->type_name("PATTERN=K")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_flag("--quantize-last-activation", network.quantize_last_activation, "Likewise");
  app.add_flag("--quantize-first-last", network.quantize_first_last, "Likewise");
  app.add_option("--numerics", request.numerics, "How the network computes. Default: fast where weights or activations have few bits, else reference")
      ->check(CLI::IsMember({"fast", "reference", "float64"}));
  app.add_option("--threads", flags.threads, "Default: one per core")->check(CLI::Range(1, 1024))->type_name("N");
  app.add_option("--logits", request.logits_file, "Write all images' logits there too, as a safetensors file")->type_name("FILE");
  app.add_option("-o,--output", flags.output, "Format of what goes to stdout")->capture_default_str()->check(CLI::IsMember({"table", "json", "yaml"}));
}

// The words of the command line, as the core takes them. A layer width that cannot be read is INVALID_ARGUMENT.
absl::Status Translate(Flags& flags) {
  core::NetworkConfig& network = flags.request.network;
  flags.request.train_images = flags.split == "train";
  network.weight_norm = flags.weight_norm == "std" ? core::WeightNorm::kStd : core::WeightNorm::kMax;
  network.shortcut_values = flags.shortcut_values == "float" ? core::ShortcutValues::kFloat : core::ShortcutValues::kCodes;
  for (const std::string& entry : flags.layer_widths) {
    const size_t equals = entry.find('=');
    int bits = 0;
    if (equals == std::string::npos || !absl::SimpleAtoi(entry.substr(equals + 1), &bits)) {
      return absl::InvalidArgumentError(absl::StrCat("--layer-width ", entry, ": write PATTERN=WIDTH"));
    }
    network.layer_widths[entry.substr(0, equals)] = bits;
  }
  return absl::OkStatus();
}

void Print(const Flags& flags, const EvaluationReport& report) {
  const auto percent = [&](int64_t hits) { return report.sums.images > 0 ? 100.0 * static_cast<double>(hits) / static_cast<double>(report.sums.images) : 0.0; };
  if (flags.output == "table") {
    std::printf("%s W%dA%d on %s, %s images: top-1 %.2f %%, top-5 %.2f %% of %lld images\n", report.network.network.c_str(), report.network.weight_bits,
                report.network.activation_bits, report.data.c_str(), flags.split.c_str(), percent(report.sums.top1), percent(report.sums.top5),
                static_cast<long long>(report.sums.images));
    return;
  }
  const bitstair::client::Json result = {{"network", report.network.network},
                                         {"weights", flags.request.weights},
                                         {"data", report.data},
                                         {"numerics", report.network.dtype == c10::ScalarType::Double    ? "float64"
                                                      : report.network.numerics == core::Numerics::kFast ? "fast"
                                                                                                         : "reference"},
                                         {"weight_bits", report.network.weight_bits},
                                         {"activation_bits", report.network.activation_bits},
                                         {"images", report.sums.images},
                                         {"skipped_images", report.sums.skipped},
                                         {"top1", percent(report.sums.top1)},
                                         {"top5", percent(report.sums.top5)},
                                         {"loss", report.sums.images > 0 ? report.sums.loss / static_cast<double>(report.sums.images) : 0.0},
                                         {"missing", report.missing},
                                         {"unexpected", report.unexpected}};
  std::fputs(bitstair::client::Dump(result, flags.output).c_str(), stdout);
}

int Run(Flags& flags) {
  absl::Status status = Translate(flags);
  absl::StatusOr<EvaluationReport> report = EvaluationReport{};
  if (!status.ok()) report = status;
  if (flags.threads > 0) at::set_num_threads(flags.threads);
  try {
    if (status.ok()) report = bitstair::evaluator::Evaluate(flags.request);
  } catch (const c10::Error& error) {
    report = absl::InternalError(error.what_without_backtrace());
  } catch (const std::exception& error) {
    report = absl::InternalError(error.what());
  }
  if (report.ok()) {
    for (const auto& [what, names] : {std::pair{"missing", &report->missing}, std::pair{"unexpected", &report->unexpected}}) {
      if (!names->empty()) std::fprintf(stderr, "bitstair: %s: %s\n", what, absl::StrJoin(*names, ", ").c_str());
    }
    Print(flags, *report);
    return 0;
  }
  status = report.status();
  std::fprintf(stderr, "bitstair: %s: %s\n", absl::StatusCodeToString(status.code()).c_str(), std::string(status.message()).c_str());
  return absl::IsInternal(status) ? 1 : 2;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Accuracy of a network with weights from a file, on this machine.", "bitstair evaluate");
  app.footer(kExamples);
  app.set_version_flag("--version", bitstair::core::VersionText("bitstair-evaluator"));
  Flags flags;
  AddOptions(app, flags);
  if (argc > 1 && std::string(argv[1]) == "__complete") {  // `bitstair __complete evaluate` passes it on
    const auto completion =
        bitstair::client::Complete(app, {argv + 2, argv + argc}, [](const auto&, const auto&, const auto&) { return bitstair::client::Completion(); });
    std::fputs(bitstair::client::CompletionText(completion).c_str(), stdout);
    return 0;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return Run(flags);
}
