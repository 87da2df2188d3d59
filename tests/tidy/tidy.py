#!/usr/bin/env python3
"""Holds the sources against the house style: who may include whom, banned calls, sizes as tripwires.

Prints one line per fault (file:line: what was found, what was expected) and exits 1 if there is any.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Folder -> layers it may include, itself first. The longest matching folder decides.
MAY_INCLUDE = {
    "config": ["config"],
    "model/plan": ["model/plan", "config"],
    "actors/scheduling": ["actors/scheduling", "model/plan", "config"],
    "gpu": ["gpu", "config", "model/plan"],
    "transport": ["transport", "gpu", "config"],
    "model": ["model", "model/plan", "transport", "gpu", "config"],
    "actors": ["actors", "actors/scheduling", "model", "model/plan", "transport", "gpu", "config"],
    "actors/http": ["actors/http", "actors", "actors/scheduling", "model", "model/plan", "config"],
    "actors/cli": ["actors/cli", "actors/http", "actors", "actors/scheduling", "model", "model/plan", "transport",
                   "gpu", "config"],
}
FOLDERS = sorted(MAY_INCLUDE, key=len, reverse=True)

# Library headers that may appear only in these folders.
LIBRARY_HOMES = [
    (re.compile(r"^caf/"), ("actors",), "CAF"),
    (re.compile(r"^boost/(asio|beast)"), ("actors/http", "actors/cli"), "Boost.Asio and Beast"),
    (re.compile(r"^(cuda|cublas|nccl|cudnn)"), ("gpu", "transport", "model"), "CUDA"),
    (re.compile(r"^ucp/"), ("transport",), "UCX"),
    (re.compile(r"^(oneapi/|dnnl)"), ("gpu/cpu",), "oneDNN"),
    (re.compile(r"^simdjson"), ("config",), "simdjson"),
    (re.compile(r"^toml\+\+"), ("config",), "toml++"),
]

BANNED = [
    (re.compile(r"\bassert\s*\("), "assert() vanishes in release builds: use config::ensure"),
    (re.compile(r"std::regex\b"), "std::regex overflows the stack on long input: write a scanner"),
    (re.compile(r"\bcaf::infinite\b"), "every wait has a bound"),
    (re.compile(r"\busing namespace std;"), "name what you use"),
    (re.compile(r"\b(rand|srand)\s*\("), "use a seeded engine"),
    (re.compile(r"#include <caf/all.hpp>"), "include exact CAF headers"),
    (re.compile(r"\b(TODO|FIXME|XXX|HACK)\b(?!.*#\d)"), "name the issue that will remove it, or do it now"),
]
# exit() ends somebody else's program; only main files of programs may end theirs.
EXIT = re.compile(r"(?<![\w.:>_])(std::)?(exit|quick_exit)\s*\(")

LINE_WIDTH = 110
FILE_LINES = 700
FUNCTION_LINES = 90


def sources():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.hpp", "*.cpp", "*.cu", "*.cuh"],
                            cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]
    return [p for p in ROOT.rglob("*.?pp") if "build" not in p.parts[len(ROOT.parts)]]


def home_of(path):
    return next((f for f in FOLDERS if path.startswith(f + "/")), None)


def check_includes(path, number, line, faults):
    local = re.match(r'\s*#include "([^"]+)"', line)
    if local:
        target = local.group(1)
        home, layer = home_of(path), home_of(target)
        if layer is None and home is not None:
            faults.append(f'{path}:{number}: includes "{target}", expected "folder/file.hpp" from the root')
        elif home is not None and layer not in MAY_INCLUDE[home]:
            faults.append(f'{path}:{number}: {home} includes "{target}", may use {", ".join(MAY_INCLUDE[home])}')
    library = re.match(r"\s*#include <([^>]+)>", line)
    if library and not path.startswith(("tests/", "examples/")):
        for pattern, homes, name in LIBRARY_HOMES:
            if pattern.match(library.group(1)) and not path.startswith(tuple(h + "/" for h in homes)):
                faults.append(f"{path}:{number}: {name} header <{library.group(1)}>, allowed only in {', '.join(homes)}")


def check_functions(path, lines, faults):
    """A definition at namespace level begins at column 0 and ends with a closing brace at column 0."""
    start, in_class = None, False
    for number, line in enumerate(lines, 1):
        if re.match(r"(class|struct|union|enum)\b.*\{$", line):
            in_class = True
        elif line.startswith("}"):
            in_class = in_class and not line.startswith("};")
        if re.match(r"[A-Za-z_].*\)( const)?( noexcept)?( override)? \{$", line) or (
                start is None and not in_class and re.match(r"    .*\)( const)?( noexcept)? \{$", line)):
            start = number
        elif line.startswith("}") and start is not None:
            if number - start > FUNCTION_LINES:
                faults.append(f"{path}:{start}: function of {number - start} lines, expected at most {FUNCTION_LINES}")
            start = None


def main():
    faults, files = [], sources()
    for file in files:
        path = file.relative_to(ROOT).as_posix()
        lines = file.read_text().splitlines()
        if len(lines) > FILE_LINES:
            faults.append(f"{path}:1: file of {len(lines)} lines, expected at most {FILE_LINES}")
        if path.endswith(".hpp") and "#pragma once" not in lines[:3]:
            faults.append(f"{path}:1: header without #pragma once in its first lines")
        check_functions(path, lines, faults)
        for number, line in enumerate(lines, 1):
            check_includes(path, number, line, faults)
            code = re.sub(r'"(\\.|[^"\\])*"', '""', line)
            if len(line) > LINE_WIDTH:
                faults.append(f"{path}:{number}: line of {len(line)} characters, expected at most {LINE_WIDTH}")
            for pattern, why in BANNED:
                if pattern.search(code) and not code.lstrip().startswith("//"):
                    faults.append(f"{path}:{number}: {pattern.pattern!r}: {why}")
            if EXIT.search(code) and not path.endswith("main.cpp") and not path.startswith("tests/") \
                    and not code.lstrip().startswith("//"):
                faults.append(f"{path}:{number}: ends the process: only a program's main may")
    print("\n".join(faults) if faults else f"{len(files)} files, no faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
