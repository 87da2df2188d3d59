#include "gpu/arena.hpp"
#include "gpu/counters.hpp"
#include "gpu/error.hpp"

#include <boost/test/unit_test.hpp>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

using namespace troupe::gpu;

BOOST_AUTO_TEST_SUITE(arena_test)

BOOST_AUTO_TEST_CASE(reservations_are_aligned_disjoint_and_zero) {
  arena memory("test", memory_kind::host);
  const auto odd = memory.reserve("odd", dtype::bf16, {3, 5});
  const auto next = memory.reserve("next", dtype::f32, {2, 3, 4});
  const auto empty = memory.reserve("empty", dtype::i32, {0});
  memory.seal();

  const tensor_view first = memory.view(odd);
  const tensor_view second = memory.view(next);
  BOOST_TEST(reinterpret_cast<uintptr_t>(first.data) % 64 == 0u);
  BOOST_TEST(second.data - first.data == 64);
  BOOST_TEST(second.rows() == 6);
  BOOST_TEST(second.width() == 4);
  BOOST_TEST(memory.view(empty).elements() == 0);
  for (int64_t i = 0; i < second.elements(); ++i) BOOST_TEST(second.as<float>()[i] == 0.0f);

  BOOST_REQUIRE(memory.ledger().size() == 3u);
  BOOST_TEST(memory.ledger()[0].owner == "odd");
  BOOST_TEST(memory.ledger()[0].bytes == 30);
  BOOST_TEST(memory.ledger()[1].offset_bytes == 64);
}

BOOST_AUTO_TEST_CASE(every_seal_is_a_new_generation_and_counted) {
  const int64_t before = read_counters().arena_allocations;
  arena first("first", memory_kind::host), second("second", memory_kind::host);
  first.seal();
  second.seal();
  BOOST_TEST(first.generation() < second.generation());
  BOOST_TEST(read_counters().arena_allocations == before + 2);
}

BOOST_AUTO_TEST_CASE(sizes_that_cannot_exist_are_refused_before_mapping) {
  arena memory("huge", memory_kind::host);
  BOOST_CHECK_THROW(memory.reserve("wraps", dtype::f32, {int64_t{1} << 40, int64_t{1} << 40}), error);
  memory.reserve("large", dtype::u8, {int64_t{1} << 60});
  BOOST_CHECK_EXCEPTION(memory.seal(), error, [](const error& failure) {
    return std::string(failure.what()).find("arena huge: cannot map") == 0;
  });
}

BOOST_AUTO_TEST_CASE(two_mappings_of_a_shared_arena_see_one_memory) {
  arena owner("shared", memory_kind::host_shared);
  const auto number = owner.reserve("number", dtype::i32, {1});
  owner.seal();
  arena guest("shared", memory_kind::host_shared);
  guest.reserve("number", dtype::i32, {1});
  guest.seal(owner.file_descriptor());

  *owner.view(number).as<int32_t>() = 42;
  BOOST_TEST(*guest.view(number).as<int32_t>() == 42);
  BOOST_TEST(owner.base() != guest.base());
}

BOOST_AUTO_TEST_CASE(a_file_of_another_size_is_refused) {
  arena owner("shared", memory_kind::host_shared);
  owner.reserve("small", dtype::u8, {10});
  owner.seal();
  arena guest("shared", memory_kind::host_shared);
  guest.reserve("large", dtype::u8, {10000});
  BOOST_CHECK_EXCEPTION(guest.seal(owner.file_descriptor()), error, [](const error& failure) {
    return std::string(failure.what()) == "arena shared: its file has 4096 bytes, expected 12288";
  });
}

BOOST_AUTO_TEST_CASE(a_lease_keeps_the_pages_of_a_dead_arena) {
  arena_lease lease;
  std::byte* address = nullptr;
  {
    arena memory("short-lived", memory_kind::host);
    memory.reserve("bytes", dtype::u8, {100});
    memory.seal();
    lease = memory.lease();
    address = memory.base();
  }
  std::memset(address, 7, 100);  // faults if the pages went with the arena
  BOOST_TEST(lease.contains(address, 100));
  BOOST_TEST(!lease.contains(address, 5000));
}

BOOST_AUTO_TEST_CASE(a_guarded_retired_arena_faults_on_touch) {
  arena memory("retired", memory_kind::host);
  memory.reserve("bytes", dtype::u8, {100});
  memory.seal();
  const arena_lease lease = memory.lease();
  memory.retire(/*guard=*/true);
  BOOST_TEST(!lease.current());

  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    *reinterpret_cast<volatile char*>(memory.base()) = 1;
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  BOOST_TEST(!(WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

BOOST_AUTO_TEST_SUITE_END()
