from __future__ import annotations

import pytest

from alflow.engines.vasp_rules import decides, on_path

SAFE = [
    ("ALGO", "Fast", "Normal"),
    ("ALGO", None, "All"),
    ("ALGO", "All", None),
    ("IALGO", 38, 48),
    ("AMIN", 0.1, 0.01),
    ("BMIX", None, 3.0),
    ("NELM", 60, 200),
    ("NELMDL", None, -6),
    ("ISTART", None, 1),
    ("ICHARG", None, 2),
    ("EDIFF", 1e-6, 1e-7),
    ("EDIFF", None, 1e-5),
    ("NBANDS", None, 40),
    ("NBANDS", 40, 44),
    ("LREAL", "Auto", False),
    ("KPAR", 4, 2),
    ("POTIM", 0.5, 0.25),
]
CHANGING = [
    ("ENCUT", 400, 520),
    ("SIGMA", 0.2, 0.05),
    ("ISMEAR", 1, 0),
    ("KPOINTS", "0 Gamma 2 2 2", "0 Gamma 3 3 3"),
    ("POSCAR", "a", "b"),
    ("PREC", "Accurate", "Normal"),
    ("SYMPREC", None, 1e-4),
    ("ISYM", 2, 0),
    ("ADDGRID", None, True),
    ("LASPH", None, True),
    ("GGA", "Pe", "Ps"),
    ("NGX", None, 40),
    ("IBRION", -1, 1),
    ("LREAL", False, "Auto"),
    ("EDIFF", 1e-6, 1e-4),
    ("EDIFF", 1e-6, None),
    ("NBANDS", 40, 32),
    ("NBANDS", 40, None),
    ("ICHARG", None, 11),
    ("ALGO", None, "None"),
    ("ALGO", None, "Exact"),
    ("ALGO", None, "GW0"),
    ("IALGO", None, 2),
    ("NEW_TAG_OF_VASP_9", None, 1),
]


@pytest.mark.parametrize(("key", "old", "new"), SAFE)
def test_what_only_changes_the_way_to_the_ground_state(key, old, new):
    assert on_path(key, old, new)


@pytest.mark.parametrize(("key", "old", "new"), CHANGING)
def test_what_changes_the_ground_state_or_is_not_known(key, old, new):
    assert not on_path(key, old, new)


def test_the_theory_leaves_out_the_path_and_nothing_else():
    assert not any(decides(key) for key in ("ALGO", "NELM", "NCORE", "AMIX", "NBANDS"))
    assert all(decides(key) for key in ("ENCUT", "EDIFF", "LREAL", "ISYM", "LDAUU", "NEW_TAG_OF_VASP_9"))
