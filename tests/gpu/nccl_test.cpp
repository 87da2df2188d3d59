#include "gpu/nccl.hpp"
#include "gpu/error.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <string>

using namespace troupe;

BOOST_AUTO_TEST_SUITE(nccl_test)

BOOST_AUTO_TEST_CASE(the_library_is_there_or_its_absence_is_said) {
  const std::string version = gpu::nccl_version();
  BOOST_TEST_MESSAGE("NCCL " << (version.empty() ? "is not there" : version));
  if (version.empty()) {
    BOOST_CHECK_THROW(gpu::make_nccl_id(), gpu::error);
    BOOST_CHECK_THROW(gpu::join_nccl({}), gpu::error);
    BOOST_CHECK_THROW(gpu::capture_nccl_rounds(nullptr, {}), gpu::error);
    return;
  }
  BOOST_TEST(std::ranges::count(version, '.') == 2);
  BOOST_TEST((gpu::make_nccl_id() != gpu::make_nccl_id()));
}

BOOST_AUTO_TEST_SUITE_END()
