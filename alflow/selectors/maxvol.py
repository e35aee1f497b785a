"""D-optimal selection: the candidates that make the volume of the active set greatest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from alflow.core.frames import Floats, Frames, Ints
from alflow.interfaces import Capability, HasFeatures, Model, part
from alflow.numerics.active_sets import ActiveSets, Rows
from alflow.numerics.devices import torch_device
from alflow.numerics.maxvol import TOLERANCE, settle
from alflow.selectors._features import batches, fresh, say_lost, with_features

Look = Callable[[ActiveSets], ActiveSets]


@part
class Part:
    """The candidates that enter the active set of what is known, when MaxVol runs over both.

    Novikov et al. (MLIP), Mach. Learn.: Sci. Technol. 2, 025002 (2021); for ACE, Lysogorskiy et al., Phys. Rev.
    Materials 7, 043801 (2023). What interpolates is not chosen, so there may be fewer than `limit`, or none; neither is
    a frame that looks like one that is chosen, nor one whose features are not finite (their number is logged). If more
    than `limit` enter, those are taken one by one that have the greatest grade over what is known and chosen: each
    multiplies the volume by that at least. Scores are not looked at.

    Attributes:
        per: ``atom``: rows of atoms, an active set for each element. ``frame``: rows of energies per atom.
        tolerance: a row enters the active set if its grade is above 1 + tolerance.
        memory_GB: rows up to so much are kept in memory; more are computed anew for each look at them.
        device: where grades are computed; ``auto``: on a GPU if there is one.
    """

    per: Literal["atom", "frame"] = "atom"
    tolerance: Annotated[float, Field(gt=0, le=1)] = TOLERANCE
    memory_GB: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.FEATURES})

    def choose(
        self,
        pool: Frames,
        scores: Floats,  # noqa: ARG002 - volumes decide
        known: Frames,
        model: Model | None,
        limit: int,
        rng: np.random.Generator,  # noqa: ARG002 - nothing is left to chance
    ) -> Ints:
        basis, at = with_features(model, "maxvol"), fresh(pool, known)
        if not len(at) or limit < 1:
            return np.zeros(0, np.int64)
        candidates = pool.take(at)
        numbers = np.unique(np.concatenate([pool.numbers, known.numbers]))
        start = ActiveSets.empty(self.per, numbers, basis.features(pool.take([0])).shape[1])
        first = len(candidates)  # frames of `known` are numbered after the candidates
        look_known, _ = self._look(basis, known, start, first)
        sets = settle(start, look_known)[0]
        look_pool, lost = self._look(basis, candidates, start, 0)
        both = settle(sets, lambda found: look_pool(look_known(found)))[0]
        say_lost(len(lost), first)
        owners = np.unique(np.concatenate([s.source[s.filled] for s in both.sets]))
        owners = owners[owners < first]
        if len(owners) > limit:
            owners = owners[_greatest_first(sets.rescaled(both), basis, candidates.take(owners), limit, self.tolerance)]
        chosen: Ints = at[owners]
        return chosen

    def _look(self, basis: HasFeatures, frames: Frames, start: ActiveSets, first: int) -> tuple[Look, set[int]]:
        """What shows all rows of `frames` to the sets, and the frames that turn out to have none.

        The rows are kept in between if they may be. `first` is the number of the first frame.
        """
        device, lost = torch_device(self.device), set[int]()

        def computed() -> Iterable[Sequence[Rows]]:
            for some, features, number in batches(basis, frames):
                found = start.rows(some, features, first + number)
                every = range(first + number, first + number + len(some))
                lost.update(set(every).difference(*(part.source.tolist() for part in found)))
                yield found

        n_rows = frames.n_atoms if self.per == "atom" else len(frames)
        if 8e-9 * n_rows * start.sets[0].n_features > self.memory_GB:
            return lambda sets: sets.updated(computed(), self.tolerance, device), lost
        kept = list(computed())
        return lambda sets: sets.updated(kept, self.tolerance, device), lost


def _greatest_first(sets: ActiveSets, basis: HasFeatures, frames: Frames, limit: int, tolerance: float) -> Ints:
    """Indices of at most `limit` frames, each of greatest grade when those before it are known."""
    features = np.concatenate([f for _, f, _ in batches(basis, frames)])
    chosen = list[int]()
    while len(chosen) < limit:
        grades = sets.grades(frames, features)[0]
        best = int(np.argmax(grades))
        if not grades[best] > 1 + tolerance:
            break
        chosen.append(best)
        sets = sets.extended(frames.take([best]), features[frames.atoms_of([best])], tolerance)
    return np.array(chosen, np.int64)
