from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
from pymatgen.io.vasp import Incar, Kpoints

from alflow.core.frames import Frames
from alflow.errors import InputError
from alflow.interfaces import Code
from alflow.labelers.vasp import Part
from alflow.testing.toys import morse

STAND_IN = Path(__file__).with_name("vasp_stand_in.py")


def potcar(element, lexch="PE"):
    title = f"PAW_PBE {element} 04Jan2001"
    return f"  {title}\n   VRHFIN ={element}: s2p1\n   LEXCH  = {lexch}\n   TITEL  = {title}\n"


@pytest.fixture
def library(tmp_path):
    for element in ("Al", "Cu"):
        (tmp_path / "potcars" / element).mkdir(parents=True)
        (tmp_path / "potcars" / element / "POTCAR").write_text(potcar(element))
    return tmp_path / "potcars"


@pytest.fixture
def code(library):
    def _code(mode="", **settings):
        words = (sys.executable, str(STAND_IN), mode)
        return Code("vasp", command=words, settings={"potcars": str(library), **settings})

    return _code


def cell(seed, numbers=(13,) * 8, left_handed=False):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), axis=-1).reshape(-1, 3) * 2.9
    lattice = np.diag([5.8, 5.9, 6.0]) + rng.normal(scale=0.1, size=(3, 3))
    if left_handed:
        lattice = lattice[[1, 0, 2]]
    return Frames.single(numbers, grid + rng.normal(scale=0.1, size=(8, 3)), lattice)


AL = Part(potcar_symbols={"Al": "Al"}, encut_eV=300, kpoints=(2, 2, 2))
BOTH = Part(potcar_symbols={"Al": "Al", "Cu": "Cu"}, encut_eV=300, kpoints="gamma")


def test_what_the_program_computed_comes_back_in_our_order_units_and_signs(code, tmp_path):
    frames = Frames.concat([cell(1), cell(2, (13, 29, 13, 29, 29, 13, 13, 29)), cell(3, left_handed=True)])
    labels, verdicts = BOTH.label(frames, code(), tmp_path / "work")
    assert all(v.ok for v in verdicts), verdicts
    expected = morse(frames)
    np.testing.assert_allclose(labels.energy, expected.energy, rtol=1e-10)
    np.testing.assert_allclose(labels.forces, expected.forces, atol=1e-9)
    np.testing.assert_allclose(labels.stress, expected.stress, atol=1e-12)


def test_what_is_bought_is_not_bought_again_and_no_potcar_stays(code, tmp_path):
    first = AL.label(cell(1), code(), tmp_path)
    again = AL.label(cell(1), code("silent"), tmp_path)
    np.testing.assert_array_equal(first[0].forces, again[0].forces)
    left = {p.name for p in tmp_path.rglob("*") if p.is_file() and "potcars" not in p.parts}
    assert "POTCAR" not in left
    assert "WAVECAR" not in left
    assert {"INCAR", "KPOINTS", "POSCAR", "vasp.log", "vasprun.xml"} <= left


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("silent", "VASP wrote no vasprun.xml; VASP ended with status 1"),
        ("torn", "cannot be read"),
        ("unconverged", "did not converge"),
    ],
)
def test_a_failure_is_a_verdict_with_its_log(code, tmp_path, mode, reason):
    labels, (verdict,) = AL.label(cell(1), code(mode), tmp_path)
    assert not verdict.ok
    assert reason in verdict.reason
    assert Path(verdict.log).is_file()
    assert np.isnan(labels.energy).all()
    assert np.isnan(labels.forces).all()


def test_time_is_limited(code, tmp_path):
    impatient = Part(potcar_symbols={"Al": "Al"}, encut_eV=300, kpoints="gamma", max_seconds=3.0)
    _, (verdict,) = impatient.label(cell(1), code("slow"), tmp_path)
    assert verdict.reason == "took longer than 3 s"


def test_frames_that_vasp_cannot_take(code, tmp_path):
    good = cell(1)
    open_cell = Frames(good.numbers, good.positions, good.cell, np.array([[True, True, False]]), good.offsets)
    nan = good.moved(np.where(np.arange(24).reshape(8, 3) == 5, np.nan, good.positions))
    frames = Frames.concat([open_cell, nan, cell(2, (29,) * 8), good])
    _, verdicts = AL.label(frames, code(), tmp_path)
    assert [v.ok for v in verdicts] == [False, False, False, True]
    assert "periodic" in verdicts[0].reason
    assert "finite" in verdicts[1].reason
    assert "no POTCAR is named for Cu" in verdicts[2].reason


def test_a_force_out_of_bounds_is_refused(code, tmp_path):
    calm = Part(potcar_symbols={"Al": "Al"}, encut_eV=300, kpoints="gamma", max_force_eV_A=1e-3)
    _, (verdict,) = calm.label(cell(1), code(), tmp_path)
    assert "atoms overlap" in verdict.reason


def test_inputs_are_what_was_asked(code, tmp_path):
    part = Part(
        potcar_symbols={"Al": "Al"},
        encut_eV=410,
        kspacing_per_A=0.5,
        ismear=-1,
        sigma_eV=0.1,
        incar={"ncore": 4, "ALGO": "Fast"},
    )
    frame = Frames.single([13], [[0, 0, 0]], np.diag([4.0, 8.0, 30.0]))
    part.label(frame, code(), tmp_path)
    (folder,) = tmp_path.glob("vasp-*")
    incar = Incar.from_file(folder / "INCAR")
    assert (incar["ENCUT"], incar["ISMEAR"], incar["SIGMA"], incar["NSW"]) == (410, -1, 0.1, 0)
    assert (incar["GGA"], incar["NCORE"], incar["ALGO"], incar["ISYM"]) == ("Pe", 4, "Fast", 0)
    # 2 pi / 4 / 0.5 = 3.14 -> 4; 1.57 -> 2; 0.42 -> 1
    assert tuple(Kpoints.from_file(folder / "KPOINTS").kpts[0]) == (4, 2, 1)


def test_the_theory_is_what_decides_the_numbers(code, library):
    plain = AL.theory(code())
    assert plain.code == "vasp"
    assert plain.settings["potcars"]["Al"].startswith("PAW_PBE Al 04Jan2001:")
    parallel = Part(potcar_symbols={"Al": "Al"}, encut_eV=300, kpoints=(2, 2, 2), incar={"NCORE": 8})
    assert parallel.theory(code()) == plain
    for other in (
        Part(potcar_symbols={"Al": "Al"}, encut_eV=301, kpoints=(2, 2, 2)),
        Part(potcar_symbols={"Al": "Al"}, encut_eV=300, kpoints=(2, 2, 3)),
        Part(potcar_symbols={"Al": "Al"}, encut_eV=300, kpoints=(2, 2, 2), incar={"LREAL": "Auto"}),
        Part(potcar_symbols={"Al": "Al"}, encut_eV=300, kpoints=(2, 2, 2), xc="PBEsol"),
    ):
        assert other.theory(code()).fingerprint != plain.fingerprint
    (library / "Al" / "POTCAR").write_text(potcar("Al") + "another release\n")
    assert AL.theory(code()).fingerprint != plain.fingerprint


def test_a_packed_library(code, library):
    plain = AL.theory(code())
    (library / "Al" / "POTCAR").unlink()
    (library / "Al" / "POTCAR.gz").write_bytes(gzip.compress(potcar("Al").encode()))
    assert AL.theory(code()) == plain


def test_check_finds_what_is_wrong_before_anything_runs(code, library):
    AL.check(frozenset({"Al"}), code())
    with pytest.raises(InputError, match="has no entry for Cu"):
        AL.check(frozenset({"Al", "Cu"}), code())
    with pytest.raises(InputError, match=r"codes\.vasp: is not in the site file"):
        AL.check(frozenset({"Al"}), None)
    with pytest.raises(InputError, match=r"codes\.vasp\.potcars"):
        AL.check(frozenset({"Al"}), Code("vasp", command=("true",)))
    with pytest.raises(InputError, match="no-such-vasp"):
        AL.check(frozenset({"Al"}), Code("vasp", command=("no-such-vasp",), settings={"potcars": str(library)}))
    for symbol, words in {"Al_GW": "there is no", "Cu": "is a POTCAR of Cu, not of Al"}.items():
        with pytest.raises(InputError, match=words):
            Part(potcar_symbols={"Al": symbol}, encut_eV=300, kpoints="gamma").check(frozenset({"Al"}), code())
    (library / "Al" / "POTCAR").write_text(potcar("Al", lexch="CA"))
    with pytest.raises(InputError, match="is not a POTCAR of PBE"):
        AL.check(frozenset({"Al"}), code())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "either kpoints or kspacing_per_A"),
        ({"kpoints": "gamma", "kspacing_per_A": 0.2}, "either"),
        ({"kpoints": "gamma", "incar": {"encut": 3}}, "is set by the other keys"),
        ({"kpoints": "gamma", "potcar_symbols": {}}, "is empty"),
    ],
)
def test_settings_that_cannot_be(fields, words):
    with pytest.raises(InputError, match=words):
        Part(**{"potcar_symbols": {"Al": "Al"}, "encut_eV": 300, **fields})
