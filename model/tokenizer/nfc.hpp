#pragma once

#include <string>
#include <string_view>

namespace troupe::model {

/// Unicode Normalization Form C of `text`, which must be valid UTF-8. Time is O(n) for any
/// input, also for a million combining marks on one letter; text that is ASCII or already composed
/// is only copied. Source: Unicode Standard Annex 15.
std::string normalize_nfc(std::string_view text);

}  // namespace troupe::model
