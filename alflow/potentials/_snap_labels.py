"""Which labels a SNAP fit takes, with which weight: groups, bootstraps, and labels that nobody computed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from alflow.core.frames import Bools, Floats, Frames
from alflow.errors import DataError, ResourceError, UnphysicalError
from alflow.interfaces import Halt
from alflow.numerics import bispectrum
from alflow.numerics.bispectrum import BispectrumSettings
from alflow.numerics.neighbors import neighbor_list
from alflow.validation import suggestion

if TYPE_CHECKING:
    from alflow.potentials.snap import Part
    from alflow.store.dataset import Dataset

KINDS: Final = ("energy", "force", "stress")
_FLAT: Final = 1e-3
"""A structure whose generic potential has derivatives below this part of its values, per angstrom or strain, counts as
one that symmetry allows no forces: coordinates in files are rounded."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameWeights:
    """Factor of each label of each frame, zero where it is left out; (n_frames,) each.

    Attributes:
        energy: of the energy per atom.
        force: of the force components.
        stress: of volume times stress per atom.
        placeholders: how many frames had forces, and stress, that nobody computed.
    """

    energy: Floats
    force: Floats
    stress: Floats
    placeholders: tuple[int, int]


def frame_weights(part: Part, data: Dataset, settings: BispectrumSettings, halt: Halt) -> FrameWeights:
    """The weights of the frames of a dataset.

    Raises:
        DataError: there are no groups.
        UnphysicalError: labels that nobody computed, if the settings say so; no label with a weight.
        ResourceError: halted.
    """
    groups = _groups(part, data)
    factors = {g: f if isinstance(f, tuple) else (f, f, f) for g, f in part.group_weights.items()}
    table = np.array([factors.get(str(g), (1.0, 1.0, 1.0)) for g in groups], float).reshape(-1, 3)
    w = table * [part.energy_weight, part.force_weight_A, part.stress_weight]
    has = data.labels.has_stress(data.frames)
    if part.stress_weight and not has.any():
        raise UnphysicalError("stress_weight is set, but no label of the dataset has a stress")
    w[~has, 2] = 0.0
    empty = np.zeros((len(data), 2), np.bool_)
    if part.zero_labels != "fit":
        empty = placeholders(data, settings, w[:, 1:] > 0, part.batch_atoms, halt)
        if part.zero_labels == "refuse" and empty.any():
            raise UnphysicalError(
                refusal(
                    empty,
                    groups,
                    "zero_labels: skip, or for a group with group_weights (such as [1, 0, 0]: energies only)",
                )
            )
        w[:, 1:][empty] = 0.0
    if not w.any():
        raise UnphysicalError("nothing to fit: every label has the weight zero")
    return FrameWeights(w[:, 0], w[:, 1], w[:, 2], (int(empty[:, 0].sum()), int(empty[:, 1].sum())))


def bootstrap_weights(ids: Sequence[str], seed: int, member: int) -> Floats:
    """One positive number a frame, exponentially distributed with mean 1: a function of (frame, seed, member) only."""
    words = [hashlib.sha256(f"{seed}/{member}/{i}".encode()).digest()[:6] for i in ids]
    u = (np.array([int.from_bytes(w, "big") for w in words], float) + 0.5) / 2.0**48
    found: Floats = -np.log(u)
    return found


def _groups(part: Part, data: Dataset) -> list[str]:
    if part.group_column not in data.columns:
        if part.group_weights:
            raise DataError(
                f"group_weights: the dataset has no column {part.group_column!r}, only {sorted(data.columns)}; "
                "name one in group_column"
            )
        return [""] * len(data)
    groups = [str(g) for g in data.columns[part.group_column]]
    for name in part.group_weights:
        if name not in groups:  # perhaps not yet: a workflow's names have been checked
            said = f"group_weights: no frame of the dataset is of group {name!r}; {suggestion(name, set(groups))}"
            print(said)  # noqa: T201  # into the log of the task
    return groups


def placeholders(data: Dataset, settings: BispectrumSettings, used: Bools, max_atoms: int, halt: Halt) -> Bools:
    """Which frames have forces, and stress, of exact zeros that their structure does not explain, (n_frames, 2).

    Args:
        data: the dataset.
        settings: of the descriptors.
        used: whose forces, and stress, are to be fitted, (n_frames, 2); the others are not looked at.
        max_atoms: how many go through the descriptors at a time.
        halt: asked between these.

    Raises:
        ResourceError: halted.
    """
    found = np.zeros((len(data), 2), np.bool_)
    found[:, 0] = used[:, 0] & ~np.logical_or.reduceat(data.labels.forces.any(1), data.frames.offsets[:-1])
    if data.labels.stress is not None:
        found[:, 1] = used[:, 1] & ~data.labels.stress.any((1, 2))
    suspects = np.flatnonzero(found.any(1))
    at = 0
    for frames, _ in data.take(suspects).batches(max_atoms):
        if halt():
            raise ResourceError("halted")
        pick = suspects[at : at + len(frames)]
        found[pick] &= uneven(settings, frames)
        at += len(frames)
    return found


def uneven(settings: BispectrumSettings, frames: Frames) -> Bools:
    """Whether a generic potential has forces, and stress, in each frame, (n_frames, 2).

    Forces that symmetry forbids are zero for every potential, others for none but a special one: so one of random
    coefficients tells a crystal in its sites from forces that nobody computed.
    """
    each = np.random.default_rng(0).normal(size=(len(settings.numbers), settings.n_features))
    coefficients = each[settings.species_index(frames.numbers)]
    size: list[Floats] = []

    def respond(b: Floats) -> Floats:
        lone = np.zeros(b.shape[1]) if settings.bzero else _lone(settings)
        size.append(np.abs((b - lone) * coefficients).sum(1))
        return coefficients

    _, grad, strain = bispectrum.evaluate(settings, frames, neighbor_list(frames, settings.cutoff_A), respond)
    first = frames.offsets[:-1]
    total = np.maximum.reduceat(size[0], first)
    force = np.maximum.reduceat(np.abs(grad).max(1), first) > _FLAT * total
    stress = np.abs(strain).max((1, 2)) > _FLAT * total
    return np.stack([force, stress], 1)


def _lone(settings: BispectrumSettings) -> Floats:
    atom = Frames.single(settings.numbers[:1], np.zeros((1, 3)), np.eye(3), pbc=False)
    lone: Floats = bispectrum.features(settings, atom, neighbor_list(atom, settings.cutoff_A))[0]
    return lone


def refusal(empty: Bools, groups: Sequence[str], remedy: str) -> str:
    """What to say of such frames; `groups` has one name a frame, perhaps empty, and `remedy` leaves them out."""
    said = []
    for column, what in enumerate(("forces", "stresses")):
        hit = [g for g, bad in zip(groups, empty[:, column], strict=True) if bad]
        if hit:
            where = ", ".join(
                f"{hit.count(g)} of {groups.count(g)}{f' in group {g!r}' * bool(g)}" for g in sorted({*hit})
            )
            said.append(f"{what} of {len(hit)} frames ({where})")
    return (
        f"all components are exactly zero in the {' and the '.join(said)}, though the structures are not symmetric: "
        f"nobody seems to have computed them. Leave them out with {remedy}; or fit them as they are with "
        "zero_labels: fit"
    )
