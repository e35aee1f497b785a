"""Reads ensembles in the format of NeuroChem, such as the published ANI-Al.

A folder holds an ``.info`` file (names of the parameter file, of the atomic energies and of the member folders, and
how many members), descriptor parameters (``.params``, Å), atomic energies (``.dat``, hartree), and for each member
``networks/ANN-<symbol>.nnf`` (the layers; as text, or packed with bzip2 behind a line that gives the length) beside raw
little-endian float32 weights (out, in) and biases. Energies are in hartree, so the last layer is scaled to eV.
"""

from __future__ import annotations

import bz2
import re
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import torch
from ase.data import atomic_numbers
from numpy.typing import NDArray

from alflow.core.units import HARTREE_eV
from alflow.errors import DataError
from alflow.numerics.aev import AevSettings
from alflow.potentials._ani_model import AniModel, Members

Singles = NDArray[np.float32]

CELU: Final = 9
"""NeuroChem's code of the activation CELU with alpha 0.1."""
LINEAR: Final = 6
"""NeuroChem's code of no activation."""


def read(path: Path) -> AniModel:
    """The ensemble that the ``.info`` file at `path` describes; files are looked for beside it.

    Raises:
        DataError: a file that is missing, cannot be read, or asks for nets that are not CELU on every hidden layer.
    """
    lines = _text(path).split()
    if len(lines) < 4 or not lines[3].isdigit() or int(lines[3]) < 1:
        raise DataError(f"{path}: expected parameter file, atomic energies, member folders and how many, got {lines}")
    folder, (params, energies, prefix) = path.parent, (Path(line).name for line in lines[:3])
    settings, symbols = _settings(folder / params)
    shift = _shifts(folder / energies, symbols)
    count = int(lines[3])
    nets = [
        [_net(folder / f"{prefix}{m}" / "networks" / f"ANN-{s}.nnf", settings) for s in symbols] for m in range(count)
    ]
    hidden = {h for member in nets for h, _ in member}
    if len(hidden) > 1:
        raise DataError(f"{path}: expected nets of one size, got hidden layers {sorted(hidden)}")
    weights = torch.from_numpy(np.stack([np.stack([flat for _, flat in member]) for member in nets]))
    shifts = torch.from_numpy(np.tile(shift, (count, 1)))
    return AniModel(Members(settings, hidden.pop(), tuple(range(count)), weights, shifts))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: cannot be read: {exc}") from exc


def _settings(path: Path) -> tuple[AevSettings, tuple[str, ...]]:
    """Descriptor settings and chemical symbols of a ``.params`` file."""
    found = dict(re.findall(r"^\s*(\w+)\s*=\s*(.+?)\s*$", _text(path), re.MULTILINE))
    missing = {"Rcr", "Rca", "EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ", "Atyp"} - found.keys()
    if missing:
        raise DataError(f"{path}: expected {sorted(missing)} too, got {sorted(found)}")
    try:
        values = {k: tuple(float(x) for x in v.strip("[]").split(",")) for k, v in found.items() if k != "Atyp"}
        symbols = tuple(s.strip() for s in found["Atyp"].strip("[]").split(","))
        for name in ("EtaR", "EtaA", "Zeta"):
            if len(values[name]) != 1:
                raise DataError(f"{path}: expected one {name}, got {values[name]}")
        settings = AevSettings(
            values["Rcr"][0],
            values["Rca"][0],
            values["EtaR"][0],
            values["ShfR"],
            values["EtaA"][0],
            values["Zeta"][0],
            values["ShfA"],
            values["ShfZ"],
            tuple(int(atomic_numbers[s]) for s in symbols),
        )
    except (ValueError, KeyError) as exc:
        raise DataError(f"{path}: not a number or an element: {exc}") from exc
    return settings, symbols


def _shifts(path: Path, symbols: tuple[str, ...]) -> list[float]:
    """Atomic energies in eV, from lines such as ``Al,0=-2.70``."""
    found = {s: float(e) for s, e in re.findall(r"^\s*(\w+)\s*,\s*\d+\s*=\s*([-+.\deE]+)", _text(path), re.MULTILINE)}
    if not set(symbols) <= found.keys():
        raise DataError(f"{path}: expected an atomic energy of each of {symbols}, got {sorted(found)}")
    return [found[s] * HARTREE_eV for s in symbols]


def _net(path: Path, settings: AevSettings) -> tuple[tuple[int, ...], Singles]:
    """Hidden widths and parameters (W then b, layer by layer; eV) of one net."""
    inputs, layers = _layers(path)
    hidden = tuple(int(layer["nodes"]) for layer in layers[:-1])
    activations = [int(layer["activation"]) for layer in layers]
    if activations != [CELU] * len(hidden) + [LINEAR] or layers[-1]["nodes"] != "1" or inputs != settings.n_features:
        raise DataError(
            f"{path}: expected {settings.n_features} inputs, CELU ({CELU}) on hidden layers and one linear ({LINEAR}) "
            f"output, got {inputs} inputs, activations {activations} and {layers[-1]['nodes']} outputs"
        )
    parts = []
    for layer, (fan_in, fan_out) in zip(layers, pairwise((inputs, *hidden, 1)), strict=True):
        scale = np.float32(HARTREE_eV if layer is layers[-1] else 1)
        for key, size in (("weights", fan_in * fan_out), ("biases", fan_out)):
            parts.append(_floats(path, layer[key], size) * scale)
    return hidden, np.concatenate(parts)


def _floats(net: Path, entry: str, size: int) -> Singles:
    """The values of an entry such as ``FILE:ANN-Al.nnf-l1.wparam[9216]``, from the file beside `net`."""
    found = re.fullmatch(r"FILE:([^/]+)\[(\d+)\]", entry)
    if found is None or int(found[2]) != size:
        raise DataError(f"{net}: expected a file of {size} values, got {entry!r}")
    path = net.with_name(found[1])
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc}") from exc
    if len(raw) != 4 * size:
        raise DataError(f"{path}: expected {size} float32 values, got {len(raw) / 4:g}")
    return np.frombuffer(raw, "<f4").astype(np.float32)


def _layers(path: Path) -> tuple[int, list[dict[str, str]]]:
    """How many inputs, and what a ``.nnf`` file says of each layer."""
    try:
        raw = path.read_bytes()
        packed = raw.find(b"BZh", 0, 32)
        text = (bz2.decompress(raw[packed:]) if packed >= 0 else raw).decode("ascii")
    except (OSError, UnicodeDecodeError, ValueError) as exc:
        raise DataError(f"{path}: cannot be read: {exc}") from exc
    inputs = re.search(r"inputsize\s*=\s*(\d+)", text)
    blocks = re.findall(r"layer\s*\[(.*?;)\s*\]", text, re.DOTALL)
    layers = [dict(re.findall(r"(\w+)\s*=\s*([^;\s]+)\s*;", block)) for block in blocks]
    if (
        inputs is None
        or not layers
        or any({"nodes", "activation", "weights", "biases"} - layer.keys() for layer in layers)
    ):
        raise DataError(f"{path}: expected inputsize, and layers with nodes, activation, weights and biases")
    return int(inputs[1]), layers
