"""The derivatives of the bispectrum of fixed structures, kept: products with them are far cheaper than making them.

B of an atom changes with its neighbours. Images of one neighbour move together, so there is one block of 3 x K numbers
for each pair of an atom and an atom that it sees, and one for the atom itself; six more rows are for strains, since
what B does not care for, a rotation, is no strain.
"""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np
from numpy.typing import NDArray

from alflow.core.frames import Floats, Frames, Ints
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.bispectrum_jacobian import jacobian, vectors
from alflow.numerics.neighbors import Neighbors

Singles = NDArray[np.float32]
_VOIGT: Final = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
_PLACE: Final = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
"""Of each element of a symmetric matrix in `_VOIGT`."""


class Jacobian:
    """Derivatives of B of a batch, float32, and their products for some of its frames.

    Args:
        settings: of the descriptors.
        frames: where.
        neighbors: a list that is complete to the longest cutoff.
        strains: whether derivatives with respect to strain are kept.
    """

    def __init__(self, settings: BispectrumSettings, frames: Frames, neighbors: Neighbors, strains: bool) -> None:
        self._offsets, self._strains = frames.offsets, strains
        slopes = jacobian(settings, frames, neighbors)
        n, i = frames.n_atoms, neighbors.i
        self._start, self._j, block = _merged(n, i, neighbors.j)
        blocks = np.zeros((len(self._j), 3, settings.n_features))
        np.add.at(blocks, block, slopes)
        own = np.flatnonzero(self._j == np.repeat(np.arange(n), np.diff(self._start)))
        blocks[own] -= np.add.reduceat(blocks, self._start[:-1])  # what moves all neighbours the other way
        self._blocks = blocks.astype(np.float32)
        self._bends = np.zeros((n if strains else 0, 6, settings.n_features), np.float32)
        if strains:
            d = vectors(frames, neighbors)
            turned = np.stack([slopes[:, a] * d[:, b, None] for a, b in _VOIGT], 1)
            bends = np.zeros((n, 6, settings.n_features))
            np.add.at(bends, i, turned)
            self._bends[:] = bends

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return sum(a.nbytes for a in (self._start, self._j, self._blocks, self._bends))

    def vjp(self, g: NDArray[Any], pick: Ints) -> tuple[Singles, Singles]:
        """Gradients of ``sum(g[m] * B)`` over the frames `pick`.

        Args:
            g: (m, n_atoms of pick, n_features).
            pick: indices of frames.

        Returns:
            wrt positions (m, n_atoms of pick, 3), and wrt strain (m, n_pick, 3, 3), zero if not kept.
        """
        grad, virial = np.zeros((*g.shape[:2], 3), np.float32), np.zeros((len(g), len(pick), 6), np.float32)
        fixed = (pick, self._offsets, self._at(pick), self._start, self._j, self._blocks, self._bends)
        _pull(*fixed, np.ascontiguousarray(g, np.float32), grad, virial)
        return grad, virial[..., _PLACE]

    def jvp(self, u: NDArray[Any], strain: NDArray[Any] | None, pick: Ints) -> Singles:
        """Change of B along displacements and symmetric strains, (m, n_atoms of pick, n_features).

        Args:
            u: (m, n_atoms of pick, 3).
            strain: (m, n_pick, 3, 3), or None.
            pick: indices of frames.
        """
        bend = np.zeros((len(u), len(pick), 6), np.float32)
        if strain is not None:
            for v, (a, b) in enumerate(_VOIGT):
                bend[..., v] = strain[..., a, b] * (1 if a == b else 2)
        out = np.zeros((*u.shape[:2], self._blocks.shape[2]), np.float32)
        fixed = (pick, self._offsets, self._at(pick), self._start, self._j, self._blocks, self._bends)
        _push(*fixed, np.ascontiguousarray(u, np.float32), bend, out)
        return out

    def _at(self, pick: Ints) -> Ints:
        """Where the atoms of each frame begin in what goes in and out, (n_pick + 1,)."""
        return np.concatenate([[0], np.cumsum(np.diff(self._offsets)[pick])])


def jacobian_bytes(settings: BispectrumSettings, frames: Frames, neighbors: Neighbors, strains: bool) -> Floats:
    """Memory that the Jacobian of each frame would take, (n_frames,)."""
    start, _, _ = _merged(frames.n_atoms, neighbors.i, neighbors.j)
    blocks = np.diff(start[frames.offsets])
    total: Floats = blocks * (8.0 + 12 * settings.n_features) + frames.sizes * (
        8.0 + 24 * settings.n_features * strains
    )
    return total


def _merged(n: int, i: NDArray[Any], j: NDArray[Any]) -> tuple[Ints, Ints, Ints]:
    """First block of each atom (n + 1,), second atom of each block, and block of each pair (n_pairs,).

    Every atom has a block with itself.
    """
    itself = np.arange(n)
    key = np.concatenate([i.astype(np.int64) * n + j, itself * n + itself])
    found, block = np.unique(key, return_inverse=True)
    start = np.searchsorted(found, np.arange(n + 1) * n)
    return start, found % max(n, 1), block[: len(i)]


@nb.njit(fastmath={"reassoc", "contract", "nsz", "arcp"}, cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pull(pick, offsets, at, start, j, blocks, bends, g, grad, virial) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    for p in range(len(pick)):
        first, to = offsets[pick[p]], at[p]
        for i in range(first, offsets[pick[p] + 1]):
            for m in range(len(g)):
                row = g[m, to + i - first]
                for b in range(start[i], start[i + 1]):
                    of = to + j[b] - first
                    for c in range(3):
                        total = np.float32(0.0)
                        for k in range(len(row)):
                            total += blocks[b, c, k] * row[k]
                        grad[m, of, c] += total
                if len(bends):
                    for c in range(6):
                        total = np.float32(0.0)
                        for k in range(len(row)):
                            total += bends[i, c, k] * row[k]
                        virial[m, p, c] += total


@nb.njit(fastmath={"contract"}, cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _push(pick, offsets, at, start, j, blocks, bends, u, bend, out) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    for p in range(len(pick)):
        first, to = offsets[pick[p]], at[p]
        for i in range(first, offsets[pick[p] + 1]):
            for m in range(len(u)):
                row = out[m, to + i - first]
                for b in range(start[i], start[i + 1]):
                    x, y, z = u[m, to + j[b] - first]
                    for k in range(len(row)):
                        row[k] += blocks[b, 0, k] * x + blocks[b, 1, k] * y + blocks[b, 2, k] * z
                if len(bends):
                    for c in range(6):
                        for k in range(len(row)):
                            row[k] += bends[i, c, k] * bend[m, p, c]
