#include "client/yaml_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace bitstair::client {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string Error(const std::string& text, int depth = 20) {
  const auto tree = ParseYaml(text, depth);
  return tree.ok() ? "ok" : std::string(tree.status().message());
}

TEST(YamlTreeTest, KeepsKindsPlacesAndQuotes) {
  const auto tree = ParseYaml("a: 1\nb:\n  - x\n  - 'y'\nc: {d: }\n", 20);
  ASSERT_TRUE(tree.ok()) << tree.status();
  ASSERT_EQ(tree->kind, YamlNode::Kind::kMap);
  ASSERT_EQ(tree->entries.size(), 3U);
  EXPECT_EQ(tree->entries[0].key.text, "a");
  EXPECT_EQ(tree->entries[0].value.text, "1");
  EXPECT_EQ(tree->entries[0].value.line, 1);
  EXPECT_EQ(tree->entries[0].value.column, 4);
  const YamlNode& list = tree->entries[1].value;
  ASSERT_EQ(list.items.size(), 2U);
  EXPECT_FALSE(list.items[0].quoted);
  EXPECT_TRUE(list.items[1].quoted);
  EXPECT_EQ(list.items[1].line, 4);
  EXPECT_EQ(tree->entries[2].value.entries[0].value.kind, YamlNode::Kind::kNull);
}

TEST(YamlTreeTest, EmptyTextsAreNull) {
  for (const char* text : {"", "\n\n", "# only a comment\n", "---\n", "~"}) {
    const auto tree = ParseYaml(text, 20);
    ASSERT_TRUE(tree.ok()) << text;
    EXPECT_EQ(tree->kind, YamlNode::Kind::kNull) << text;
  }
}

TEST(YamlTreeTest, RefusesWhatRecipesDoNotNeed) {
  EXPECT_THAT(Error("a: &x [1]\nb: *x\n"), HasSubstr("anchors and aliases"));
  EXPECT_THAT(Error("a: &x 1\n"), HasSubstr("anchors and aliases"));
  EXPECT_THAT(Error("a: !!str 1\n"), HasSubstr("tags are not allowed"));
  EXPECT_THAT(Error("a: 1\n---\nb: 2\n"), HasSubstr("one document"));
  EXPECT_THAT(Error("? [1]\n: 2\n"), HasSubstr("plain word"));
  EXPECT_THAT(Error("a: 1\nb: 2\na: 3\n"), StartsWith("3:1: \"a\" appears twice"));
  EXPECT_THAT(Error("a: [1, 2\n"), HasSubstr("not valid YAML"));
}

TEST(YamlTreeTest, TellsTheFirstByteThatIsNotText) {
  EXPECT_EQ(Error(std::string("a: 1\nb\0c", 8)), "2:2: not a text file: byte 0x00 at offset 6");
  EXPECT_EQ(Error("\xff\xfe"), "1:1: not a text file: byte 0xff at offset 0");
  EXPECT_EQ(Error("a: \xc3"), "1:4: not a text file: byte 0xc3 at offset 3");
  EXPECT_EQ(Error("a: gr\xc3\xbc\xc3\x9f"), "ok");
}

TEST(YamlTreeTest, BoundsTheDepthInEveryStyle) {
  EXPECT_EQ(Error(std::string(20, '[') + std::string(20, ']')), "ok");
  EXPECT_THAT(Error(std::string(21, '[') + std::string(21, ']')), StartsWith("1:21: nested deeper than 20"));
  EXPECT_THAT(Error(std::string(1 << 20, '[')), HasSubstr("nested deeper than 20"));
  std::string block;
  for (int i = 0; i < 3000; ++i) block += std::string(static_cast<size_t>(i), ' ') + "a:\n";
  EXPECT_THAT(Error(block), HasSubstr("nested deeper than 20"));
  std::string flow;
  for (int i = 0; i < 100000; ++i) flow += "{a: ";
  EXPECT_THAT(Error(flow), HasSubstr("nested deeper than 20"));
  std::string dashes;
  for (int i = 0; i < 100000; ++i) dashes += "- ";
  EXPECT_THAT(Error(dashes), HasSubstr("nested deeper than 20"));
}

TEST(YamlTreeTest, PrintableShowsWhatTerminalsWouldObey) {
  EXPECT_EQ(Printable("a\x1b[2Jb\n"), "a\\x1b[2Jb\\x0a");
  EXPECT_EQ(Printable("\xff"), "\\xff");
  EXPECT_EQ(Printable(std::string(100, 'x'), 10), "xxxxxxxxxx...");
}

}  // namespace
}  // namespace bitstair::client
