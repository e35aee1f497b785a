"""Labels against pw.x run by hand, and fcc aluminium against what is known of it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alflow.core.frames import Frames
from alflow.interfaces import Code
from alflow.labelers.espresso import Part

PSEUDO_DIR = Path(os.environ.get("ALFLOW_TEST_PSEUDO_DIR", "/usr/share/espresso/pseudo"))
ENV = {"OMPI_MCA_ess_singleton_isolated": "1", "OMP_NUM_THREADS": "1"}
RY, BOHR = 13.605693122994, 0.529177210903  # CODATA 2018

BY_HAND = """&control
 calculation='scf', tprnfor=.true., tstress=.true., pseudo_dir='{pseudo}', outdir='{out}', disk_io='none'
/
&system
 ibrav=0, nat={n}, ntyp=1, ecutwfc={cutoff}, occupations='smearing', smearing='gauss', degauss=0.05
/
&electrons
 conv_thr=1d-9
/
ATOMIC_SPECIES
 Al 26.98 Al.pz-vbc.UPF
K_POINTS {k}
CELL_PARAMETERS bohr
{cell}
ATOMIC_POSITIONS bohr
{atoms}
"""


def by_hand(folder, frame, cutoff, mesh):
    """Energy in eV, forces in eV/Å and pressure in eV/Å³, from an input of our own and what pw.x prints."""
    cell, positions = frame.cell[0] / BOHR, frame.positions / BOHR
    rows = ["".join(f"{x:20.14f}" for x in row) for row in (*cell, *positions)]
    text = BY_HAND.format(
        pseudo=PSEUDO_DIR,
        out=folder / "out",
        n=len(positions),
        cutoff=cutoff,
        k="gamma" if mesh is None else "automatic\n " + " ".join(map(str, mesh)) + " 0 0 0",
        cell="\n".join(rows[:3]),
        atoms="\n".join(" Al " + row for row in rows[3:]),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hand.in").write_text(text)
    words = [shutil.which("pw.x"), "-in", "hand.in"]
    said = subprocess.run(
        words, cwd=folder, env={**os.environ, **ENV}, capture_output=True, text=True, check=True
    ).stdout
    energy = float(re.search(r"!    total energy +=\s*(\S+) Ry", said)[1]) * RY
    forces = [
        line.split("=")[1].split() for line in said.splitlines() if re.search(r"atom +\d+ type +1   force =", line)
    ]
    kbar = float(re.search(r"\(kbar\)     P=\s*(\S+)", said)[1])
    return energy, np.array(forces[: len(positions)], float) * RY / BOHR, kbar * 0.1 / 160.21766208


def random_cells(count, rng):
    """Cells of 4 to 8 atoms without symmetry."""
    frames = []
    for i in range(count):
        n, edge = 4 + i % 5, 4.6 + 0.1 * (i % 5)
        grid = np.array([[x, y, z] for x in (0, 0.5) for y in (0, 0.5) for z in (0, 0.5)])
        cell = np.diag(rng.uniform(0.95, 1.15, 3) * edge) + rng.normal(0, 0.15, (3, 3))
        spots = grid[rng.choice(8, n, replace=False)] + rng.normal(0, 0.03, (n, 3))
        frames.append(Frames.single([13] * n, spots @ cell, cell))
    return Frames.concat(frames)


@pytest.mark.slow
@pytest.mark.requires_program("pw.x")
def test_twenty_random_cells_agree_with_pw_run_by_hand(tmp_path):
    frames = random_cells(20, np.random.default_rng(2020))
    part = Part(
        pseudopotentials={"Al": "Al.pz-vbc.UPF"},
        ecutwfc_Ry=12,
        kpoints="gamma",
        smearing="gaussian",
        degauss_Ry=0.05,
        conv_thr_Ry=1e-9,
    )
    code = Code("espresso", ("pw.x",), env=ENV, settings={"pseudo_dir": str(PSEUDO_DIR)})
    labels, verdicts = part.label(frames, code, tmp_path / "w")
    assert all(v.ok and not v.corrections for v in verdicts), verdicts
    assert len(np.unique(labels.energy.round(2))) == 20  # twenty different questions
    for i, frame in enumerate(frames):
        energy, forces, pressure = by_hand(tmp_path / f"hand-{i}", frame, 12, None)
        atoms = slice(frames.offsets[i], frames.offsets[i + 1])
        assert abs(labels.energy[i] - energy) < 1e-6 * frame.n_atoms
        assert np.abs(labels.forces[atoms] - forces).max() < 1e-5
        assert -np.trace(labels.stress[i]) / 3 == pytest.approx(pressure, abs=1e-5)


@pytest.mark.slow
@pytest.mark.requires_program("pw.x")
def test_stress_has_sign_and_unit_of_the_slope_of_the_energy(tmp_path):
    loose = random_cells(1, np.random.default_rng(7))
    frame = loose.moved(0.9 * loose.positions, 0.9 * loose.cell)
    settings = {"ecutwfc_Ry": 30, "kpoints": "gamma", "smearing": "gaussian", "degauss_Ry": 0.05, "conv_thr_Ry": 1e-9}
    part = Part(pseudopotentials={"Al": "Al.pz-vbc.UPF"}, **settings)
    code = Code("espresso", ("pw.x",), env=ENV, settings={"pseudo_dir": str(PSEUDO_DIR)})
    labels, (verdict,) = part.label(frame, code, tmp_path / "w")
    assert verdict.ok
    step, slopes = 0.005, []
    for i in range(3):  # a stretch along each axis: dE = V stress strain
        energies = []
        for sign in (1, -1):
            stretch = np.eye(3)
            stretch[i, i] += sign * step
            ends = frame.moved(frame.positions @ stretch, frame.cell @ stretch)
            energies.append(by_hand(tmp_path / f"hand-{i}{sign}", ends, 30, None)[0])
        slopes.append((energies[0] - energies[1]) / (2 * step) / frame.volumes[0])
    got = np.diag(labels.stress[0])
    # the basis set of a fixed cutoff changes with the cell: at 30 Ry the slope has a Pulay stress of 1e-3 eV/Å³
    np.testing.assert_allclose(got, slopes, rtol=0, atol=0.03 * np.abs(got).max())
    assert np.abs(got).min() > 0.05  # 8 GPa: enough to see sign and unit


SHARED = os.environ.get("ALFLOW_SHARED_DATA", "")
"""A folder with ``pseudo/Al.upf`` of SSSP: too large, and not ours, to be shipped with the tests."""


@pytest.mark.slow
@pytest.mark.requires_program("pw.x")
@pytest.mark.skipif(not SHARED, reason="set ALFLOW_SHARED_DATA to a folder with pseudo/Al.upf of SSSP")
def test_the_equation_of_state_of_fcc_aluminium(tmp_path):
    shutil.copy(Path(SHARED) / "pseudo" / "Al.upf", tmp_path)
    md5 = hashlib.md5((tmp_path / "Al.upf").read_bytes()).hexdigest()
    entry = {"filename": "Al.upf", "md5": md5, "cutoff_wfc": 30.0, "cutoff_rho": 240.0}
    (tmp_path / "SSSP_1.3.0_PBE_efficiency.json").write_text(json.dumps({"Al": entry}))
    script = Path(__file__).parents[2] / "benchmarks" / "espresso_eos.py"
    words = [sys.executable, str(script), "--family", str(tmp_path), "--kspacing", "0.17"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr  # it holds a0 and B against 4.039 Å and 78 GPa
    assert "cutoffs 30 / 240 Ry, k-points 16x16x16" in ran.stdout
