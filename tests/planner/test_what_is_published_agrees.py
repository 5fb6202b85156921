"""Law: what a release says of itself in several files agrees: version, date, licence, and the tests it names."""

from __future__ import annotations

import re
import tomllib

import yaml

from tests import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
RELEASES = re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)


def test_the_changelog_names_every_release_once_and_the_latest_first() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert headings == ["Unreleased", *(f"{version} - {date}" for version, date in RELEASES)]
    versions = [tuple(map(int, version.split("."))) for version, _ in RELEASES]
    assert versions == sorted(set(versions), reverse=True)


def test_the_version_is_the_latest_release_or_comes_after_it() -> None:
    latest = RELEASES[0][0]
    version, dev, _ = PROJECT["version"].partition(".dev")
    number, released = (tuple(map(int, text.split("."))) for text in (version, latest))
    assert number > released if dev else number == released


def test_the_citation_is_of_the_latest_release() -> None:
    assert (CITATION["version"], CITATION["date-released"].isoformat()) == RELEASES[0]


def test_licence_and_holder_are_the_same_everywhere() -> None:
    assert PROJECT["license"] == CITATION["license"] == "Apache-2.0"
    (holder,) = PROJECT["authors"]
    assert [holder] == CITATION["authors"]
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert f"Copyright 2026 {holder['name']}\n" in text


def test_every_test_and_file_that_the_guide_names_exists() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    tests = set(re.findall(r"\btest_\w+\.py\b", guide))
    assert tests <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(tests) > 20
    paths = set(re.findall(r"`([\w.]+/[\w./]*)`", guide)) - {"dist/"}
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
