"""Two datasets side by side: how broad each is in the space of bispectrum components, and in energy.

After Montes de Oca Zapiain et al., Training data selection for accuracy and transferability of interatomic potentials
(2022): in the frame where one set has mean zero and unit covariance, by a ZCA transformation, in how many dimensions
is the other broader, and in how many at least five times. The paper leaves open whether its dimensions are the axes of
that frame, one a component, or the principal axes of the other set there, and whether five times is of the variance or
of the standard deviation. All are given. What counts first are variances along principal axes: they are the same for
every way to whiten, and tell of narrow directions that lie between the axes, where a broad set looks broad on all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.errors import DataError, InputError
from alflow.numerics.bispectrum import BispectrumSettings, features
from alflow.numerics.coverage import Breadth, Frame, Histogram, Moments, Sample, broader, narrower
from alflow.numerics.neighbors import neighbor_list
from alflow.store.shards import Shard

SCHEMA: Final = 1
FACTOR: Final = 5.0
"""The paper's "at least 5x broader"."""
NO_GROUP: Final = "(no group)"
_BATCH_ATOMS: Final = 8192
_SAMPLE: Final = 4000
_MOST_GROUPS: Final = 100
OTHERS: Final = "(other groups)"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Which bispectrum components; every element has the same radius, and weight 1 as a neighbour.

    Attributes:
        twojmax: twice the largest j; 8 gives the paper's 55 components.
        cutoff_A: the paper's is 4.73.
    """

    twojmax: int = 8
    cutoff_A: float = 4.73

    def settings(self, numbers: Floats | list[int]) -> BispectrumSettings:
        """For these atomic numbers.

        Raises:
            InputError: numbers out of range.
        """
        known = tuple(int(z) for z in numbers)
        try:
            return BispectrumSettings(known, self.twojmax, self.cutoff_A, (0.5,) * len(known), (1.0,) * len(known))
        except DataError as exc:
            raise InputError("--twojmax, --cutoff", str(exc)) from exc


@dataclass(frozen=True, slots=True, eq=False)
class Cloud:
    """The descriptors of all atoms of one element of a set.

    Attributes:
        groups: moments of each group's atoms.
        whole: moments of all of them.
        histograms: one a component.
        sample: some of the rows, each as likely as any other, (n, n_components).
    """

    groups: Mapping[str, Moments]
    whole: Moments
    histograms: tuple[Histogram, ...]
    sample: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """One set.

    Attributes:
        frames: its structures.
        groups: name of each frame's group, (n_frames,); `NO_GROUP` where it has none.
        energy: energy per atom in eV, (n_frames,); NaN where there is none.
        clouds: by atomic number.
        lost: frames that have no descriptors.
    """

    frames: Frames
    groups: np.ndarray[Any, np.dtype[np.str_]]
    energy: Floats
    clouds: Mapping[int, Cloud]
    lost: int


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two sets, and each in the frame of the other.

    Attributes:
        a: the first set.
        b: the second.
        a_in_b: by atomic number, the first in the frame of the second; or why there is none.
        b_in_a: the other way round.
        groups: rows of the table of groups: set, group, frames, atoms, energies, distance from the other set.
    """

    a: Portrait
    b: Portrait
    a_in_b: Mapping[int, Breadth | str]
    b_in_a: Mapping[int, Breadth | str]


def compare(a: Shard, b: Shard, descriptor: Descriptor) -> Comparison:
    """Compare two sets, each element with itself.

    Raises:
        InputError: no element is in both, a set has no frame with descriptors, or the descriptor cannot be.
    """
    kinds = [set(np.unique(s.frames.numbers).tolist()) for s in (a, b)]
    if not kinds[0] & kinds[1]:
        names = [" ".join(_symbol(z) for z in sorted(k)) for k in kinds]
        raise InputError("the two datasets", f"have no element in common: {names[0]} and {names[1]}")
    settings = descriptor.settings(sorted(kinds[0] | kinds[1]))
    first, second = portrait(a, settings, "the first dataset"), portrait(b, settings, "the second dataset")
    return Comparison(first, second, _breadths(first, second), _breadths(second, first))


def portrait(shard: Shard, settings: BispectrumSettings, name: str) -> Portrait:
    """Stream the descriptors of a set into moments, histograms and a sample.

    Raises:
        InputError: no frame has descriptors; `name` says of what.
    """
    frames, groups = shard.frames, _groups(shard)
    energy = shard.labels.energy / frames.sizes if shard.labels else np.full(len(frames), np.nan)
    made = {z: _Growing(settings.n_features) for z in settings.numbers}
    first = lost = 0
    for some in frames.batches(_BATCH_ATOMS):
        rows = features(settings, some, neighbor_list(some, settings.cutoff_A))
        of_frame = some.frame_of_atom
        gone = np.unique(of_frame[~np.isfinite(rows).all(axis=1)])
        lost += len(gone)
        kept, names = ~np.isin(of_frame, gone), groups[first + of_frame]
        for z, cloud in made.items():
            mine = kept & (some.numbers == z)
            cloud.add(rows[mine], names[mine])
        first += len(some)
    if lost == len(frames):
        raise InputError(
            name,
            "no frame has descriptors: positions that are not finite, cells without volume, or far more neighbours "
            f"within {settings.cutoff_A:g} Å than in any matter",
        )
    return Portrait(frames, groups, energy, {z: c.done() for z, c in made.items()}, lost)


class _Growing:
    def __init__(self, n: int) -> None:
        self.n, self.groups = n, dict[str, Moments]()
        self.histograms = tuple(Histogram() for _ in range(n))
        self.sample = Sample(_SAMPLE, n, np.random.default_rng(0))

    def add(self, rows: Floats, names: np.ndarray[Any, np.dtype[np.str_]]) -> None:
        for name in np.unique(names).tolist():
            known = self.groups.get(name, Moments.none(self.n))
            self.groups[name] = known.merged(Moments.of(rows[names == name]))
        for histogram, column in zip(self.histograms, rows.T, strict=True):
            histogram.add(column)
        self.sample.add(rows)

    def done(self) -> Cloud:
        whole = Moments.none(self.n)
        for part in self.groups.values():
            whole = whole.merged(part)
        return Cloud(self.groups, whole, self.histograms, self.sample.rows)


def _groups(shard: Shard) -> np.ndarray[Any, np.dtype[np.str_]]:
    if "group" not in shard.columns:
        return np.full(len(shard.frames), NO_GROUP)
    names = np.asarray(shard.columns["group"]).astype(np.str_)
    known, which, count = np.unique(names, return_inverse=True, return_counts=True)
    if len(known) > _MOST_GROUPS:
        rare = np.argsort(-count, kind="stable")[_MOST_GROUPS:]
        known = known.astype(object)
        known[rare] = OTHERS
    words = np.array([w or NO_GROUP for w in known.tolist()], np.str_)
    return words[which]


def _breadths(of: Portrait, frame: Portrait) -> dict[int, Breadth | str]:
    found: dict[int, Breadth | str] = {}
    for z, cloud in of.clouds.items():
        lacking = [p for p, c in (("this set", cloud), ("the other set", frame.clouds[z])) if not c.whole.count]
        if lacking:
            found[z] = f"{lacking[0]} has no atoms of {_symbol(z)}"
            continue
        try:
            found[z] = Frame.of(frame.clouds[z].whole).breadth(cloud.whole)
        except DataError as exc:
            found[z] = str(exc)
    return found


# ---- as JSON -------------------------------------------------------------------------------------------------------


def summary(found: Comparison, descriptor: Descriptor, names: tuple[str, str]) -> dict[str, Any]:
    """Everything that was found as plain JSON values; None where there is no number."""
    sides = zip(("A", "B"), names, (found.a, found.b), (found.b, found.a), strict=True)
    return {
        "schema": SCHEMA,
        "descriptor": {"kind": "bispectrum", "twojmax": descriptor.twojmax, "cutoff_A": descriptor.cutoff_A},
        "sets": {key: _set_json(name, mine, other) for key, name, mine, other in sides},
        "elements": {
            _symbol(z): {
                "A_in_B": _breadth_json(found.a_in_b[z]),
                "B_in_A": _breadth_json(found.b_in_a[z]),
                "components": {"A": _columns_json(found.a.clouds[z]), "B": _columns_json(found.b.clouds[z])},
            }
            for z in found.a.clouds
        },
    }


def _breadth_json(found: Breadth | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"problem": found}
    return {
        "dimensions": len(found.dimensions),
        "rank": len(found.principal),
        "dimensions_only_here": found.unbounded,
        "axes": _counts(found.dimensions),
        "principal_axes": _counts(found.principal),
        "rms_distance_per_dimension": found.distance,
        "variance_along_axes": found.dimensions.tolist(),
        "variance_along_principal_axes": found.principal.tolist(),
    }


def _counts(variances: Floats) -> dict[str, Any]:
    least, most = (float(variances.min()), float(variances.max())) if len(variances) else (None, None)
    return {
        "broader": broader(variances),
        "broader_5x_variance": broader(variances, FACTOR),
        "broader_5x_deviation": broader(variances, FACTOR**2),
        "narrower": narrower(variances),
        "least_variance": least,
        "greatest_variance": most,
    }


def _columns_json(cloud: Cloud) -> dict[str, Any]:
    m = cloud.whole
    if not m.count:
        return {"atoms": 0}
    return {
        "atoms": m.count,
        **{k: getattr(m, k).tolist() for k in ("mean", "std")},
        "min": m.low.tolist(),
        "max": m.high.tolist(),
    }


def _set_json(name: str, mine: Portrait, other: Portrait) -> dict[str, Any]:
    return {
        "name": name,
        "frames": len(mine.frames),
        "atoms": mine.frames.n_atoms,
        "frames_without_descriptors": mine.lost,
        "energy_eV_atom": _energies(mine.energy),
        "groups": _groups_json(mine, other),
    }


def _energies(values: Floats) -> dict[str, Any] | None:
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    levels = (0, 5, 25, 50, 75, 95, 100)
    quantiles = {f"p{q}": float(v) for q, v in zip(levels, np.percentile(known, levels), strict=True)}
    return {"frames": len(known), "mean": float(known.mean()), "std": float(known.std()), **quantiles}


def _groups_json(mine: Portrait, other: Portrait) -> list[dict[str, Any]]:
    """A row a group, the largest first; its distance is that of its atoms from the other set, per dimension."""
    frames_of = {z: _frame(other.clouds[z]) for z in mine.clouds}
    rows = []
    for name in np.unique(mine.groups).tolist():
        here = mine.groups == name
        squares, atoms = 0.0, 0
        for z, cloud in mine.clouds.items():
            part, frame = cloud.groups.get(name), frames_of[z]
            if part is not None and frame is not None:
                squares, atoms = squares + part.count * frame.breadth(part).distance ** 2, atoms + part.count
        rows.append(
            {
                "group": name,
                "frames": int(here.sum()),
                "atoms": int(mine.frames.sizes[here].sum()),
                "energy_eV_atom": _energies(mine.energy[here]),
                "rms_distance_per_dimension": float(np.sqrt(squares / atoms)) if atoms else None,
            }
        )
    return sorted(rows, key=lambda r: -int(r["atoms"]))


def _frame(cloud: Cloud) -> Frame | None:
    try:
        return Frame.of(cloud.whole)
    except DataError:
        return None


def _symbol(number: int) -> str:
    from ase.data import chemical_symbols

    return str(chemical_symbols[number])
