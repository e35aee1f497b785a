"""Nets on bispectrum components as files of LAMMPS's ``pair_style mliap model nn descriptor sna``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from ase.data import chemical_symbols

from alflow.core.frames import Floats
from alflow.errors import InputError
from alflow.potentials._snap_nn_model import Members
from alflow.store.files import write_text

_KNOWN: Final = {"tanh"}
"""Activations of ours that the ``nn`` model has, by its name for them; it has sigmoid and ReLU, too."""
_WORDS_A_LINE: Final = 5


def write(members: Members, folder: Path) -> list[str]:
    """Write ``snap_nn.mliap.model`` and ``.descriptor`` of the mean of `members`; the pair_style and pair_coeff lines.

    Raises:
        InputError: LAMMPS does not know the activation.
    """
    if members.activation not in _KNOWN:
        raise InputError(
            "activation",
            f"LAMMPS's mliap model nn knows linear, sigmoid, tanh and relu layers, got {members.activation}",
            "fit with activation: tanh; or run it in a small cell with alflow.engines.lammps_external.ExternalModel; "
            "mliap model mliappy would run it in a LAMMPS built with ML-IAP, PYTHON and MLIAP_ENABLE_PYTHON",
        )
    symbols = [chemical_symbols[z] for z in members.species]
    head = f"# nets on bispectrum components of {' '.join(symbols)}, units metal, made by alflow\n"
    model, descriptor = (folder / f"snap_nn.mliap.{kind}" for kind in ("model", "descriptor"))
    write_text(model, head + _model(members))
    write_text(descriptor, head + _descriptor(members, symbols))
    return [
        f"pair_style mliap model nn {_quoted(model)} descriptor sna {_quoted(descriptor)}",
        f"pair_coeff * * {' '.join(symbols)}",
    ]


def _model(members: Members) -> str:
    """One net an element: what shifts and scales each component, then bias and weights of each node, by layers."""
    nets = [_joined(members, s) for s in range(len(members.species))]
    n_features, widths = members.settings.n_features, [len(layer) for layer in nets[0]]
    layers = " ".join(f"{members.activation} {n}" for n in widths[:-1]) + " linear 1"
    count = sum((a + 1) * b for a, b in pairwise((n_features, *widths)))
    lines = [f"{len(nets)} {count}", f"NET {n_features} {len(widths)} {layers}"]
    for net in nets:
        for values in (np.zeros(n_features), np.ones(n_features), np.concatenate([layer.ravel() for layer in net])):
            lines += _wrapped(values)
    return "\n".join(lines) + "\n"


def _joined(members: Members, species: int) -> list[Floats]:
    """The mean of all members of one element as one net: [bias, weights] of each node, (out, 1 + in) of each layer.

    First layers lie side by side, inner ones on a diagonal of blocks, last ones are averaged.
    """
    nets = [[(w.numpy(), b.numpy()) for w, b in members.shape.views(flat[species])] for flat in members.weights]
    m, last = len(nets), len(nets[0]) - 1
    layers = [np.concatenate([np.column_stack([net[0][1], net[0][0]]) for net in nets])]
    for k in range(1, last):
        out, into = nets[0][k][0].shape
        layer = np.zeros((m * out, 1 + m * into))
        for n, net in enumerate(nets):
            rows = slice(n * out, (n + 1) * out)
            layer[rows, 0], layer[rows, 1 + n * into : 1 + (n + 1) * into] = net[k][1], net[k][0]
        layers.append(layer)
    bias = np.mean([net[last][1] for net in nets], axis=0) + float(members.shift_eV[:, species].mean())
    layers.append(np.column_stack([bias[:, None], *(net[last][0] / m for net in nets)]))
    return layers


def _wrapped(values: Floats) -> Iterator[str]:
    words = [repr(v) for v in values.tolist()]
    for k in range(0, len(words), _WORDS_A_LINE):
        yield " ".join(words[k : k + _WORDS_A_LINE])


def _descriptor(members: Members, symbols: Sequence[str]) -> str:
    s = members.settings
    return "\n".join(
        [
            f"rcutfac {s.rcutfac_A!r}",
            f"twojmax {s.twojmax}",
            f"nelems {len(symbols)}",
            f"elems {' '.join(symbols)}",
            f"radelems {' '.join(map(repr, s.radii))}",
            f"welems {' '.join(map(repr, s.weights))}",
            f"rfac0 {s.rfac0!r}",
            f"rmin0 {s.rmin0_A!r}",
            f"bzeroflag {int(s.bzero)}",
            f"switchflag {int(s.switch)}",
            "",
        ]
    )


def _quoted(path: Path) -> str:
    """Absolute, in quotes where it needs them."""
    word = str(path.resolve())
    return f'"{word}"' if re.search(r"\s", word) else word
