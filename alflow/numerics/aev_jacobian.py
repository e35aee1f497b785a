"""The derivatives of the descriptors of fixed structures, kept: products with them cost a tenth of making them.

The Jacobian of an atom's descriptor is sparse: a radial term changes along the vector of one neighbour, an angular term
with the vectors of two. Kept are the slopes of the radial terms of every neighbour within the radial cutoff and the
derivatives of the angular terms by the vector of every neighbour within the angular one: about 36 kB an atom with the
settings of ANI-Al in solid aluminium.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alflow.core.frames import Floats, Frames, Ints
from alflow.numerics import aev
from alflow.numerics import aev_jacobian_kernels as kernels
from alflow.numerics.aev import AevSettings
from alflow.numerics.neighbors import Neighbors
from alflow.numerics.threads import spread


class Jacobian:
    """Derivatives of the descriptors of a batch, and their products, for the whole batch or some of its frames.

    Args:
        settings: of the descriptors.
        frames: where.
        neighbors: a list that is complete to the radial cutoff.
        dtype: of what is kept and of the arithmetic.
    """

    def __init__(self, settings: AevSettings, frames: Frames, neighbors: Neighbors, dtype: Any = np.float32) -> None:
        self._offsets, self._species = frames.offsets, settings.species_index(frames.numbers)
        self._features, self._dtype = settings.n_features, np.dtype(dtype)
        self._constants = aev.constants(settings, dtype)
        batch = aev.batch(settings, frames, neighbors)
        starts, near_starts = _starts(settings, frames, neighbors, dtype)
        n, near = int(starts[-1]), int(near_starts[-1])
        self._rows = (
            starts,
            near_starts,
            np.empty(n, np.int32),
            np.empty((n, 3), dtype),
            np.empty((n, len(settings.shifts_r_A)), dtype),
            np.empty(near, np.int64),
            np.zeros((near, 3, settings.n_species * settings.n_angular_terms), dtype),
        )
        spread(kernels.fill, frames.n_atoms, batch, self._constants, *self._rows)

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return sum(a.nbytes for a in self._rows)

    def vjp(self, g: NDArray[Any], pick: Ints | None = None) -> tuple[Floats, Floats]:
        """What `aev.vjp` gives for the frames `pick`, or for all.

        Args:
            g: weights, (m, n_atoms of pick, n_features).
            pick: indices of frames, or None.

        Returns:
            gradient wrt positions (m, n_atoms of pick, 3), and wrt strain (m, n_pick, 3, 3).
        """
        frames, at = self._places(pick)
        g = np.ascontiguousarray(g, self._dtype)
        grad, virial = np.zeros((len(g), int(at[-1]), 3)), np.zeros((len(g), len(frames), 3, 3))
        fixed = (frames, self._offsets, at, self._species, self._constants, self._rows)
        spread(kernels.pull, len(frames), *fixed, g, grad, virial)
        return grad, virial

    def jvp(self, u: Floats, strain: Floats | None = None, pick: Ints | None = None) -> NDArray[Any]:
        """What `aev.jvp` gives for the frames `pick`, or for all.

        Args:
            u: displacement directions, (m, n_atoms of pick, 3).
            strain: strain directions, (m, n_pick, 3, 3), or None.
            pick: indices of frames, or None.

        Returns:
            directional derivatives, (m, n_atoms of pick, n_features).
        """
        frames, at = self._places(pick)
        bend = np.zeros((len(u), len(frames), 3, 3)) if strain is None else np.ascontiguousarray(strain, np.float64)
        out = np.zeros((len(u), int(at[-1]), self._features), self._dtype)
        fixed = (frames, self._offsets, at, self._species, self._constants, self._rows)
        spread(kernels.push, len(frames), *fixed, np.ascontiguousarray(u, np.float64), bend, out)
        return out

    def _places(self, pick: Ints | None) -> tuple[Ints, Ints]:
        """The frames, and where the atoms of each begin in what goes in and out, (n_pick + 1,)."""
        frames = np.arange(len(self._offsets) - 1) if pick is None else np.asarray(pick, np.int64)
        return frames, np.concatenate([[0], np.cumsum(np.diff(self._offsets)[frames])])


def jacobian_bytes(settings: AevSettings, frames: Frames, neighbors: Neighbors) -> Floats:
    """Memory that the Jacobian of each frame would take in single precision, (n_frames,)."""
    starts, near_starts = _starts(settings, frames, neighbors, np.float32)
    pairs, near = (np.diff(a[frames.offsets]) for a in (starts, near_starts))
    of_near = 8 + 12 * settings.n_species * settings.n_angular_terms
    total: Floats = 16.0 * frames.sizes + (4 + 12 + 4 * len(settings.shifts_r_A)) * pairs + of_near * near
    return total


def _starts(settings: AevSettings, frames: Frames, neighbors: Neighbors, dtype: Any) -> tuple[Ints, Ints]:
    """Where the neighbours of each atom begin within the radial and within the angular cutoff, (n_atoms + 1,)."""
    counts = np.zeros((frames.n_atoms, 2), np.int64)
    spread(
        kernels.count, frames.n_atoms, aev.batch(settings, frames, neighbors), aev.constants(settings, dtype), counts
    )
    both = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(counts, axis=0)])
    return np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])
