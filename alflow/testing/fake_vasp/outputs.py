"""Writes ``vasprun.xml``, ``OUTCAR`` and ``OSZICAR`` as VASP 6 does: same elements, same digits."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from alflow.core.frames import Floats
from alflow.testing.fake_vasp.inputs import KINDS, Inputs
from alflow.testing.fake_vasp.physics import Result

KBAR: Final = 1602.1766208
"""One eV/angstrom^3 in kbar."""
_DEFAULTS: Final[Mapping[str, Any]] = {
    "PREC": "normal",
    "EDIFF": 1e-4,
    "ISMEAR": 1,
    "SIGMA": 0.2,
    "ISTART": 0,
    "ICHARG": 2,
    "ISPIN": 1,
    "NELM": 60,
    "NELMIN": 2,
    "LASPH": False,
    "AMIX": 0.4,
    "BMIX": 1.0,
    "AMIN": 0.1,
    "IMIX": 4,
    "ADDGRID": False,
    "NSW": 0,
    "IBRION": -1,
    "ISIF": 2,
    "POTIM": 0.5,
    "ISYM": 2,
    "SYMPREC": 1e-5,
    "LWAVE": True,
    "LCHARG": True,
}


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What is written of a run.

    Attributes:
        inputs, result: what was asked and what came out.
        energies: free energy after each electronic step, eV.
        converged: the electronic loop ended below EDIFF.
        stopped: it was told to stop.
    """

    inputs: Inputs
    result: Result
    energies: Sequence[float]
    converged: bool
    stopped: bool = False


def write(run: Run, folder: Path) -> None:
    """All output files of a run that came to its end."""
    (folder / "OSZICAR").write_text(_oszicar(run))
    (folder / "OUTCAR").write_text(outcar(run))
    (folder / "vasprun.xml").write_text(vasprun(run))
    (folder / "CONTCAR").write_text((folder / "POSCAR").read_text())
    (folder / "EIGENVAL").write_text("stand-in\n")
    if run.inputs.tag("LCHARG", default=True):
        (folder / "CHGCAR").write_text("stand-in\n" + "0.1E+00 " * 1000)
    if run.inputs.tag("LWAVE", default=True):
        (folder / "WAVECAR").write_bytes(b"\0" * 10_000)


# ---- vasprun.xml ---------------------------------------------------------------------------------------------------


def vasprun(run: Run) -> str:
    """Text of ``vasprun.xml``."""
    inputs, result = run.inputs, run.result
    points = _kpoints(inputs.grid, inputs.style)
    steps = "".join(_scstep(e, result) for e in run.energies)
    final = run.energies[-1]
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator>
  <i name="program" type="string">vasp </i>
  <i name="version" type="string">6.4.2  </i>
  <i name="subversion" type="string">stand-in of alflow, not VASP </i>
 </generator>
 <incar>
{_tags(inputs.incar)} </incar>
 <kpoints>
  <generation param="{inputs.style}">
   <v type="int" name="divisions">{_ints(inputs.grid)}</v>
   <v name="usershift">{_reals([0, 0, 0])}</v>
  </generation>
{_varray("kpointlist", points)}{_varray("weights", np.full((len(points), 1), 1 / len(points)))} </kpoints>
 <parameters>
{_parameters(inputs)} </parameters>
{_atominfo(inputs)}{_structure(' name="initialpos"', inputs)} <calculation>
{steps}{_structure("", inputs)}{_varray("forces", result.forces)}{_varray("stress", -KBAR * result.stress)}  <energy>
{_energies(final, result)}  </energy>
  <time name="totalsc">    0.11    0.12</time>
 </calculation>
{_structure(' name="finalpos"', inputs)}</modeling>
"""


def _scstep(free: float, result: Result) -> str:
    time = '   <time name="total">    0.01    0.01</time>\n'
    return f"  <scstep>\n{time}   <energy>\n{_energies(free, result)}   </energy>\n  </scstep>\n"


def _energies(free: float, result: Result) -> str:
    shift = free - result.free
    named = (
        ("e_fr_energy", free),
        ("e_wo_entrp", result.without_entropy + shift),
        ("e_0_energy", result.sigma0 + shift),
    )
    return "".join(f'    <i name="{name}">{value:17.8f} </i>\n' for name, value in named)


def _parameters(inputs: Inputs) -> str:
    own = {
        "ENMAX": float(inputs.tag("ENCUT", max(s.enmax for s in inputs.species))),
        "NELECT": inputs.electrons,
        "NBANDS": inputs.bands,
        "GGA": str(inputs.tag("GGA", "--")),
    }
    echoed = {key: inputs.tag(key, value) for key, value in _DEFAULTS.items()}
    return f'  <separator name="electronic" >\n{_tags(echoed | own)}  </separator>\n'


def _tags(tags: Mapping[str, Any]) -> str:
    return "".join(f"  {_tag(key, value)}\n" for key, value in tags.items())


def _tag(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return f'<i type="logical" name="{key}"> {"T" if value else "F"}  </i>'
    if isinstance(value, int):
        return f'<i type="int" name="{key}">{value:6d}</i>'
    if isinstance(value, float):
        return f'<i name="{key}">{value:16.8f}</i>'
    if isinstance(value, list):
        return f'<v name="{key}">{_reals(value)}</v>'
    logical = str(value).strip(".").upper() in {"T", "F", "TRUE", "FALSE"} and key not in KINDS["int"]
    if logical:
        return f'<i type="logical" name="{key}"> {str(value).strip(".").upper()[0]}  </i>'
    return f'<i type="string" name="{key}">{html.escape(str(value), quote=False)}</i>'


def _atominfo(inputs: Inputs) -> str:
    kinds = [k + 1 for k, n in enumerate(inputs.counts) for _ in range(n)]
    atoms = "".join(f"    <rc><c>{s:<2}</c><c>{k:4d}</c></rc>\n" for s, k in zip(inputs.symbols, kinds, strict=True))
    types = "".join(
        f"    <rc><c>{n:4d}</c><c>{s.element:<2}</c><c>{s.mass:17.8f}</c><c>{s.zval:17.8f}</c>"
        f"<c>  {s.title:<40}</c></rc>\n"
        for s, n in zip(inputs.species, inputs.counts, strict=True)
    )
    return f""" <atominfo>
  <atoms>{len(kinds):8d} </atoms>
  <types>{len(inputs.counts):8d} </types>
  <array name="atoms" >
   <dimension dim="1">ion</dimension>
   <field type="string">element</field>
   <field type="int">atomtype</field>
   <set>
{atoms}   </set>
  </array>
  <array name="atomtypes" >
   <dimension dim="1">type</dimension>
   <field type="int">atomspertype</field>
   <field type="string">element</field>
   <field>mass</field>
   <field>valence</field>
   <field type="string">pseudopotential</field>
   <set>
{types}   </set>
  </array>
 </atominfo>
"""


def _structure(name: str, inputs: Inputs) -> str:
    basis, reciprocal = _varray("basis", inputs.lattice), _varray("rec_basis", np.linalg.inv(inputs.lattice).T)
    volume = f'<i name="volume">{abs(np.linalg.det(inputs.lattice)):17.8f} </i>'
    crystal = f"  <crystal>\n{basis}   {volume}\n{reciprocal}  </crystal>\n"
    return f" <structure{name} >\n{crystal}{_varray('positions', inputs.fractions % 1.0)} </structure>\n"


def _varray(name: str, rows: Iterable[Iterable[float]]) -> str:
    lines = "".join(f"   <v>{_reals(row)} </v>\n" for row in rows)
    return f'  <varray name="{name}" >\n{lines}  </varray>\n'


def _reals(values: Iterable[float]) -> str:
    return "".join(" " + "*" * 16 if not np.isfinite(x) else f"{x:17.8f}" for x in values)


def _ints(values: Iterable[int]) -> str:
    return "".join(f"{n:9d}" for n in values)


def _kpoints(grid: Sequence[int], style: str) -> Floats:
    shift = 0.0 if style == "Gamma" else 0.5
    axes = [(np.arange(n) + (shift if n % 2 == 0 else 0.0)) / n for n in grid]
    points = np.array(list(itertools.product(*axes)))
    return points - np.round(points)


# ---- OSZICAR and OUTCAR --------------------------------------------------------------------------------------------


def _oszicar(run: Run) -> str:
    lines = ["       N       E                     dE             d eps       ncg     rms          rms(c)"]
    before = 0.0
    for n, energy in enumerate(run.energies, 1):
        change = energy - before
        lines.append(
            f"DAV: {n:3d}   {energy:19.12E}   {change:12.5E}  {change / 2:12.5E} {600:5d}   0.100E-02    0.100E-03"
        )
        before = energy
    e0 = run.result.sigma0 + run.energies[-1] - run.result.free
    return "\n".join([*lines, f"   1 F= {run.energies[-1]:14.8E} E0= {e0:14.8E}  d E ={run.result.entropy:14.6E}", ""])


def outcar(run: Run) -> str:
    """Text of OUTCAR."""
    inputs, result, points = run.inputs, run.result, int(np.prod(run.inputs.grid))
    head = [
        " vasp.6.4.2 stand-in of alflow, not VASP",
        " running on    1 total cores",
        *(f" POTCAR:    {s.title}" for s in inputs.species),
        f"   k-points           NKPTS = {points:6d}   k-points in BZ     NKDIM = {points:6d}",
        f"   number of dos      NEDOS =    301   number of bands    NBANDS= {inputs.bands:6d}",
        f"   total plane-waves  NPLWV = {27000:6d}",
        f"   ISPIN  = {inputs.tag('ISPIN', 1):6d}    spin polarized calculation?",
        f"   IBRION = {inputs.tag('IBRION', -1):6d}    ionic relax: 0-MD 1-quasi-New 2-CG",
        f"   NELECT = {inputs.electrons:12.4f}    total number of electrons",
    ]
    loops = [line for n, energy in enumerate(run.energies, 1) for line in _iteration(n, energy, run)]
    reason = "EDIFF is reached" if run.converged else "EDIFF was not reached (unconverged)"
    if run.stopped:
        reason = "hard stop was set"
    forces = [
        f" {''.join(f'{x:13.5f}' for x in r)}    {''.join(f'{x:14.6f}' for x in f)}"
        for r, f in zip(inputs.fractions @ inputs.lattice, np.nan_to_num(result.forces, nan=999999.0), strict=True)
    ]
    tail = [
        f"------------------------ aborting loop because {reason} ----------------------------------------",
        *(["hard stop encountered!  aborting job ..."] if run.stopped else []),
        f" E-fermi :{5.0:10.4f}     XC(G=0): {-5.0:9.4f}     alpha+bet :{-5.0:9.4f}",
        f"  in kB  {''.join(f'{x:12.5f}' for x in -KBAR * result.stress[[0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]])}",
        " POSITION                                       TOTAL-FORCE (eV/Angst)",
        " " + "-" * 83,
        *forces,
        " " + "-" * 83,
        "    total drift:                                0.000000      0.000000      0.000000",
        "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)",
        "  ---------------------------------------------------",
        f"  free  energy   TOTEN  ={run.energies[-1]:18.8f} eV",
        " General timing and accounting informations for this job:",
        "                  Total CPU time used (sec):        0.110",
        "                         Elapsed time (sec):        0.120",
        "                   Maximum memory used (kb):      100000.",
        "",
    ]
    return "\n".join([*head, *loops, *tail])


def _iteration(n: int, free: float, run: Run) -> list[str]:
    shift, result = free - run.result.free, run.result
    wo, e0 = result.without_entropy + shift, result.sigma0 + shift
    return [
        f"----------------------------------------- Iteration    1({n:4d})  ---------------------------------------",
        f" number of electron {run.inputs.electrons:14.7f} magnetization      0.0000000",
        f"  entropy T*S    EENTRO = {result.entropy:17.8f}",
        f"  free energy    TOTEN  = {free:17.8f} eV",
        f"  energy without entropy ={wo:17.8f}  energy(sigma->0) ={e0:17.8f}",
        "      LOOP:  cpu time      0.0100: real time      0.0100",
    ]
