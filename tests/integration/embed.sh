#!/usr/bin/env bash
# The package as somebody else's project finds it: install, configure examples/embed against it, build, ask.
#   embed.sh BUILD_FOLDER
set -euo pipefail
source_folder=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$1" --prefix "$work/installed" > "$work/install.log"
cmake -S "$source_folder/examples/embed" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$work/installed" > "$work/configure.log"
cmake --build "$work/build" > "$work/build.log" || { cat "$work/build.log"; exit 1; }
for isolation in thread process; do
  answer=$("$work/build/embed" "$source_folder/examples/tiny" "$source_folder/examples/pictures/circles.png" \
    "Is there a red circle?" "$isolation")
  echo "$isolation: $answer"
  grep -qx "Yes." <<< "$answer" || { echo "expected a line: Yes."; exit 1; }
done
# The bundle's program runs from where it was installed.
"$work/installed/bin/troupe" --version
