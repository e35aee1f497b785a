"""What the README tells people to type exists, and what can be typed without a run is typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].split() for line in re.findall(r"^    (alflow \S.*)$", README, re.MULTILINE)]


def alflow(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alflow", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)


def test_it_shows_the_verbs():
    assert {c[1] for c in COMMANDS} >= {"check", "submit", "status", "stop", "resume", "report", "dashboard", "explain"}


@pytest.mark.parametrize("verb", sorted({c[1] for c in COMMANDS}))
def test_every_verb_exists(verb):
    done = alflow(verb, "--help")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[1] in {"check", "explain"}], ids=" ".join)
def test_what_needs_no_run_works_as_typed(command):
    done = alflow(*command[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_links_and_files_it_names_are_there():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    named = [w for c in COMMANDS for w in c if w.startswith(("workflows/", "configs/"))]
    assert links
    assert [p for p in [*links, *named] if not (ROOT / p).exists()] == []


def test_make_targets_it_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)$", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
