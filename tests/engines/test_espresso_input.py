import pytest

from alflow.engines.espresso_input import ALLOWED, INPUT, change, is_path_word, on_path, read_settings, rules

TEXT = """&CONTROL
   calculation      = 'scf'
   outdir           = '/tmp/a b/c'
   tprnfor          = .true.
/
&SYSTEM
   ecutwfc          = 30.0
   occupations      = 'smearing'
   degauss          = 0.02
   starting_magnetization(1) = 0.5
/
&ELECTRONS
   conv_thr         = 1e-07
   mixing_beta      = 0.7
/
ATOMIC_SPECIES
Al 26.98 Al.UPF

K_POINTS automatic
2 2 2  0 0 0

CELL_PARAMETERS angstrom
4.0 0.0 0.0
0.0 4.0 0.0
0.0 0.0 4.0

ATOMIC_POSITIONS angstrom
Al 0.0 0.0 0.0
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / INPUT).write_text(TEXT)
    return tmp_path


def test_settings_are_flat_and_complete(folder):
    found = read_settings(folder)
    assert found["electrons.mixing_beta"] == 0.7
    assert found["electrons.conv_thr"] == 1e-7
    assert found["control.tprnfor"] is True
    assert found["control.outdir"] == "/tmp/a b/c"
    assert found["system.starting_magnetization(1)"] == 0.5
    assert found["K_POINTS"].split() == ["K_POINTS", "automatic", "2", "2", "2", "0", "0", "0"]
    assert {"ATOMIC_SPECIES", "ATOMIC_POSITIONS", "CELL_PARAMETERS"} < set(found)


def test_a_change_changes_what_it_names_and_nothing_else(folder):
    before = read_settings(folder)
    change(folder, {"electrons.mixing_beta": 0.3, "electrons.startingpot": "file", "control.tprnfor": None})
    after = read_settings(folder)
    assert {k: (before.get(k), after.get(k)) for k in {**before, **after} if before.get(k) != after.get(k)} == {
        "electrons.mixing_beta": (0.7, 0.3),
        "electrons.startingpot": (None, "file"),
        "control.tprnfor": (True, None),
    }
    change(folder, {"electrons.mixing_beta": 0.7, "electrons.startingpot": None, "control.tprnfor": True})
    assert read_settings(folder) == before


def test_changes_reach_namelists_that_are_not_there(folder):
    (folder / INPUT).write_text(TEXT.replace("&ELECTRONS", "&ELECTRONS\n/\n&IONS"))
    change(folder, {"electrons.diagonalization": "cg"})
    assert read_settings(folder)["electrons.diagonalization"] == "cg"


@pytest.mark.parametrize(
    ("setting", "old", "new", "safe"),
    [
        ("electrons.mixing_beta", 0.7, 0.3, True),
        ("electrons.mixing_mode", None, "local-TF", True),
        ("electrons.mixing_ndim", 8, 4, True),
        ("electrons.diagonalization", "david", "cg", True),
        ("electrons.electron_maxstep", 100, 500, True),
        ("electrons.startingpot", None, "file", True),
        ("electrons.diago_david_ndim", 2, 4, True),
        ("control.restart_mode", "from_scratch", "restart", True),
        ("control.max_seconds", 10.0, 3.0, True),
        ("control.disk_io", "none", "low", True),
        ("electrons.conv_thr", 1e-6, 1e-8, True),
        ("electrons.conv_thr", 1e-6, 1e-5, False),
        ("electrons.conv_thr", 1e-6, None, False),
        ("system.nbnd", 20, 30, True),
        ("system.nbnd", 30, 20, False),
        ("system.nbnd", None, 30, False),
        ("system.degauss", 0.02, 0.04, False),
        ("system.smearing", "mv", "mp", False),
        ("system.ecutwfc", 30.0, 40.0, False),
        ("system.ecutrho", 240.0, 300.0, False),
        ("system.nosym", None, True, False),
        ("electrons.scf_must_converge", None, False, False),
        ("control.pseudo_dir", "a", "b", False),
        ("system.mixing_beta", None, 0.1, False),
        ("K_POINTS", "K_POINTS gamma", "K_POINTS automatic\n2 2 2 0 0 0", False),
        ("ATOMIC_POSITIONS", "a", "b", False),
        ("CELL_PARAMETERS", "a", "b", False),
        ("ATOMIC_SPECIES", "a", "b", False),
    ],
)
def test_what_is_on_the_numerical_path(setting, old, new, safe):
    assert on_path(setting, old, new) is safe


def test_a_workflow_allows_by_words():
    assert rules(()).allowed == frozenset()
    assert rules(("degauss",)).allowed == {"system.degauss"}
    assert not any(on_path(setting, 1.0, 2.0) for setting in ALLOWED.values())


def test_words_are_known_in_any_case():
    assert is_path_word("ELECTRONS", "Mixing_Beta")
    assert is_path_word("electrons", "mixing_fixed_ns") is False
