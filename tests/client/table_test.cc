#include "client/table.h"

#include <gtest/gtest.h>

#include <cmath>

namespace bitstair::client {
namespace {

TEST(TableTest, AlignsColumnsAndLeavesNoTrailingBlanks) {
  using enum Align;
  EXPECT_EQ(Table({"name", "n"}, {kLeft, kRight}, {{"a", "1"}, {"long name", "100"}, {"gr\xc3\xbc\xc3\x9f", "2"}}),
            "name         n\n"
            "a            1\n"
            "long name  100\n"
            "gr\xc3\xbc\xc3\x9f         2\n");
  EXPECT_EQ(Table({"a", "b"}, {kLeft, kLeft}, {{"1", ""}}), "a  b\n1\n");
  EXPECT_EQ(Table({"a"}, {kLeft}, {{"x\ny\x1b[2J"}}), "a\nx y?[2J\n") << "cells stay on their line and steer no terminal";
}

TEST(TableTest, Durations) {
  EXPECT_EQ(Duration(0), "0 s");
  EXPECT_EQ(Duration(59.4), "59 s");
  EXPECT_EQ(Duration(59.6), "1:00");
  EXPECT_EQ(Duration(3599), "59:59");
  EXPECT_EQ(Duration(3723), "1:02:03");
  EXPECT_EQ(Duration(-1), "?");
  EXPECT_EQ(Duration(NAN), "?");
  EXPECT_EQ(Duration(INFINITY), "?");
}

TEST(TableTest, HarmlessKeepsTextAndLineBreaks) {
  EXPECT_EQ(Harmless("a\tb\nc"), "a\tb\nc");
  EXPECT_EQ(Harmless("\x1b]0;title\x07\r"), "?]0;title??");
  EXPECT_EQ(Harmless("\xc2\x9b"
                     "2J"),
            "?2J")
      << "the one-character form of ESC [";
  EXPECT_EQ(Harmless("gr\xc3\xbc\xc3\x9f"), "gr\xc3\xbc\xc3\x9f");
}

TEST(TableTest, FitCountsCodePoints) {
  EXPECT_EQ(Fit("abc", 3), "abc");
  EXPECT_EQ(Fit("abcd", 3), "abc");
  EXPECT_EQ(Fit("\xc3\xbc\xc3\xbc\xc3\xbc", 2), "\xc3\xbc\xc3\xbc");
  EXPECT_EQ(Fit("abc", 0), "");
}

}  // namespace
}  // namespace bitstair::client
