#include "client/report/page.h"

#include "absl/strings/str_cat.h"
#include "client/report/svg.h"

namespace bitstair::client {
namespace {

// Colours after Okabe and Ito, which people of all kinds of colour vision tell apart; lighter ones on dark ground.
constexpr char kStyle[] = R"css(
:root { --bg: #fff; --fg: #1c2024; --soft: #5b6570; --grid: #e3e7eb; --box: #f4f6f8; --edge: #8a949e; --bad: #b3261e;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --c4: #e69f00; --c5: #56b4e9; --c6: #7a6a00; --c7: #6b7280; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171a; --fg: #e6e9ec; --soft: #9aa4ae; --grid: #2a3036; --box: #1d2226; --edge: #7b858f; --bad: #ff8a80;
  --c0: #58b0e3; --c1: #ff8c42; --c2: #3ecf9f; --c3: #e8a3c8; --c4: #ffc24d; --c5: #9ad4f5; --c6: #d6c65a; --c7: #a3acb5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 24px; background: var(--bg); color: var(--fg); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 4px; } h2 { font-size: 1.25rem; margin: 32px 0 8px; border-top: 1px solid var(--grid); padding-top: 20px; }
p.sub, figcaption { color: var(--soft); } figcaption { font-size: .9rem; margin-bottom: 4px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 24px; }
figure { margin: 0; break-inside: avoid; } figure.wide { grid-column: 1 / -1; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--fg); font-size: 12px; } svg text.strong { font-weight: 600; }
.grid { stroke: var(--grid); stroke-width: 1; } .line { fill: none; stroke-width: 2; } .edge { fill: none; stroke: var(--edge); stroke-width: 1.5; }
.box rect { fill: var(--box); stroke: var(--edge); } .box.shared rect { stroke-dasharray: 5 4; } .box.bad rect { stroke: var(--bad); stroke-width: 2; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 14px; margin: 4px 0 0; font-size: .85rem; } .legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; } th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th:first-child, td:first-child, td.text, th.text { text-align: left; } th { color: var(--soft); font-weight: 600; } td.bad { color: var(--bad); }
pre { background: var(--box); padding: 12px; overflow-x: auto; font-size: .85rem; border-radius: 6px; } code { font-size: .9em; }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } pre { white-space: pre-wrap; } h2 { break-after: avoid; } .plots { grid-template-columns: 1fr 1fr; } }
)css";

}  // namespace

std::string Page(const std::string& title, const std::string& body) {
  return absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"><title>",
      Escape(title), "</title><style>", kStyle, "</style></head>\n<body>\n", body, "</body></html>\n");
}

}  // namespace bitstair::client
