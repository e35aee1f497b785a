"""Random sequential addition of hard spheres in a periodic cell (Widom, J. Chem. Phys. 44, 3888, 1966)."""

from __future__ import annotations

from typing import Final

import numba
import numpy as np

from alflow.core.frames import Floats, Ints

_BLOCK: Final = 4096


def add_spheres(
    cell: Floats, species: Ints, reach: Floats, rng: np.random.Generator, max_trials: int
) -> tuple[Floats, int]:
    """Place spheres one after another at uniformly random points, refusing a point that is too close to an earlier one.

    Args:
        cell: lattice vectors as rows in angstrom, (3, 3); no two opposite faces closer than any of `reach`, so that no
            sphere meets its own image.
        species: species index of each sphere in the order of placement, (n,).
        reach: smallest distance allowed between two species in angstrom, (n_species, n_species), symmetric.
        rng: where the points come from.
        max_trials: points tried before giving up.

    Returns:
        Positions in angstrom inside the cell, (n, 3), and how many spheres found a place; rows beyond are zero.
    """
    n = len(species)
    fractions, placed, tried = np.zeros((n, 3)), 0, 0
    shape = np.maximum(1, (heights(cell) // reach.max()).astype(np.int64))
    head, following = np.full(tuple(shape), -1, np.int64), np.full(n, -1, np.int64)
    while placed < n and tried < max_trials:
        points = rng.random((min(_BLOCK, max_trials - tried), 3))
        placed = _place(cell, species, reach, points, fractions, placed, head, following)
        tried += len(points)
    positions: Floats = fractions @ cell
    return positions, placed


def heights(cell: Floats) -> Floats:
    """Distances of the opposite faces of a cell in angstrom, (3,)."""
    distances: Floats = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    return distances


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _place(
    cell: Floats,
    species: Ints,
    reach: Floats,
    points: Floats,
    fractions: Floats,
    placed: int,
    head: Ints,
    following: Ints,
) -> int:
    """Try `points` in turn; `head` and `following` are the linked cell list of what has been placed.

    A bin is at least as high as the longest reach, so that only adjoining ones matter, or images of the same.
    """
    nx, ny, nz = head.shape
    for t in range(len(points)):
        if placed == len(species):
            break
        # a product may round up to the next bin
        bx, by, bz = min(int(points[t, 0] * nx), nx - 1), min(int(points[t, 1] * ny), ny - 1), int(points[t, 2] * nz)
        bz = min(bz, nz - 1)
        free = True
        for x in range(bx - 1, bx + 2):
            for y in range(by - 1, by + 2):
                for z in range(bz - 1, bz + 2):
                    j = head[x % nx, y % ny, z % nz]
                    while j >= 0 and free:
                        da = points[t, 0] - fractions[j, 0] - x // nx
                        db = points[t, 1] - fractions[j, 1] - y // ny
                        dc = points[t, 2] - fractions[j, 2] - z // nz
                        d2 = 0.0
                        for k in range(3):
                            d = da * cell[0, k] + db * cell[1, k] + dc * cell[2, k]
                            d2 += d * d
                        free = d2 >= reach[species[placed], species[j]] ** 2
                        j = following[j]
        if free:
            fractions[placed] = points[t]
            following[placed] = head[bx, by, bz]
            head[bx, by, bz] = placed
            placed += 1
    return placed
