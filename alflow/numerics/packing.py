"""Random sequential addition of hard spheres in a periodic orthorhombic box (Widom, J. Chem. Phys. 44, 3888, 1966)."""

from __future__ import annotations

from typing import Final

import numba
import numpy as np

from alflow.core.frames import Floats, Ints

_BLOCK: Final = 4096


def add_spheres(
    edges: Floats, species: Ints, reach: Floats, rng: np.random.Generator, max_trials: int
) -> tuple[Floats, int]:
    """Place spheres one after another at uniformly random points, refusing a point that is too close to an earlier one.

    Args:
        edges: box edges in angstrom, (3,); none shorter than any of `reach`, so that no sphere meets its own image.
        species: species index of each sphere in the order of placement, (n,).
        reach: smallest distance allowed between two species in angstrom, (n_species, n_species), symmetric.
        rng: where the points come from.
        max_trials: points tried before giving up.

    Returns:
        Positions in angstrom inside the box, (n, 3), and how many spheres found a place; rows beyond are zero.
    """
    n = len(species)
    positions, placed, tried = np.zeros((n, 3)), 0, 0
    shape = np.maximum(1, (edges // reach.max()).astype(np.int64))
    head, following = np.full(tuple(shape), -1, np.int64), np.full(n, -1, np.int64)
    while placed < n and tried < max_trials:
        points = rng.random((min(_BLOCK, max_trials - tried), 3))
        placed = _place(edges, species, reach, points, positions, placed, head, following)
        tried += len(points)
    return positions, placed


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _place(
    edges: Floats,
    species: Ints,
    reach: Floats,
    points: Floats,
    positions: Floats,
    placed: int,
    head: Ints,
    following: Ints,
) -> int:
    """Try `points` in turn; `head` and `following` are the linked cell list of what has been placed."""
    nx, ny, nz = head.shape
    for t in range(len(points)):
        if placed == len(species):
            break
        # a product may round up to the next cell
        cx, cy, cz = min(int(points[t, 0] * nx), nx - 1), min(int(points[t, 1] * ny), ny - 1), int(points[t, 2] * nz)
        cz = min(cz, nz - 1)
        free = True
        # each distinct neighbouring cell once: three along an edge, or all there are
        for ax in range(-1 if nx > 2 else 0, min(nx, 2)):
            for ay in range(-1 if ny > 2 else 0, min(ny, 2)):
                for az in range(-1 if nz > 2 else 0, min(nz, 2)):
                    j = head[(cx + ax) % nx, (cy + ay) % ny, (cz + az) % nz]
                    while j >= 0 and free:
                        d2 = 0.0
                        for k in range(3):
                            d = points[t, k] * edges[k] - positions[j, k]
                            d -= edges[k] * np.round(d / edges[k])
                            d2 += d * d
                        free = d2 >= reach[species[placed], species[j]] ** 2
                        j = following[j]
        if free:
            for k in range(3):
                positions[placed, k] = points[t, k] * edges[k]
            following[placed] = head[cx, cy, cz]
            head[cx, cy, cz] = placed
            placed += 1
    return placed
