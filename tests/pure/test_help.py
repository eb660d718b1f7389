"""`make` alone: the daily verbs a line each, the others by name, on one screen; and nothing is missing."""

from __future__ import annotations

import re
import subprocess

from tests.conftest import REPOSITORY

MAKEFILE = (REPOSITORY / "Makefile").read_text()
EXPLAINED = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
ENOUGH = range(8, 14)
"""Verbs of every day: what one learns in a sitting."""


def said(*variables: str) -> str:
    make = ["make", "--no-print-directory", "help", *variables]
    return subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


def a_line_each(text: str) -> list[str]:
    return re.findall(r"^  make ([a-z-]+) +\S", text, re.MULTILINE)


def test_the_first_screen_fits_a_terminal_of_24_lines() -> None:
    lines = said().splitlines()
    assert len(lines) < 24  # and the prompt
    assert max(map(len, lines)) <= 80


def test_the_first_screen_names_every_verb_once_and_no_other() -> None:
    text = said()
    daily = a_line_each(text)
    assert len(daily) in ENOUGH
    topics = re.findall(r"^  (?!make |a line)(\S.*)$", text, re.MULTILINE)
    others = [verb for line in topics for verb in line[19:].split()]
    assert sorted([*daily, *others, "help"]) == sorted(EXPLAINED)


def test_all_of_it_has_a_line_for_each_verb() -> None:
    assert sorted(a_line_each(said("ALL=1"))) == sorted(EXPLAINED)


def test_every_verb_is_explained_and_none_is_taken_for_a_file() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == targets == EXPLAINED
