"""Labels from Quantum ESPRESSO: one self-consistent ``pw.x`` calculation a frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np

from alflow.core.frames import Frames
from alflow.core.labels import Cause, Labels, Theory, Verdict
from alflow.engines.contacts import closest_A
from alflow.engines.espresso import LOG, Asked, Upf
from alflow.engines.espresso_input import ALLOWED, is_path_word
from alflow.engines.espresso_pseudos import Pseudos, candidates, family, named
from alflow.engines.espresso_run import Done, Job, calculate, outdir_word
from alflow.engines.mpi import child_environment, command_of
from alflow.errors import InputError, ResourceError
from alflow.interfaces import UNLIMITED, Code, Limits, part
from alflow.store.convert import to_ase
from alflow.store.kept import Labelled, kept_each

_OURS: Final = {
    "control": {
        *("calculation", "outdir", "prefix", "pseudo_dir", "tprnfor", "tstress", "disk_io", "restart_mode"),
        "max_seconds",
    },
    "system": {
        *("ibrav", "nat", "ntyp", "ecutwfc", "ecutrho", "occupations", "smearing", "degauss"),
        *("nspin", "starting_magnetization"),
    },
    "electrons": {"conv_thr", "electron_maxstep", "mixing_beta", "startingpot", "scf_must_converge"},
}
"""Input words that follow from fields of their own, or that a label must not depend on."""
_DISPERSION: Final = frozenset(
    {"none", "grimme-d2", "Grimme-D2", "DFT-D", "dft-d", "grimme-d3", "Grimme-D3", "DFT-D3", "dft-d3", "XDM", "xdm"}
    | {"TS", "ts", "ts-vdw", "ts-vdW", "tkatchenko-scheffler", "MBD", "mbd", "many-body-dispersion"}
)
"""Values of ``vdw_corr``: with any other pw.x computes without a correction, and hardly says so."""
_VACUUM_A: Final = 5.0
"""Width of an empty slab from which a cell counts as inhomogeneous."""
_CONTACT: Final = 0.5
"""Fraction of the sum of covalent radii below which a failure is put down to atoms too close."""


@part
class Part:
    """Energies, forces and stress of density functional theory in plane waves, by ``pw.x`` of Quantum ESPRESSO.

    The functional is that of the pseudopotentials. With smearing the energy is the free energy F = E - TS, of which
    forces and stress are the derivatives. Numbers are read from ``data-file-schema.xml``, which has all digits, and
    only if it holds the structure that was asked for.

    Every frame has a folder in the work folder, named by the frame's content, with ``pw.in`` and ``pw.out``. Scratch
    goes to the site's ``scratch`` folder, if it names one, and is removed on success. A calculation that runs out of
    time stops cleanly; another call in the same work folder goes on with it.

    What fails is corrected where that leaves the label as it is: more cycles, gentler mixing, another
    diagonalization, starting from the density so far. A correction that changes the label is refused, and named,
    unless `allow` has it.

    Attributes:
        pseudopotentials: UPF file of each element, in the site's ``codes: {espresso: {pseudo_dir: ...}}``.
        family: instead of `pseudopotentials`, a folder in ``pseudo_dir``, or an absolute path, with a UPF file for each
            of `elements`, such as SSSP. Its ``SSSP_*.json``, else the headers of its files, recommend cutoffs.
        elements: with `family`, the chemical symbols of all structures of this dataset: they decide the cutoffs.
        ecutwfc_Ry: kinetic-energy cutoff of wave functions; null for the largest that `family` recommends.
        ecutrho_Ry: cutoff of the density; null for what a ``SSSP_*.json`` recommends, else 4 times `ecutwfc_Ry`, or 8
            times with ultrasoft or PAW pseudopotentials, and never less than a header suggests.
        kpoints: ``gamma``, or a Gamma-centred mesh for all frames.
        kspacing_per_A: instead of `kpoints`, the largest distance of mesh points along each reciprocal vector in
            1/angstrom, the factor 2 pi included: cells of all sizes are then sampled alike. A cell of edge L gets
            2 pi/(L kspacing) points, so 57 points times angstrom are 0.11.
        occupations: ``smearing`` for metals, ``fixed`` for insulators.
        smearing: kind of smearing.
        degauss_Ry: width of the smearing.
        conv_thr_Ry: estimated error of the energy at which a calculation is self-consistent. It belongs to the theory:
            labels of another quality do not mix unnoticed.
        electron_maxstep: self-consistency cycles before the first correction.
        mixing_beta: share of the new density that is mixed in.
        stress: compute the stress as well.
        starting_magnetization: for a spin-polarised calculation, of each element, -1 to 1.
        namelists: further words of pw.x's input, such as ``{system: {vdw_corr: dft-d3}}``. Those that only decide how
            self-consistency is reached are not part of the theory.
        allow: corrections that may change the label, which is then of another theory. ``degauss``: twice the smearing
            where nothing else has brought self-consistency.
        max_seconds: longest a frame may take, all corrections included.
    """

    code: ClassVar[str] = "espresso"

    pseudopotentials: Mapping[str, str] = field(default_factory=dict)
    family: str | None = None
    elements: tuple[str, ...] = ()
    ecutwfc_Ry: float | None = None
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
    allow: tuple[Literal["degauss"], ...] = ()
    max_seconds: float = 3600.0

    @classmethod
    def trial(cls, code: Code) -> tuple[Part, str]:
        """As `HasTrial`: the first pseudopotential of a common element in the site's folder, at modest cutoffs."""
        folder, fault = _pseudo_dir(code), ""
        for symbol in ("Al", "Si", "Cu", "W", "Li", "Mg", "C", "O", "H"):
            for file in candidates(folder, symbol):
                part_ = cls(
                    pseudopotentials={symbol: file}, ecutwfc_Ry=25, ecutrho_Ry=200, kpoints="gamma", degauss_Ry=0.05
                )
                try:
                    part_._pseudos(code)
                except InputError as exc:
                    fault = fault or f"; {exc.problem}"
                    continue
                return part_, symbol
        hint = "name pseudopotentials in a workflow, and give that"
        raise InputError("codes.espresso.pseudo_dir", f"{folder} has no pseudopotential to try pw.x with{fault}", hint)

    def check(self, elements: frozenset[str], code: Code | None) -> None:
        self._check_settings()
        command_of(*_words_of(_given(code)))
        own = self.elements if self.family else self.pseudopotentials
        if missing := sorted(elements - set(own)):
            key = "elements" if self.family else "pseudopotentials"
            folder = self._folder(code)
            there = f"{folder} has for {missing[0]}: {', '.join(candidates(folder, missing[0])) or 'nothing'}"
            raise InputError(key, f"has none for the element {missing[0]}", there)
        self._pseudos(code)

    def theory(self, code: Code | None) -> Theory:
        return self._theory(self._pseudos(code))

    def _theory(self, pseudos: Pseudos) -> Theory:
        smeared = {"smearing": self.smearing, "degauss_Ry": self.degauss_Ry} if self.occupations == "smearing" else {}
        further = {
            n.lower(): {w.lower(): v for w, v in words.items() if not is_path_word(n, w)}
            for n, words in self.namelists.items()
        }
        functionals = {u.functional for u in pseudos.headers.values()}
        settings = {
            "functional": next(iter(functionals)),
            "pseudopotentials": pseudos.described(),
            "ecutwfc_Ry": pseudos.ecutwfc_Ry,
            "ecutrho_Ry": pseudos.ecutrho_Ry,
            "kpoints": list(self.kpoints) if isinstance(self.kpoints, tuple) else self.kpoints,
            "kspacing_per_A": self.kspacing_per_A,
            "occupations": {"kind": self.occupations, **smeared},
            "energy": "F = E - TS",
            "conv_thr_Ry": self.conv_thr_Ry,
            "starting_magnetization": dict(self.starting_magnetization),
            "namelists": {n: words for n, words in further.items() if words},
        }
        return Theory("espresso", settings)

    def label(
        self, frames: Frames, code: Code | None, workdir: Path, limits: Limits = UNLIMITED
    ) -> tuple[Labels, tuple[Verdict, ...]]:
        site, pseudos = _given(code), self._pseudos(code)
        theory = self._theory(pseudos)
        one = partial(self._one, code=site, pseudos=pseudos, theory=theory, workdir=workdir, limits=limits)
        return kept_each(frames, theory, workdir, one)

    # ---- one frame ----

    def _one(
        self, frame: Frames, *, code: Code, pseudos: Pseudos, theory: Theory, workdir: Path, limits: Limits
    ) -> Labelled:
        if problem := self._unfit(frame, pseudos.headers):
            return Labels.missing(frame, self.stress), (Verdict.bad(Cause.STRUCTURE, problem),)
        if limits.halt():
            raise ResourceError("halted before a calculation began")
        folder = workdir.absolute() / frame.ids()[0]
        seconds = min(self.max_seconds, math.inf if limits.seconds is None else limits.seconds)
        done = calculate(self._job(frame, code, pseudos, folder), seconds, limits.halt)
        if done.attended.halted:
            raise ResourceError(f"{done.attended.reason}; {folder} holds what is needed to go on")
        return self._judged(frame, done, theory, folder / LOG)

    def _judged(self, frame: Frames, done: Done, theory: Theory, log: Path) -> Labelled:
        ended, found = done.attended, done.result
        story: dict[str, Any] = {"corrections": ended.corrections, "seconds": ended.seconds}
        if found is None:
            cause, reason = ended.cause or Cause.OTHER, ended.reason
            if cause is Cause.TIME:
                reason = f"ran out of time after {ended.seconds:.0f} s"
            if cause in _STRUCTURAL and (close := _contact(frame)):
                cause, reason = Cause.CONTACT, f"{reason}; {close}"
            reason += f"; see {done.place}" if done.place else ""
            return Labels.missing(frame, self.stress), (Verdict.bad(cause, reason, log, **story),)
        stress = None if found.stress is None else found.stress[None]
        changed = Theory(theory.code, {**theory.settings, "changed": dict(ended.changed)}) if ended.changed else None
        verdict = Verdict(ok=True, log=str(log), theory=changed, **story)
        return Labels(np.array([found.energy]), found.forces, stress), (verdict,)

    def _unfit(self, frame: Frames, headers: Mapping[str, Upf]) -> str:
        """Why pw.x cannot compute this frame, or empty."""
        if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all()):
            return "positions or cell are not finite"
        if missing := sorted(set(to_ase(frame)[0].get_chemical_symbols()) - set(headers)):
            return f"no pseudopotential for {', '.join(missing)}"
        if not frame.pbc.all():
            return "pw.x computes periodic cells only: pbc must be true in all directions"
        return "" if frame.volumes[0] > 1e-6 else "the lattice vectors span no volume"

    def _job(self, frame: Frames, code: Code, pseudos: Pseudos, folder: Path) -> Job:
        frame = _right_handed(frame)
        symbols = to_ase(frame)[0].get_chemical_symbols()
        return Job(
            folder=folder,
            text=self._input(frame, pseudos, outdir_word(folder, code.scratch)),
            md5=frozenset(pseudos.md5[s] for s in symbols),
            asked=Asked(symbols, frame.positions, frame.cell[0], self.stress),
            words=(*command_of(*_words_of(code)), "-in", "pw.in"),
            env=child_environment(code.env),
            fast=code.scratch,
            allow=self.allow,
            inhomogeneous=_vacuum_A(frame) > _VACUUM_A,
        )

    def _input(self, frame: Frames, pseudos: Pseudos, outdir: str) -> str:
        from ase.io.espresso import write_espresso_in

        atoms = to_ase(_right_handed(frame))[0]
        spins = [self.starting_magnetization.get(s, 0.0) for s in atoms.get_chemical_symbols()]
        atoms.set_initial_magnetic_moments(spins)
        mesh = self.mesh(frame)
        out = StringIO()
        write_espresso_in(
            out,
            atoms,
            input_data=self._namelists(pseudos, outdir),
            pseudopotentials=dict(pseudos.files),
            kpts=None if mesh == (1, 1, 1) else mesh,
        )
        return out.getvalue()

    def mesh(self, frame: Frames) -> tuple[int, int, int]:
        """The Gamma-centred mesh of k-points of one frame."""
        if self.kpoints == "gamma":
            return (1, 1, 1)
        if self.kpoints is not None:
            return self.kpoints
        assert self.kspacing_per_A is not None
        reciprocal = 2 * math.pi * np.linalg.norm(np.linalg.inv(frame.cell[0]), axis=0)
        # a mesh that fits exactly must not gain a point by rounding
        n = [max(1, math.ceil(float(b) / self.kspacing_per_A - 1e-9)) for b in reciprocal]
        return (n[0], n[1], n[2])

    def _namelists(self, pseudos: Pseudos, outdir: str) -> dict[str, dict[str, Any]]:
        data: dict[str, dict[str, Any]] = {name.lower(): dict(words) for name, words in self.namelists.items()}
        data["control"] = {
            "calculation": "scf",
            "prefix": "pwscf",
            "outdir": outdir,
            "pseudo_dir": str(pseudos.folder),
            "tprnfor": True,
            "tstress": self.stress,
            "disk_io": "low",  # with less, pw.x writes neither the schema file nor the density
            **data.get("control", {}),
        }
        data["system"] = {
            "ecutwfc": pseudos.ecutwfc_Ry,
            "ecutrho": pseudos.ecutrho_Ry,
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
        if (self.family is None) == (not self.pseudopotentials):
            problem = "is empty" if self.family is None else "and family exclude each other"
            hint = "name a UPF file for each element, such as {Al: Al.UPF}, or a family and its elements"
            raise InputError("pseudopotentials", problem, hint)
        if self.family is not None and not self.elements:
            raise InputError("elements", "is empty", "with a family, give the chemical symbols, such as [Al, Cu]")
        if self.family is None and self.elements:
            raise InputError("elements", "belongs to family only", "the keys of pseudopotentials say as much")
        if self.family is None and self.ecutwfc_Ry is None:
            raise InputError("ecutwfc_Ry", "is missing", "only a family recommends cutoffs")
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
        if self.electron_maxstep < 1:
            raise InputError("electron_maxstep", f"expected a number >= 1, got {self.electron_maxstep}")
        if not 0 < self.mixing_beta <= 1:
            raise InputError("mixing_beta", f"expected a number above 0, at most 1, got {self.mixing_beta}")
        if "degauss" in self.allow and self.occupations == "fixed":
            raise InputError("allow", "degauss has no meaning with fixed occupations", f"words: {', '.join(ALLOWED)}")
        self._check_spin()
        self._check_namelists()

    def _check_spin(self) -> None:
        for symbol, value in self.starting_magnetization.items():
            where = f"starting_magnetization.{symbol}"
            if symbol not in (self.elements or self.pseudopotentials):
                raise InputError(where, "is of an element that has no pseudopotential here")
            if not -1 <= value <= 1:
                raise InputError(where, f"expected a number from -1 to 1, got {value}", "a share of valence electrons")

    def _check_namelists(self) -> None:
        for name, words in self.namelists.items():
            taken = sorted(w for w in words if w.lower().partition("(")[0] in _OURS.get(name.lower(), set()))
            if taken or name.lower() not in _OURS:
                what = (
                    f"sets {', '.join(taken)}, which follow from other fields" if taken else "is no namelist of an scf"
                )
                raise InputError(f"namelists.{name}", what, f"namelists: {', '.join(_OURS)}")
            correction = {w.lower(): v for w, v in words.items()}.get("vdw_corr", "none")
            if correction not in _DISPERSION:
                problem = f"pw.x knows no {correction!r}, and would compute without it"
                raise InputError(f"namelists.{name}.vdw_corr", problem, f"one of {', '.join(sorted(_DISPERSION))}")

    def _folder(self, code: Code | None) -> Path:
        """Where the pseudopotentials are."""
        if self.family is None:
            return _pseudo_dir(code)
        path = Path(self.family).expanduser()
        path = path if path.is_absolute() else _pseudo_dir(code) / path
        if not path.is_dir():
            hint = "a folder in codes.espresso.pseudo_dir of the site file, or an absolute path"
            raise InputError("family", f"the folder {path} does not exist", hint)
        return path

    def _pseudos(self, code: Code | None) -> Pseudos:
        self._check_settings()
        folder = self._folder(code)
        if self.family is not None:
            return family(folder, self.elements, self.ecutwfc_Ry, self.ecutrho_Ry)
        assert self.ecutwfc_Ry is not None
        return named(folder, self.pseudopotentials, self.ecutwfc_Ry, self.ecutrho_Ry)


_STRUCTURAL: Final = frozenset({Cause.UNCONVERGED, Cause.LABEL_CHANGING, Cause.PROGRAM})
"""Failures that overlapping atoms are known to end in."""


def _right_handed(frame: Frames) -> Frames:
    """The same lattice, right-handed as pw.x wants it."""
    if np.linalg.det(frame.cell[0]) > 0:
        return frame
    cell = frame.cell.copy()
    cell[0, 2] *= -1
    return frame.moved(frame.positions, cell)


def _contact(frame: Frames) -> str:
    """Words about the closest two atoms if they are much too close, or empty."""
    from ase.data import covalent_radii

    closest = float(closest_A(frame)[0])
    near = 2 * _CONTACT * float(covalent_radii[frame.numbers].min())
    return f"its closest atoms are {closest:.2f} Å apart" if closest < near else ""


def _vacuum_A(frame: Frames) -> float:
    """Width of the widest slab without atoms, parallel to two lattice vectors, in angstrom."""
    inverse = np.linalg.inv(frame.cell[0])
    fraction = np.sort((frame.positions @ inverse) % 1.0, axis=0)
    gaps = np.diff(np.concatenate([fraction, fraction[:1] + 1]), axis=0).max(axis=0)
    return float((gaps / np.linalg.norm(inverse, axis=0)).max())


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
