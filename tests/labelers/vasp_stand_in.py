"""Stands in for ``vasp_std``, which is licensed: reads the four input files, writes ``vasprun.xml`` in VASP's form.

It knows one solid, the Morse reference of `alflow.testing`, so that what comes back can be held against it. The first
argument says how it goes wrong.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from alflow.core.frames import Frames
from alflow.testing.toys import morse

KBAR = 1602.1766208
"""One eV/A^3 in kbar."""


def read_poscar():
    lines = Path("POSCAR").read_text().splitlines()
    scale = float(lines[1])
    lattice = scale * np.array([line.split() for line in lines[2:5]], float)
    symbols = [s for s, n in zip(lines[5].split(), lines[6].split(), strict=True) for _ in range(int(n))]
    assert lines[7].lower().startswith("d"), "fractional positions"
    fractions = np.array([line.split()[:3] for line in lines[8 : 8 + len(symbols)]], float)
    return symbols, lattice, fractions


def read_incar():
    pairs = (line.split("=") for line in Path("INCAR").read_text().splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def rows(name, array):
    lines = "".join(f"<v> {' '.join(f'{x:.16g}' for x in row)} </v>\n" for row in np.atleast_2d(array))
    return f'<varray name="{name}">\n{lines}</varray>\n'


def atominfo(symbols, titles):
    kinds = list(dict.fromkeys(symbols))
    atoms = "".join(f"<rc><c>{s:<2}</c><c> {kinds.index(s) + 1}</c></rc>\n" for s in symbols)
    types = "".join(
        f"<rc><c> {symbols.count(k)}</c><c>{k:<2}</c><c> 26</c><c> 3</c><c> {t} </c></rc>\n"
        for k, t in zip(kinds, titles, strict=True)
    )
    return f"""<atominfo><atoms> {len(symbols)} </atoms><types> {len(kinds)} </types>
<array name="atoms"><field type="string">element</field><field type="int">atomtype</field><set>
{atoms}</set></array>
<array name="atomtypes"><field type="int">atomspertype</field><field type="string">element</field>
<field>mass</field><field>valence</field><field type="string">pseudopotential</field><set>
{types}</set></array></atominfo>
"""


def structure(name, lattice, fractions):
    crystal = rows("basis", lattice) + f'<i name="volume"> {np.linalg.det(lattice)} </i>\n'
    crystal += rows("rec_basis", np.linalg.inv(lattice).T)
    return f"<structure{name}><crystal>\n{crystal}</crystal>\n{rows('positions', fractions)}</structure>\n"


def main(mode: str) -> int:
    incar, (symbols, lattice, fractions) = read_incar(), read_poscar()
    titles = [line.split("=")[1].strip() for line in Path("POTCAR").read_text().splitlines() if "TITEL" in line]
    assert [t.split()[1] for t in titles] == list(dict.fromkeys(symbols)), "the POTCAR must follow the POSCAR"
    assert np.linalg.det(lattice) > 0, "VASP wants a right-handed cell"
    grid = Path("KPOINTS").read_text().splitlines()[3]
    Path("WAVECAR").write_bytes(b"big")
    if mode == "silent":
        return 1
    if mode == "slow":
        time.sleep(60)
    labels = morse(Frames.single([atomic_numbers[s] for s in symbols], fractions @ lattice, lattice))
    energy, kbar = float(labels.energy[0]), -labels.stress[0] * KBAR
    steps = int(incar["NELM"]) if mode == "unconverged" else 7
    step = f'<scstep><energy><i name="e_fr_energy"> {energy} </i></energy></scstep>\n'
    text = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
<generator><i name="program" type="string">vasp </i><i name="version" type="string">6.4.2  </i></generator>
<incar><i type="int" name="NELM"> {incar["NELM"]}</i></incar>
<kpoints><generation param="Gamma"><v type="int" name="divisions"> {grid} </v></generation>
{rows("kpointlist", [0, 0, 0])}{rows("weights", [1])}</kpoints>
<parameters><separator name="electronic"><separator name="electronic convergence">
<i type="int" name="NELM"> {incar["NELM"]}</i><i type="int" name="NELMIN"> 2</i></separator>
<i type="int" name="ISPIN"> 1</i></separator>
<separator name="ionic"><i type="int" name="NSW"> 0</i><i type="int" name="IBRION"> -1</i></separator></parameters>
{atominfo(symbols, titles)}{structure(' name="initialpos"', lattice, fractions)}<calculation>
{step * steps}{structure("", lattice, fractions)}{rows("forces", labels.forces)}{rows("stress", kbar)}
<energy><i name="e_fr_energy"> {energy} </i><i name="e_wo_entrp"> {energy + 0.5} </i>
<i name="e_0_energy"> {energy + 0.25} </i></energy></calculation>
{structure(' name="finalpos"', lattice, fractions)}</modeling>
"""
    Path("vasprun.xml").write_text(text[: len(text) // 2] if mode == "torn" else text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
