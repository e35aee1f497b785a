"""The input of ``pw.x`` as settings: which of them decide the label, and which only how it is computed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from alflow.engines.custody import Rules, Settings
from alflow.store.files import write_text

INPUT: Final = "pw.in"

_CARDS: Final = (
    *("ATOMIC_SPECIES", "ATOMIC_POSITIONS", "K_POINTS", "CELL_PARAMETERS"),
    *("CONSTRAINTS", "OCCUPATIONS", "ATOMIC_FORCES", "ATOMIC_VELOCITIES", "HUBBARD", "SOLVENTS", "ADDITIONAL_K_POINTS"),
)
_PATH: Final = {
    "control": {
        *("title", "verbosity", "restart_mode", "max_seconds", "disk_io", "outdir", "prefix", "wf_collect", "iprint"),
        "lkpoint_dir",
    },
    "electrons": {
        *("electron_maxstep", "mixing_mode", "mixing_beta", "mixing_ndim", "diagonalization", "startingpot"),
        *("startingwfc", "diago_thr_init", "diago_cg_maxiter", "diago_ppcg_maxiter", "diago_david_ndim"),
        *("diago_rmm_ndim", "diago_rmm_conv", "diago_gs_nblock", "diago_full_acc", "adaptive_thr"),
        *("conv_thr_init", "conv_thr_multi"),
    },
}
"""Words that decide how self-consistency is reached, not which density is self-consistent."""

ALLOWED: Final = {"degauss": "system.degauss"}
"""What a workflow may allow a correction to change, and the setting that it is in the input."""


def is_path_word(namelist: str, word: str) -> bool:
    """Whether a word of the input decides only how a label is computed."""
    return word.lower().partition("(")[0] in _PATH.get(namelist.lower(), set())


def on_path(setting: str, old: Any, new: Any) -> bool:
    """The rule of `Rules.on_path`. A threshold may become tighter, and the number of bands larger."""
    namelist, _, word = setting.partition(".")
    if setting == "electrons.conv_thr":
        return _numbers(old, new) and new < old
    if setting == "system.nbnd":
        return _numbers(old, new) and new > old
    return is_path_word(namelist, word)


def _numbers(*values: Any) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def read_settings(folder: Path) -> Settings:
    """The input in `folder`, flat: ``electrons.mixing_beta``, and the text of each card by its name."""
    namelists, cards = _parsed(folder / INPUT)
    flat: dict[str, Any] = {
        f"{n}.{word.lower()}": value for n, words in namelists.items() for word, value in words.items()
    }
    return flat | cards


def change(folder: Path, settings: Settings) -> None:
    """Set words of the namelists in `folder`'s input; None takes a word out."""
    path = folder / INPUT
    namelists, cards = _parsed(path)
    for setting, value in settings.items():
        namelist, _, word = setting.partition(".")
        words = namelists.setdefault(namelist, {})
        if value is None:
            words.pop(word, None)
        else:
            words[word] = value
    write_text(path, _written(namelists) + "".join(f"{text}\n\n" for text in cards.values()))


def rules(allow: tuple[str, ...]) -> Rules:
    """The rules for ``pw.x``; `allow` are words of `ALLOWED`."""
    return Rules(read_settings, (INPUT,), on_path, frozenset(ALLOWED[word] for word in allow))


def _parsed(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    from ase.io.espresso import read_fortran_namelist

    with path.open(encoding="utf-8") as file:
        found, lines = read_fortran_namelist(file)
    cards: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        word = re.split(r"[\s({]", line, maxsplit=1)[0].upper()
        name = word if word in _CARDS else name
        cards.setdefault(name, []).append(line)
    return {n.lower(): dict(words) for n, words in found.items()}, {n: "\n".join(text) for n, text in cards.items()}


def _written(namelists: Mapping[str, Mapping[str, Any]]) -> str:
    from ase.io.espresso import Namelist

    return str(Namelist({n.upper(): dict(words) for n, words in namelists.items()}).to_string())
