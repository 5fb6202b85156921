#!/usr/bin/env bash
# PyYAML 6.0.3 reads one document or refuses it, depending on which of its two loaders is asked.
#
# YAML allows a tab as white space between tokens: after a colon, before a comment, at the end of a line (YAML 1.2.2,
# 6.1 and 6.2). PyYAML's C loader (libyaml 0.2.5) reads such documents, its Python loader raises a ScannerError. A program
# that takes the C loader if it was built and the other one if not, as many do, therefore accepts a file on one machine
# that it refuses on the next. mimo reads specs with the Python loader everywhere, so that a spec is valid or not on all
# machines alike.
#
# Seen: C loader {'a': 'b'} for each of the three documents; Python loader ScannerError, "found character '\t' that
# cannot start any token".
#
# This script installs the pinned package in a folder of its own and fails if the behaviour is another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary=:all: pyyaml==6.0.3
"$folder/venv/bin/python" - <<'PYTHON'
import yaml

assert yaml.__with_libyaml__, "this build of PyYAML has no C loader"
documents = {"after a colon": "a:\tb\n", "before a comment": "a: b\t# c\n", "at the end of a line": "a: b\t\n"}
for place, text in documents.items():
    by_c = yaml.load(text, Loader=yaml.CSafeLoader)
    try:
        by_python = repr(yaml.load(text, Loader=yaml.SafeLoader))
    except yaml.scanner.ScannerError as error:
        by_python = f"ScannerError: {error.problem}"
    print(f"a tab {place}: C loader {by_c}, Python loader {by_python}")
    assert by_c == {"a": "b"}
    assert by_python == "ScannerError: found character '\\t' that cannot start any token"
print(f"PyYAML {yaml.__version__}, libyaml {yaml._yaml.get_version_string()}: as described")
PYTHON
