#pragma once

#include <string>

namespace troupe::tests {

/// A bundled picture as a data: URL.
std::string fixture_data_url(const std::string& name);

}  // namespace troupe::tests
