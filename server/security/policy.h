// Which role may call what: the whole of it, in one table (policy.cc).
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "bitstair/v1/access.pb.h"

namespace bitstair::server {

struct Rule {
  v1::Role least = v1::ROLE_ADMIN;  // of people; ROLE_UNSPECIFIED: no person may
  bool workers = false;
  bool anybody = false;  // also without a token: the call checks by itself
  bool audited = true;   // also when it is allowed; refusals always are
};

// Of a method of bitstair.v1 ("CancelJob"). Methods that the table does not name are for admins alone.
Rule RuleOf(absl::string_view method);

// Whether people with this role may do what `least` may.
bool Includes(v1::Role role, v1::Role least);

// "viewer"
std::string RoleWord(v1::Role role);

}  // namespace bitstair::server
