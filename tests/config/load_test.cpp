#include "config/load.hpp"

#include "config/error.hpp"
#include "tests/support/temporary_folder.hpp"

#include <boost/test/unit_test.hpp>
#include <fmt/format.h>

#include <map>
#include <set>
#include <string>

namespace {

namespace config = troupe::config;
using flags = std::vector<std::pair<std::string, std::string>>;
using troupe::testing::temporary_folder;

/// The sources of one load: a TOML text, flags and environment variables.
struct sources {
  std::string toml;
  flags given_flags;
  std::map<std::string, std::string> variables;

  config::loaded_config load() const {
    config::setting_sources result;
    result.file = folder.write("cluster.toml", toml);
    result.flags = given_flags;
    result.environment = [this](const char* name) -> const char* {
      const auto place = variables.find(name);
      return place == variables.end() ? nullptr : place->second.c_str();
    };
    return config::load(result);
  }

  std::vector<std::string> faults() const {
    try {
      load();
    } catch (const config::error& fault) {
      return fault.faults();
    }
    return {};
  }

  temporary_folder folder = {};
};

config::loaded_config load(const std::string& toml, const flags& given = {}) {
  return sources{toml, given, {}}.load();
}

/// The only fault of a file or its flags, without the folder's name.
std::string fault_of(const std::string& toml, const flags& given = {}) {
  const sources source{toml, given, {}};
  const auto faults = source.faults();
  if (faults.size() != 1) return std::to_string(faults.size()) + " faults";
  const auto folder = source.folder.path().string() + "/";
  return faults[0].starts_with(folder) ? faults[0].substr(folder.size()) : faults[0];
}

}  // namespace

BOOST_AUTO_TEST_SUITE(load_settings)

BOOST_AUTO_TEST_CASE(nothing_said_is_the_default) {
  const auto loaded = config::load({});
  BOOST_TEST(loaded.value.limits.max_num_seqs == config::engine_config{}.limits.max_num_seqs);
  BOOST_TEST(loaded.origin.size() == config::setting_descriptions().size());
  for (const auto& [key, origin] : loaded.origin) BOOST_TEST(origin == "default", key);
}

BOOST_AUTO_TEST_CASE(flag_over_environment_over_file_over_default) {
  sources source{"[limits]\nmax_num_seqs = 1\nblock_size = 8\nmax_num_batched_tokens = 99\n",
                 {{"--max-num-seqs", "3"}},
                 {{"TROUPE_MAX_NUM_SEQS", "2"}, {"TROUPE_BLOCK_SIZE", "4"}, {"TROUPE_PORT", ""}}};
  const auto loaded = source.load();
  BOOST_TEST(loaded.value.limits.max_num_seqs == 3);
  BOOST_TEST(loaded.value.limits.block_size == 4);
  BOOST_TEST(loaded.value.limits.max_num_batched_tokens == 99);
  BOOST_TEST(loaded.value.http.port == 8000);
  BOOST_TEST(loaded.origin.at("limits.max_num_seqs") == "flag --max-num-seqs");
  BOOST_TEST(loaded.origin.at("limits.block_size") == "environment TROUPE_BLOCK_SIZE");
  BOOST_TEST(loaded.origin.at("limits.max_num_batched_tokens") ==
             (source.folder.path() / "cluster.toml").string() + ":4:26");
  BOOST_TEST(loaded.origin.at("http.port") == "default");
}

BOOST_AUTO_TEST_CASE(every_kind_from_toml_and_from_text) {
  const auto from_toml = load(R"(
[model]
served_names = ["a", "b"]
dtype = "float32"
max_model_len = "128k"
[limits]
memory_share = 0.25
request_deadline = "2m"
step_timeout = 1.5
prefix_cache = false
kv_cache_bytes = "auto"
vision_slice_microseconds = 0
[http]
max_body_bytes = "32MiB"
)");
  const auto from_flags = load("", {{"--served-model-name", "a"},
                                    {"--alias", "b"},
                                    {"--dtype", "fp32"},
                                    {"--ctx-size", "131072"},
                                    {"--gpu-memory-utilization", "0.25"},
                                    {"--request-deadline", "120"},
                                    {"--step-timeout", "1500ms"},
                                    {"limits.prefix_cache", "false"},
                                    {"--kv-cache-memory", "auto"},
                                    {"--vision-slice-microseconds", "0"},
                                    {"--max-body-bytes", "32M"}});
  for (const auto& value : {from_toml.value, from_flags.value}) {
    BOOST_TEST(value.model.served_names == (std::vector<std::string>{"a", "b"}),
               boost::test_tools::per_element());
    BOOST_TEST((value.model.dtype == config::compute_dtype::float32));
    BOOST_TEST(value.model.max_model_len == 131072);
    BOOST_TEST(value.limits.memory_share == 0.25);
    BOOST_TEST(value.limits.request_deadline.count() == 120'000);
    BOOST_TEST(value.limits.step_timeout.count() == 1500);
    BOOST_TEST(!value.limits.prefix_cache);
    BOOST_TEST(value.limits.kv_cache_bytes == 0);
    BOOST_TEST(value.limits.vision_slice_microseconds == 0);
    BOOST_TEST(value.http.max_body_bytes == 32 << 20);
  }
}

BOOST_AUTO_TEST_CASE(zero_and_auto_differ_where_both_say_something) {
  BOOST_TEST(load("").value.limits.vision_slice_microseconds == -1);
  BOOST_TEST(load("[limits]\nvision_slice_microseconds = \"auto\"\n")
                 .value.limits.vision_slice_microseconds == -1);
  for (const char* said : {"0", "700", "\"auto\""})
    BOOST_TEST(config::print(load(fmt::format("[limits]\nvision_slice_microseconds = {}\n", said)))
                   .find(fmt::format("vision_slice_microseconds = {} ", said)) !=
               std::string::npos);
}

BOOST_AUTO_TEST_CASE(every_flag_spelling_and_variable_means_one_setting) {
  std::set<std::string> spellings;
  std::set<std::string> variables;
  for (const auto& setting : config::setting_descriptions()) {
    BOOST_TEST(!setting.help.empty(), setting.key);
    BOOST_TEST(variables.insert(setting.environment).second, setting.environment);
    for (const auto& flag : setting.flags) BOOST_TEST(spellings.insert(flag).second, flag);
  }
  const auto loaded = load("", {{"--tp", "4"}});
  BOOST_TEST(loaded.value.parallel.tensor == 4);
  BOOST_TEST(loaded.origin.at("parallel.tensor") == "flag --tensor-parallel-size");
}

BOOST_AUTO_TEST_CASE(paths_start_from_the_file_that_says_them) {
  sources source{"[model]\npath = \"tiny/\"\n", {}, {}};
  BOOST_TEST(source.load().value.model.path == (source.folder.path() / "tiny").string());
  const auto absolute = load("[model]\npath = \"/models/a/../b\"\n");
  BOOST_TEST(absolute.value.model.path == "/models/b");
  const auto from_flag = load("", {{"--model", "tiny"}});
  BOOST_TEST(from_flag.value.model.path == (std::filesystem::current_path() / "tiny").string());
}

BOOST_AUTO_TEST_CASE(unknown_keys_name_their_place_and_the_nearest) {
  BOOST_TEST(fault_of("[limits]\n\nmax_num_seq = 1\n") ==
             "cluster.toml:3:1: unknown key limits.max_num_seq, did you mean limits.max_num_seqs?");
  BOOST_TEST(fault_of("[http]\nprot = 1\n") ==
             "cluster.toml:2:1: unknown key http.prot, did you mean http.port?");
  BOOST_TEST(fault_of("block_size = 1\n") ==
             "cluster.toml:1:1: unknown key block_size, did you mean limits.block_size?");
  BOOST_TEST(fault_of("[quantum]\nflux = 1\n") == "cluster.toml:1:2: unknown key quantum");
  BOOST_TEST(fault_of("[limits.deep]\nx = 1\n") == "cluster.toml:1:9: unknown key limits.deep");
  BOOST_TEST(fault_of("[[node]]\nhost = 1\n") == "cluster.toml:1:3: unknown key node");
  BOOST_TEST(fault_of("limits = 5\n") ==
             "cluster.toml:1:1: limits: found a value, expected a table");
  BOOST_TEST(fault_of("", {{"--max-seqs", "1"}}) == "flag --max-seqs: is unknown");
}

BOOST_AUTO_TEST_CASE(values_out_of_range_or_type) {
  struct {
    const char *toml, *fault;
  } const cases[] = {
      {"[limits]\nblock_size = 0",
       "cluster.toml:2:14: limits.block_size: found 0, expected an integer from 1 to 1024"},
      {"[limits]\nblock_size = -1", "found -1, expected"},
      {"[limits]\nblock_size = 16.0", "found 16, expected an integer"},
      {"[limits]\nblock_size = \"16x\"", "found \"16x\", expected"},
      {"[limits]\nblock_size = \"-16\"", "found \"-16\", expected"},
      {"[limits]\nblock_size = \"\"", "found \"\", expected"},
      {"[limits]\nblock_size = true", "found true, expected"},
      {"[limits]\nblock_size = [1]", "found a table, a date or a mixed list, expected"},
      {"[limits]\nblock_size = 1979-05-27", "found a table, a date"},
      {"[limits]\nblock_size = {x = 1}", "found a table, a date"},
      {"[limits]\nmax_waiting_tokens = \"9999999999999G\"", "found \"9999999999999G\", expected"},
      {"[limits]\nvision_slice_microseconds = -1",
       "found -1, expected \"auto\" or an integer from 0 to 1000000"},
      {"[limits]\nmemory_share = nan", "found nan, expected \"auto\" or a number from 0.01 to 0.95"},
      {"[limits]\nmemory_share = 1", "found 1, expected \"auto\" or a number from 0.01 to 0.95"},
      {"[limits]\neager = 1", "found 1, expected true or false"},
      {"[limits]\nstep_timeout = \"1 year\"",
       "found \"1 year\", expected a duration from 10ms to 3600s"},
      {"[limits]\nstep_timeout = -1", "found -1, expected a duration"},
      {"[limits]\nstep_timeout = 1e300", "found 1e+300, expected a duration"},
      {"[http]\nport = 65536", "found 65536, expected an integer from 0 to 65535"},
      {"[http]\napi_keys = [\"secret\", \"\"]", "found a hidden value, expected a list of strings"},
      {"[http]\napi_keys = [\"secret\", 1]", "found a hidden value"},
      {"[model]\ndtype = \"int8\"", "expected one of \"bfloat16\", \"float32\""},
      {"[model]\nmax_model_len = \"big\"", "expected \"auto\" or an integer from 1 to 16777216"},
      {"[model]\nmax_model_len = 0", "expected \"auto\" or an integer"},
  };
  for (const auto& broken : cases) {
    const auto fault = fault_of(broken.toml);
    BOOST_TEST_CONTEXT(broken.toml << " gave " << fault)
    BOOST_TEST(fault.find(broken.fault) != std::string::npos, broken.fault);
    BOOST_TEST(fault.find("secret") == std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(syntax_names_its_place) {
  BOOST_TEST(fault_of("[limits]\nblock_size = \n").starts_with("cluster.toml:2:"));
  BOOST_TEST(fault_of("[limits]\nblock_size = 1\nblock_size = 2\n").starts_with("cluster.toml:3:"));
}

BOOST_AUTO_TEST_CASE(all_faults_at_once) {
  const sources source{"[limits]\nblock_size = 0\nnonsense = 1\n",
                       {{"--port", "x"}, {"--isolation", "fiber"}},
                       {{"TROUPE_MAX_NUM_SEQS", "many"}}};
  const auto faults = source.faults();
  BOOST_TEST(faults.size() == 5u);
  const auto has = [&](const std::string& start) {
    return std::any_of(faults.begin(), faults.end(),
                       [&](const auto& fault) { return fault.starts_with(start); });
  };
  BOOST_TEST(has("environment TROUPE_MAX_NUM_SEQS: limits.max_num_seqs: found \"many\""));
  BOOST_TEST(has("flag --port: http.port: found \"x\""));
  BOOST_TEST(has("flag --isolation: parallel.isolation: found \"fiber\""));
}

BOOST_AUTO_TEST_CASE(faults_of_a_file_come_in_its_order) {
  const sources source{
      "zebra = 1\nhttp.port = -1\nmodel = 2\n[vision]\nmin_pixels = -1\napple = 1\n[limits]\nblock_size = "
      "0\n[http2]\nhost = 1\n",
      {},
      {}};
  const auto faults = source.faults();
  const std::vector<std::string> places{"cluster.toml:1:1: unknown key zebra",
                                        "cluster.toml:2:13: http.port",
                                        "cluster.toml:3:1: model: found a value, expected a table",
                                        "cluster.toml:5:14: vision.min_pixels",
                                        "cluster.toml:6:1: unknown key vision.apple",
                                        "cluster.toml:8:14: limits.block_size",
                                        "cluster.toml:9:2: unknown key http2"};
  BOOST_TEST_REQUIRE(faults.size() == places.size());
  for (size_t i = 0; i < places.size(); ++i)
    BOOST_TEST(faults[i].starts_with((source.folder.path() / places[i]).string()),
               faults[i] << ", expected " << places[i]);
}

BOOST_AUTO_TEST_CASE(sequences_alone_leave_the_tokens_of_a_step_to_the_engine) {
  BOOST_TEST(load("[limits]\nmax_num_seqs = 1000\n").value.limits.max_num_batched_tokens == 0);
}

BOOST_AUTO_TEST_CASE(combinations_that_cannot_work) {
  BOOST_TEST(fault_of("[limits]\nmax_num_seqs = 64\nmax_num_batched_tokens = 32\n") ==
             "cluster.toml:3:26: limits.max_num_batched_tokens: found 32, expected at least "
             "limits.max_num_seqs = 64 (one token each)");
  BOOST_TEST(fault_of("[vision]\nmin_pixels = 100\nmax_pixels = 99\n").find("vision.max_pixels") !=
             std::string::npos);
}

BOOST_AUTO_TEST_CASE(files_that_cannot_be_read) {
  config::setting_sources missing;
  missing.file = "/nonexistent/cluster.toml";
  BOOST_CHECK_THROW(config::load(missing), config::error);
  const temporary_folder folder;
  missing.file = folder.path();
  BOOST_CHECK_THROW(config::load(missing), config::error);
}

BOOST_AUTO_TEST_CASE(keys_of_a_file_join_the_others) {
  sources source{"[http]\napi_keys = [\"one\"]\napi_keys_file = \"keys\"\n", {}, {}};
  source.folder.write("keys", "# for the dashboards\ntwo\r\n\nthree\n");
  BOOST_TEST(source.load().value.http.api_keys == (std::vector<std::string>{"one", "two", "three"}),
             boost::test_tools::per_element());
  source.folder.write("keys", "# none\n");
  BOOST_TEST(source.faults().at(0).find("http.api_keys_file: ") != std::string::npos);
  BOOST_TEST(source.faults().at(0).find("holds no key") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(printed_settings_load_again) {
  const auto first = load("[model]\npath = \"/m\\u007fé \\\"x\\\"\"\nserved_names = [\"a,b\"]\n",
                          {{"--max-model-len", "128k"},
                           {"--dtype", "float32"},
                           {"--isolation", "process"},
                           {"--step-timeout", "1500ms"},
                           {"--memory-share", "0.125"},
                           {"--enforce-eager", "true"},
                           {"--api-key", "hunter2"}});
  const auto text = config::print(first);
  BOOST_TEST(text.find("hunter2") == std::string::npos);
  BOOST_TEST(text.find("# flag --isolation\n") != std::string::npos);
  BOOST_TEST(text.find("# default\n") != std::string::npos);
  const auto second = load(text);
  BOOST_TEST(second.value.model.path == first.value.model.path);
  BOOST_TEST(second.value.model.served_names == first.value.model.served_names,
             boost::test_tools::per_element());
  auto same_origins = second;
  same_origins.origin = first.origin;
  BOOST_TEST(config::print(same_origins) == text);
}

BOOST_AUTO_TEST_CASE(nearest_words) {
  const std::vector<std::string> known{"host", "port", "max_connections"};
  BOOST_TEST(config::nearest("hots", known).value() == "host");
  BOOST_TEST(config::nearest("max_conections", known).value() == "max_connections");
  BOOST_TEST(!config::nearest("weather", known).has_value());
  BOOST_TEST(!config::nearest("", known).has_value());
}

BOOST_AUTO_TEST_SUITE_END()
