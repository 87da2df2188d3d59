#include "config/json.hpp"

#include <boost/test/unit_test.hpp>

#include <string>

namespace {

using troupe::config::append_json_string;
using troupe::config::json_error;
using troupe::config::json_value;
using troupe::config::parse_json;
using kind = json_value::kind;

std::string fault_of(std::string_view text) {
  try {
    parse_json(text);
  } catch (const json_error& fault) {
    return fault.what();
  }
  return "accepted";
}

std::string nested(size_t depth) {
  return std::string(depth, '[') + std::string(depth, ']');
}

}  // namespace

BOOST_AUTO_TEST_SUITE(json)

BOOST_AUTO_TEST_CASE(kinds_and_values) {
  const auto value = parse_json(R"({"n":null,"b":true,"i":-7,"r":2.5,"s":"x","a":[1,"y"],"o":{}})");
  const auto members = value.members();
  BOOST_REQUIRE_EQUAL(members.size(), 7u);
  BOOST_TEST((value.type() == kind::object));
  BOOST_TEST(members[0].first == "n");
  BOOST_TEST(members[0].second.is_null());
  BOOST_TEST(!value.find("n").has_value());
  BOOST_TEST(!value.find("absent").has_value());
  BOOST_TEST(value.find("b")->boolean().value());
  BOOST_TEST(value.find("i")->integer().value() == -7);
  BOOST_TEST(value.find("i")->number().value() == -7.0);
  BOOST_TEST(value.find("r")->number().value() == 2.5);
  BOOST_TEST(value.find("s")->string().value() == "x");
  BOOST_TEST(value.find("a")->elements().size() == 2u);
  BOOST_TEST((value.find("o")->type() == kind::object));
  BOOST_TEST(!value.find("s")->integer().has_value());
  BOOST_TEST(!value.find("i")->string().has_value());
  BOOST_TEST(value.find("i")->elements().empty());
  BOOST_TEST(value.find("a")->members().empty());
  BOOST_TEST(!value.find("a")->find("x").has_value());
}

BOOST_AUTO_TEST_CASE(integers_keep_64_bits) {
  BOOST_TEST(parse_json("[9223372036854775807]").elements()[0].integer().value() == INT64_MAX);
  BOOST_TEST(parse_json("[-9223372036854775808]").elements()[0].integer().value() == INT64_MIN);
  BOOST_TEST(parse_json("[3.0]").elements()[0].integer().value() == 3);
  BOOST_TEST(parse_json("[-1e3]").elements()[0].integer().value() == -1000);
  BOOST_TEST(!parse_json("[3.5]").elements()[0].integer().has_value());
  BOOST_TEST(!parse_json("[1e300]").elements()[0].integer().has_value());
  BOOST_TEST(!parse_json("[9223372036854775808.0]").elements()[0].integer().has_value());
  const auto above = parse_json("[9223372036854775808]").elements()[0];
  BOOST_TEST((above.type() == kind::integer));
  BOOST_TEST(!above.integer().has_value());
  BOOST_TEST(above.number().value() == 0x1p63);
  BOOST_TEST(above.dump() == "9223372036854775808");
}

BOOST_AUTO_TEST_CASE(strings_are_unescaped) {
  const auto value = parse_json(R"(["\"\\\/\b\f\n\r\t","\u00e9\ud83d\ude00","a\u0000b"])");
  BOOST_TEST(value.elements()[0].string().value() == "\"\\/\b\f\n\r\t");
  BOOST_TEST(value.elements()[1].string().value() == "\u00e9\U0001F600");
  BOOST_TEST(value.elements()[2].string().value() == std::string_view("a\0b", 3));
}

BOOST_AUTO_TEST_CASE(values_outlive_the_text_and_their_parents) {
  const auto leaf = [] {
    std::string text = R"({"a":[{"b":"long enough to live on the heap, not inline"}]})";
    return *parse_json(text).find("a")->elements()[0].find("b");
  }();
  BOOST_TEST(leaf.string().value() == "long enough to live on the heap, not inline");
}

BOOST_AUTO_TEST_CASE(depth_is_bounded) {
  BOOST_TEST(fault_of(nested(64)) == "accepted");
  BOOST_TEST(fault_of(nested(65)).find("nested deeper than 64 levels") != std::string::npos);
  BOOST_TEST(fault_of(nested(1'000'000)).find("nested deeper") != std::string::npos);
  std::string objects;
  for (int i = 0; i < 65; ++i) objects += R"({"a":)";
  objects += "1" + std::string(65, '}');
  BOOST_TEST(fault_of(objects).find("nested deeper") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(broken_text_is_refused) {
  const char* structure = "expected a value, a comma, a colon or a closing bracket";
  const char* number = "a number is malformed or out of range";
  const char* string = "a string holds an invalid escape or a lone surrogate";
  const std::pair<std::string, const char*> cases[] = {
      {"", "no JSON found"},
      {"  ", "no JSON found"},
      {"[1,2", "does not end with the bracket that closes it"},
      {"[1}", "does not end with the bracket that closes it"},
      {"[[1}]", structure},
      {"]", structure},
      {"[1,]", structure},
      {"[,1]", structure},
      {"[1 2]", structure},
      {R"({"a":1 "b":2})", structure},
      {R"({"a" 1})", structure},
      {R"({"a":})", structure},
      {R"({"a":1,})", structure},
      {R"({a:1})", structure},
      {R"({1:1})", structure},
      {"\xEF\xBB\xBF{}", structure},
      {"[1] x", "does not end with the bracket that closes it"},
      {"[1] 2 []", "text after the end of the value"},
      {"{}{}", "text after the end of the value"},
      {"[1e400]", number},
      {"[-1e400]", number},
      {"[18446744073709551616]", "[0] is an integer of more than 64 bits, expected at most 64"},
      {"[-9223372036854775809]", "[0] is an integer of more than 64 bits"},
      {"[00]", number},
      {"[1-]", number},
      {"[01]", number},
      {"12", "expected an object or an array"},
      {"\"a\"", "expected an object or an array"},
      {"null\n", "expected an object or an array"},
      {"falsea", "expected an object or an array"},
      {"[-]", number},
      {"[1.]", number},
      {"[0x10]", number},
      {"[nul]", "expected true, false or null"},
      {"[truex]", "expected true, false or null"},
      {"[NaN]", structure},
      {"[Infinity]", structure},
      {"[\"a\tb\"]", "a string holds a control character that must be escaped"},
      {"[\"abc", "a string is not closed"},
      {R"(["\x"])", string},
      {R"(["\u00"])", string},
      {R"(["\ud800"])", string},
      {R"(["\udc00"])", string},
      {R"(["\ud800\u0041"])", string},
      {R"({"\ud800":1})", string},
      {"[\"\xFF\"]", "text is not valid UTF-8"},
      {"[\"\xED\xA0\x80\"]", "text is not valid UTF-8"},
      {"[\"\xC0\x80\"]", "text is not valid UTF-8"},
      {R"({"a":1,"a":2})", "an object has \"a\" twice"},
      {R"({"a":1,"\u0061":2})", "an object has \"a\" twice"},
      {R"([{"x":{"k":1,"l":2,"k":3}}])", "an object has \"k\" twice"},
  };
  for (const auto& [text, reason] : cases) {
    BOOST_TEST_CONTEXT(text) {
      const auto fault = fault_of(text);
      BOOST_TEST(fault.find(reason) != std::string::npos, fault << " lacks: " << reason);
    }
  }
}

BOOST_AUTO_TEST_CASE(faults_name_their_place) {
  BOOST_TEST(fault_of("{\n  \"a\": [1,\n    2x]\n}").rfind("line 3, column 5: ", 0) == 0u);
  BOOST_TEST(fault_of("{\n\"a\": nope}").rfind("line 2, column 6: ", 0) == 0u);
  BOOST_TEST(fault_of("[\"ok\",\n\"\xFF\"]").rfind("line 2: ", 0) == 0u);
}

BOOST_AUTO_TEST_CASE(every_cut_of_a_document_is_refused) {
  const std::string text = R"({"a":[1,-2.5e3,true,null],"b":{"c":"d\n\u00e9"},"e":""})";
  BOOST_TEST(fault_of(text) == "accepted");
  for (size_t size = 0; size < text.size(); ++size)
    BOOST_TEST(fault_of(text.substr(0, size)) != "accepted", "cut at " << size);
}

BOOST_AUTO_TEST_CASE(dump_is_what_python_writes) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"b":1,"a":[1,2,{}],"c":[]})", R"({"b": 1, "a": [1, 2, {}], "c": []})"},
      {"[1.0,0.1,1e2,1e16,123456789012345680.0,1e-5,0.0001,-0.0,2.50]",
       "[1.0, 0.1, 100.0, 1e+16, 1.2345678901234568e+17, 1e-05, 0.0001, -0.0, 2.5]"},
      {"[1e22,1.5e300,5e-324,9007199254740993,-0]",
       "[1e+22, 1.5e+300, 5e-324, 9007199254740993, 0]"},
      {"[true,false,null]", "[true, false, null]"},
      {R"(["\u00e9\u007f\u2028","\u0001\n\"\\\/"])",
       "[\"\u00e9\x7f\u2028\", \"\\u0001\\n\\\"\\\\/\"]"},
  };
  for (const auto& [text, expected] : cases) BOOST_TEST(parse_json(text).dump() == expected);
}

BOOST_AUTO_TEST_CASE(large_strings_and_wide_objects) {
  const std::string payload(8 << 20, 'A');
  const auto value = parse_json("{\"url\":\"" + payload + "\"}");
  BOOST_TEST((value.find("url")->string() == std::string_view(payload)));

  std::string wide = "{";
  for (int i = 0; i < 100'000; ++i)
    wide += "\"key" + std::to_string(i) + "\":" + std::to_string(i) + ",";
  wide.back() = '}';
  BOOST_TEST(parse_json(wide).members().size() == 100'000u);
}

BOOST_AUTO_TEST_CASE(appended_strings_read_back) {
  std::string all;
  for (char c = 1; c < 127; ++c) all += c;
  std::string text;
  append_json_string(text, all);
  BOOST_TEST(parse_json("[" + text + "]").elements()[0].string().value() == all);
}

BOOST_AUTO_TEST_SUITE_END()
