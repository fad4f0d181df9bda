// The name of a training run: equal keys mean equal bits. Pure.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "bitstair/v1/job.pb.h"

namespace bitstair::server {

// RFC 8785 (JSON Canonicalization Scheme): keys sorted by UTF-16 code units, no blanks, numbers as ECMAScript writes them.
// `value` holds no NaN or infinity and no integer beyond 2^53 (those are written as strings by the caller); strings are valid UTF-8.
std::string CanonicalJson(const nlohmann::json& value);

// A finite number as ECMAScript's Number::toString writes it: 1e-7, 0.0001, 1e+21.
std::string EcmaScriptNumber(double value);

// The canonical JSON behind the key: all of `stage` that can change a bit of its result, plus the parent's key and the numerics version.
// The number of ranks is in it, but with fixed shards that of shards instead; where the nets of a pair live is not.
// Not in it: names, checkpoint intervals, environment, the data set's name or path and that of initial weights (their digests stand for them), attempts,
// placement.
// A field that has no effect at these widths (the weight quantiser's at 32 bits, a percentile without calibration) is left out, and so will new fields be
// while neutral. The seed is a string, since it may exceed 2^53.
// parent_key: empty for a stage without parent.
std::string StageKeyDocument(const v1::StageSpec& stage, const std::string& parent_key);

// 64 hex digits: SHA-256 of "bitstair-stage-v1\n" and the document.
std::string StageKey(const v1::StageSpec& stage, const std::string& parent_key);

// The key of the same training where it is not to be shared: another one for each salt. Empty: `key` itself.
std::string SaltedKey(const std::string& key, const std::string& salt);

}  // namespace bitstair::server
