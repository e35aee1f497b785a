"""Labels from Quantum ESPRESSO: one self-consistent ``pw.x`` calculation a frame."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np

from alflow.core.frames import Frames
from alflow.core.labels import Labels, Theory, Verdict
from alflow.engines import processes
from alflow.engines.espresso import PwResult, read_pw_output, read_upf, started
from alflow.engines.mpi import child_environment, command_of
from alflow.errors import DataError, InfrastructureError, InputError
from alflow.interfaces import UNLIMITED, Code, Limits, part
from alflow.store.convert import to_ase
from alflow.store.files import digest, write_json, write_text

_OURS: Final = {
    "control": {"calculation", "outdir", "prefix", "pseudo_dir", "tprnfor", "tstress", "disk_io"},
    "system": {
        *("ibrav", "nat", "ntyp", "ecutwfc", "ecutrho", "occupations", "smearing", "degauss"),
        *("nspin", "starting_magnetization"),
    },
    "electrons": {"conv_thr", "electron_maxstep", "mixing_beta"},
}
"""Input words that follow from fields of their own."""


@part
class Part:
    """Energies, forces and stress of density functional theory in plane waves, by ``pw.x`` of Quantum ESPRESSO.

    The functional is that of the pseudopotentials. With smearing the energy is the free energy F = E - TS, of which
    forces and stress are the derivatives. Every frame has a folder of its own in the work folder, named by the frame's
    content, with ``pw.in``, ``pw.out`` and ``label.json``.

    Attributes:
        pseudopotentials: UPF file of each element, in the site's ``codes: {espresso: {pseudo_dir: ...}}``.
        ecutwfc_Ry: kinetic-energy cutoff of wave functions.
        ecutrho_Ry: cutoff of the density; None for four times `ecutwfc_Ry`, right for norm-conserving ones only.
        kpoints: ``gamma``, or a Gamma-centred mesh for all frames.
        kspacing_per_A: instead of `kpoints`, the largest distance of mesh points along each reciprocal vector in
            1/angstrom, the factor 2 pi included: cells of all sizes are then sampled alike. A cell of edge L gets
            2 pi/(L kspacing) points, so 57 points times angstrom are 0.11.
        occupations: ``smearing`` for metals, ``fixed`` for insulators.
        smearing: kind of smearing.
        degauss_Ry: width of the smearing.
        conv_thr_Ry: estimated error of the energy at which a calculation is self-consistent.
        electron_maxstep: most self-consistency cycles.
        mixing_beta: share of the new density that is mixed in.
        stress: compute the stress as well.
        starting_magnetization: for a spin-polarised calculation, of each element, -1 to 1.
        namelists: further words of pw.x's input, such as ``{system: {vdw_corr: dft-d3}}``.
        max_seconds: longest a frame may take.
    """

    code: ClassVar[str] = "espresso"

    pseudopotentials: Mapping[str, str]
    ecutwfc_Ry: float
    ecutrho_Ry: float | None = None
    kpoints: Literal["gamma"] | tuple[int, int, int] | None = None
    kspacing_per_A: float | None = None
    occupations: Literal["smearing", "fixed"] = "smearing"
    smearing: Literal["marzari-vanderbilt", "methfessel-paxton", "gaussian", "fermi-dirac"] = "marzari-vanderbilt"
    degauss_Ry: float = 0.02
    conv_thr_Ry: float = 1e-7
    electron_maxstep: int = 100
    mixing_beta: float = 0.7
    stress: bool = True
    starting_magnetization: Mapping[str, float] = field(default_factory=dict)
    namelists: Mapping[str, Mapping[str, bool | int | float | str]] = field(default_factory=dict)
    max_seconds: float = 3600.0

    def check(self, elements: frozenset[str], code: Code | None) -> None:
        self._check_settings()
        command_of(*_words_of(_given(code)))
        folder = _pseudo_dir(code)
        for symbol in sorted(elements | set(self.pseudopotentials)):
            self._check_pseudopotential(symbol, folder)
        functionals = {read_upf(folder / f).functional: s for s, f in self.pseudopotentials.items()}
        if len(functionals) > 1:
            said = ", ".join(f"{s}: {f}" for f, s in functionals.items())
            raise InputError("pseudopotentials", f"are of different functionals ({said})", "use one family for all")

    def theory(self, code: Code | None) -> Theory:
        folder = _pseudo_dir(code)
        pseudos = {}
        for symbol, file in sorted(self.pseudopotentials.items()):
            upf = read_upf(folder / file)
            pseudos[symbol] = {"sha256": digest(folder / file), "functional": upf.functional}
        smeared = {"smearing": self.smearing, "degauss_Ry": self.degauss_Ry} if self.occupations == "smearing" else {}
        settings = {
            "pseudopotentials": pseudos,
            "ecutwfc_Ry": self.ecutwfc_Ry,
            "ecutrho_Ry": self.ecutrho_Ry or 4 * self.ecutwfc_Ry,
            "kpoints": list(self.kpoints) if isinstance(self.kpoints, tuple) else self.kpoints,
            "kspacing_per_A": self.kspacing_per_A,
            "occupations": {"kind": self.occupations, **smeared},
            "conv_thr_Ry": self.conv_thr_Ry,
            "starting_magnetization": dict(self.starting_magnetization),
            "namelists": {k: dict(v) for k, v in self.namelists.items()},
        }
        return Theory("espresso", settings)

    def label(
        self, frames: Frames, code: Code | None, workdir: Path, limits: Limits = UNLIMITED
    ) -> tuple[Labels, tuple[Verdict, ...]]:
        site, print_ = _given(code), self.theory(code).fingerprint
        labels, verdicts = Labels.missing(frames, self.stress), []
        for i, name in enumerate(frames.ids()):
            result = self._one(frames[i], site, workdir.absolute() / name, print_)
            log = "" if not result.problem else str(workdir / name / "pw.out")
            verdicts.append(Verdict(not result.problem, result.problem, log if Path(log).is_file() else ""))
            if not result.problem and result.forces is not None:
                labels.energy[i] = result.energy
                labels.forces[frames.offsets[i] : frames.offsets[i + 1]] = result.forces
                if labels.stress is not None and result.stress is not None:
                    labels.stress[i] = result.stress
        return labels, tuple(verdicts)

    # ---- one frame ----

    def _one(self, frame: Frames, code: Code, folder: Path, theory: str) -> PwResult:
        """The label in `folder` if it is there, else a new one."""
        kept = _read_label(folder / "label.json", theory)
        if kept is not None and kept.stress is None and self.stress and not kept.problem:
            kept = None
        if kept is not None:
            return kept
        if problem := self._unfit(frame):
            return PwResult(problem=problem)
        folder.mkdir(parents=True, exist_ok=True)
        result, lasting = self._computed(frame, code, folder)
        if lasting:
            _write_label(folder / "label.json", theory, result)
        return result

    def _computed(self, frame: Frames, code: Code, folder: Path) -> tuple[PwResult, bool]:
        """The result of a calculation, and whether another try would give the same."""
        scratch = (code.scratch.absolute() / folder.name) if code.scratch else folder / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        write_text(folder / "pw.in", self._input(frame, _pseudo_dir(code), scratch))
        log = folder / "pw.out"
        words = [*command_of(*_words_of(code)), "-in", "pw.in"]
        try:
            outcome = processes.run(words, folder, log, child_environment(code.env), self.max_seconds)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if outcome.timed_out:
            return PwResult(problem=f"ran out of time after {outcome.seconds:.0f} s"), False
        text = log.read_text(encoding="utf-8", errors="replace")
        if not started(text):
            raise InfrastructureError(f"pw.x did not start (exit status {outcome.status}), see {log}")
        result = read_pw_output(text, frame.n_atoms, stress=self.stress)
        if result.problem and outcome.status < 0:
            return PwResult(problem=f"{result.problem}: ended by signal {-outcome.status}"), False
        return result, True

    def _unfit(self, frame: Frames) -> str:
        """Why pw.x cannot compute this frame, or empty."""
        symbols = set(to_ase(frame)[0].get_chemical_symbols())
        if missing := sorted(symbols - set(self.pseudopotentials)):
            return f"no pseudopotential for {', '.join(missing)}"
        if not frame.pbc.all():
            return "pw.x computes periodic cells only: pbc must be true in all directions"
        if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all()):
            return "positions or cell are not finite"
        return "" if frame.volumes[0] > 1e-6 else "the lattice vectors span no volume"

    def _input(self, frame: Frames, pseudo_dir: Path, scratch: Path) -> str:
        from io import StringIO

        from ase.io.espresso import write_espresso_in

        cell = frame.cell.copy()
        if np.linalg.det(cell[0]) < 0:
            cell[0, 2] *= -1  # the same lattice, right-handed as pw.x wants it
        atoms = to_ase(frame.moved(frame.positions, cell))[0]
        spins = [self.starting_magnetization.get(s, 0.0) for s in atoms.get_chemical_symbols()]
        atoms.set_initial_magnetic_moments(spins)
        mesh = self._mesh(frame)
        data = self._namelists(pseudo_dir, scratch)
        out = StringIO()
        write_espresso_in(
            out,
            atoms,
            input_data=data,
            pseudopotentials=dict(self.pseudopotentials),
            kpts=None if mesh == (1, 1, 1) else mesh,
        )
        return out.getvalue()

    def _mesh(self, frame: Frames) -> tuple[int, int, int]:
        if self.kpoints == "gamma":
            return (1, 1, 1)
        if self.kpoints is not None:
            return self.kpoints
        assert self.kspacing_per_A is not None
        reciprocal = 2 * math.pi * np.linalg.norm(np.linalg.inv(frame.cell[0]), axis=0)
        # a mesh that fits exactly must not gain a point by rounding
        n = [max(1, math.ceil(float(b) / self.kspacing_per_A - 1e-9)) for b in reciprocal]
        return (n[0], n[1], n[2])

    def _namelists(self, pseudo_dir: Path, scratch: Path) -> dict[str, dict[str, Any]]:
        data: dict[str, dict[str, Any]] = {name.lower(): dict(words) for name, words in self.namelists.items()}
        data["control"] = {
            "calculation": "scf",
            "prefix": "pwscf",
            "outdir": str(scratch),
            "pseudo_dir": str(pseudo_dir),
            "tprnfor": True,
            "tstress": self.stress,
            "disk_io": "none",
            **data.get("control", {}),
        }
        data["system"] = {
            "ecutwfc": self.ecutwfc_Ry,
            "ecutrho": self.ecutrho_Ry or 4 * self.ecutwfc_Ry,
            "occupations": self.occupations,
            **({"smearing": self.smearing, "degauss": self.degauss_Ry} if self.occupations == "smearing" else {}),
            **({"nspin": 2} if self.starting_magnetization else {}),
            **data.get("system", {}),
        }
        data["electrons"] = {
            "conv_thr": self.conv_thr_Ry,
            "electron_maxstep": self.electron_maxstep,
            "mixing_beta": self.mixing_beta,
            **data.get("electrons", {}),
        }
        return data

    # ---- checks ----

    def _check_settings(self) -> None:
        if not self.pseudopotentials:
            raise InputError("pseudopotentials", "is empty", "name a UPF file for each element, such as {Al: Al.UPF}")
        if (self.kpoints is None) == (self.kspacing_per_A is None):
            raise InputError(
                "kpoints", "give either kpoints or kspacing_per_A", "kpoints: gamma, or kspacing_per_A: 0.2"
            )
        for name in ("ecutwfc_Ry", "ecutrho_Ry", "kspacing_per_A", "degauss_Ry", "conv_thr_Ry", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(name, f"expected a number > 0, got {value}")
        if isinstance(self.kpoints, tuple) and min(self.kpoints) < 1:
            raise InputError("kpoints", f"expected numbers >= 1, got {list(self.kpoints)}")
        for name, words in self.namelists.items():
            taken = sorted(w for w in words if w.lower().partition("(")[0] in _OURS.get(name.lower(), set()))
            if taken or name.lower() not in _OURS:
                what = (
                    f"sets {', '.join(taken)}, which follow from other fields" if taken else "is no namelist of an scf"
                )
                raise InputError(f"namelists.{name}", what, f"namelists: {', '.join(_OURS)}")

    def _check_pseudopotential(self, symbol: str, folder: Path) -> None:
        there = sorted(
            p.name for p in folder.iterdir() if p.name.lower().startswith((f"{symbol}.".lower(), f"{symbol}_".lower()))
        )
        hint = f"{folder} has for {symbol}: {', '.join(there) or 'nothing'}"
        if symbol not in self.pseudopotentials:
            raise InputError("pseudopotentials", f"has none for the element {symbol}", hint)
        path = folder / self.pseudopotentials[symbol]
        if not path.is_file():
            raise InputError(f"pseudopotentials.{symbol}", f"the file {path} does not exist", hint)
        try:
            upf = read_upf(path)
        except DataError as exc:
            raise InputError(f"pseudopotentials.{symbol}", str(exc), hint) from exc
        if upf.element != symbol:
            raise InputError(f"pseudopotentials.{symbol}", f"{path} is for the element {upf.element}", hint)


def _given(code: Code | None) -> Code:
    if code is None:
        raise InputError(
            "codes", "the site file has no entry 'espresso'", "add codes: {espresso: {command: [pw.x], ...}}"
        )
    return code


def _words_of(code: Code) -> tuple[str, tuple[str, ...], tuple[str, ...], Mapping[str, str]]:
    return code.name, code.command, code.launcher, code.env


def _pseudo_dir(code: Code | None) -> Path:
    folder = _given(code).settings.get("pseudo_dir")
    where = "codes.espresso.pseudo_dir"
    if not folder:
        raise InputError(where, "is missing", "give the folder of your pseudopotentials in the site file")
    path = Path(str(folder)).expanduser().absolute()
    if not path.is_dir():
        raise InputError(where, f"the folder {path} does not exist")
    return path


def _write_label(path: Path, theory: str, result: PwResult) -> None:
    value: dict[str, Any] = {"theory": theory, "problem": result.problem}
    if not result.problem and result.forces is not None:
        value["energy_eV"] = result.energy
        value["forces_eV_A"] = result.forces.tolist()
        value["stress_eV_A3"] = None if result.stress is None else result.stress.tolist()
    write_json(path, value)


def _read_label(path: Path, theory: str) -> PwResult | None:
    """The label that is there; None if there is none, or it is of another theory."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if value.get("theory") != theory:
        return None
    if value["problem"]:
        return PwResult(problem=value["problem"])
    stress = value["stress_eV_A3"]
    return PwResult(value["energy_eV"], np.array(value["forces_eV_A"]), None if stress is None else np.array(stress))
