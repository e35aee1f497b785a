"""In which units distances between descriptors are measured: one metric for all frames, from settings alone."""

from __future__ import annotations

from functools import cache
from typing import Final, Literal

import numpy as np

from alflow.core.frames import Floats, Frames
from alflow.numerics import bispectrum
from alflow.numerics.entropy import whitening
from alflow.numerics.neighbors import neighbor_list
from alflow.numerics.packing import add_spheres

Metric = Literal["whitened", "scaled", "raw"]

_SPACINGS: Final = 1.9
"""Cutoff over spacing of the reference: 29 neighbours within the cutoff; 4.73 Å is 15.4 Å³ an atom."""
_APART: Final = 0.8
_EDGE: Final = 4
_CELLS: Final = 8


@cache
def metric(kind: Metric, twojmax: int, cutoff_A: float) -> Floats:
    """The matrix that descriptors are multiplied with, (n_features, n_features).

    Its scale is that of the environments of a reference: hard spheres placed at random, one to the cube of the spacing,
    which is the cutoff over 1.9. All three have unit variance there, on average over the components:

    - ``whitened``: components neither differ in spread nor go together, so that none outweighs the others (ZCA);
    - ``scaled``: each component divided by its spread;
    - ``raw``: all divided by one number, so that the one that varies most decides, which counts the neighbours.
    """
    b = reference(twojmax, cutoff_A)
    if kind == "whitened":
        return whitening(b)
    spread = b.std(axis=0, ddof=1)
    return np.diag(1 / spread) if kind == "scaled" else np.eye(b.shape[1]) / np.sqrt((spread**2).mean())


def reference(twojmax: int, cutoff_A: float) -> Floats:
    """Descriptors of 512 atoms among spheres placed at random; the same numbers at every call."""
    rng, edge, n = np.random.default_rng(0), _EDGE * cutoff_A / _SPACINGS, _EDGE**3
    cell, apart = edge * np.eye(3), np.full((1, 1), _APART * cutoff_A / _SPACINGS)
    where = [add_spheres(cell, np.zeros(n, np.int64), apart, rng, 10**6)[0] for _ in range(_CELLS)]
    frames = Frames.concat([Frames.single(np.ones(n, np.int64), x, cell) for x in where])
    settings = bispectrum.BispectrumSettings((1,), twojmax, cutoff_A, (0.5,), (1.0,))
    return bispectrum.features(settings, frames, neighbor_list(frames, cutoff_A))
