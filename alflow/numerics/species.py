"""Which place an element has among those that descriptors know."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alflow.core.frames import Ints
from alflow.errors import DataError


def species_index(species: Sequence[int], numbers: Ints) -> NDArray[np.int32]:
    """Place of each atomic number in `species`, (n_atoms,).

    Raises:
        DataError: an atomic number that is not in `species`.
    """
    order = np.argsort(species)
    known = np.asarray(species)[order]
    place = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
    if (known[place] != numbers).any():
        strange = sorted({int(z) for z in np.unique(numbers[known[place] != numbers])})
        raise DataError(f"descriptors know the atomic numbers {tuple(species)}, got {strange} too")
    return order[place].astype(np.int32)
