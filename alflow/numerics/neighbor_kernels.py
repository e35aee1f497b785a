"""Compiled loops of `alflow.numerics.neighbors`. Arguments are described there; numba infers their types."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import numba as nb
import numpy as np


@nb.njit(cache=True)
def walk(i, position, wrap, cell, pbc, owner, grid, cutoff2, at, j_out, shift_out):
    """Visit all neighbours of atom i; write them from `at` on unless `j_out` is empty; return where it ended."""
    n_bins, reach, base, place, first, order = grid
    f = owner[i]
    nx, ny, nz = n_bins[f, 0], n_bins[f, 1], n_bins[f, 2]
    for bx in range(place[i, 0] - reach[f, 0], place[i, 0] + reach[f, 0] + 1):
        sx = bx // nx
        if sx != 0 and not pbc[f, 0]:
            continue
        for by in range(place[i, 1] - reach[f, 1], place[i, 1] + reach[f, 1] + 1):
            sy = by // ny
            if sy != 0 and not pbc[f, 1]:
                continue
            for bz in range(place[i, 2] - reach[f, 2], place[i, 2] + reach[f, 2] + 1):
                sz = bz // nz
                if sz != 0 and not pbc[f, 2]:
                    continue
                tx = sx * cell[f, 0, 0] + sy * cell[f, 1, 0] + sz * cell[f, 2, 0]
                ty = sx * cell[f, 0, 1] + sy * cell[f, 1, 1] + sz * cell[f, 2, 1]
                tz = sx * cell[f, 0, 2] + sy * cell[f, 1, 2] + sz * cell[f, 2, 2]
                b = base[f] + ((bx - sx * nx) * ny + (by - sy * ny)) * nz + (bz - sz * nz)
                for k in range(first[b], first[b + 1]):
                    j = order[k]
                    if j == i and sx == 0 and sy == 0 and sz == 0:
                        continue
                    # difference first: the reverse pair is then its exact negative
                    dx = (position[j, 0] - position[i, 0]) + tx
                    dy = (position[j, 1] - position[i, 1]) + ty
                    dz = (position[j, 2] - position[i, 2]) + tz
                    if dx * dx + dy * dy + dz * dz < cutoff2:
                        if len(j_out):
                            j_out[at] = j
                            shift_out[at, 0] = sx - wrap[j, 0] + wrap[i, 0]
                            shift_out[at, 1] = sy - wrap[j, 1] + wrap[i, 1]
                            shift_out[at, 2] = sz - wrap[j, 2] + wrap[i, 2]
                        at += 1
    return at


@nb.njit(cache=True, nogil=True)
def count(first, last, position, wrap, cell, pbc, owner, valid, grid, cutoff2, out) -> None:
    """Neighbours of each atom of first:last, (n_atoms,)."""
    no_j, no_shift = np.empty(0, np.int32), np.empty((0, 3), np.int32)
    for i in range(first, last):
        if valid[owner[i]]:
            out[i] = walk(i, position, wrap, cell, pbc, owner, grid, cutoff2, 0, no_j, no_shift)


@nb.njit(cache=True, nogil=True)
def fill(first, last, position, wrap, cell, pbc, owner, valid, grid, cutoff2, start, j_out, shift_out) -> None:
    """Write the neighbours of each atom of first:last at its place."""
    for i in range(first, last):
        if valid[owner[i]] and start[i + 1] > start[i]:
            walk(i, position, wrap, cell, pbc, owner, grid, cutoff2, start[i], j_out, shift_out)


@nb.njit(cache=True, nogil=True)
def reverse(first, last, start, j, shift, out) -> None:
    """Find (j, i, -shift) for every (i, j, shift) of the atoms first:last."""
    for i in range(first, last):
        for p in range(start[i], start[i + 1]):
            for q in range(start[j[p]], start[j[p] + 1]):
                if (
                    j[q] == i
                    and shift[q, 0] == -shift[p, 0]
                    and shift[q, 1] == -shift[p, 1]
                    and shift[q, 2] == -shift[p, 2]
                ):
                    out[p] = q
                    break
