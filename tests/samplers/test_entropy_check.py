"""What the entropy sampler refuses before anything runs, and that what it takes makes no arithmetic overflow."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from alflow.builders.random_cell import Part as RandomCell
from alflow.cli.app import run as alflow
from alflow.core.frames import Frames
from alflow.errors import InputError
from alflow.interfaces import ChecksElements, Stop
from alflow.samplers.entropy import Part
from alflow.store.convert import write_file
from alflow.store.shards import Shard

W = frozenset({"W"})


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"K_eV": (0.1, 0.02)}, "K_eV: expected the lower"),
        ({"weights": {"Wo": 1.0}}, "weights: 'Wo' is not a chemical symbol"),
        ({"weights": {"W": float("nan")}}, "weights: the weight of W is nan"),
        ({"weights": {"W": 1e80}}, "weights: the weight of W is 1e\\+80"),
        ({"weights": {"W": -1e-9}}, "weights: the weight of W is -1e-09"),
        ({"repulsion_A": 5.0}, "repulsion_A: 5 Å is beyond cutoff_A"),
        ({"avoid": Path("/nowhere.xyz")}, "avoid: the file /nowhere.xyz does not exist"),
    ],
)
def test_bad_settings_are_refused(fields, match):
    with pytest.raises(InputError, match=match):
        Part(**fields)


BOUNDS = {
    "K_eV": ((1e-9, 1e-9), (1e4, 1e4)),
    "cutoff_A": (0.5, 15),
    "floor": (1e-6, 1e3),
    "repulsion_A": (0.1, 15),
    "repulsion_eV": (1e-6, 1e6),
    "min_distance_A": (0.1, 15),
    "T_K": ((1e-3, 1e-3), (1e6, 1e6)),
    "timestep_fs": (1e-3, 1e3),
    "friction_per_ps": (1e-6, 1e6),
    "converged_eV": (0, 1e3),
    "weights": ({"W": 1e-3}, {"W": 1e3}),
}


@pytest.mark.parametrize("name", [k for k in BOUNDS if k not in {"weights", "floor"}])
def test_numbers_out_of_bounds_are_refused(name):
    low, high = BOUNDS[name]
    below, above = ((low[0] / 2,) * 2, (high[0] * 2,) * 2) if isinstance(low, tuple) else (low / 2 or -1, high * 2)
    for bad in (below, above):
        with pytest.raises(ValidationError, match=name):
            Part(**{name: bad})


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("name", sorted(BOUNDS))
@pytest.mark.parametrize("metric", ["whitened", "raw"])
def test_numbers_at_their_bounds_are_safe(metric, name, end):
    """Warnings are errors."""
    cells = RandomCell(species={"W": 1}, edge_A=(4, 6), density_g_cm3=(12, 18), min_distance_A=1.9, n_atoms=(2, 4))
    others = {"cutoff_A": 15.0} if name in {"repulsion_A", "min_distance_A"} and end else {}
    part = Part(**{name: BOUNDS[name][end]}, **others, metric=metric, anneal_steps=10, max_steps=10)
    h = part.run(cells.build(3, np.random.default_rng(0)), None, np.random.default_rng(1), Path())
    assert set(h.stops) <= {Stop.COMPLETED, Stop.UNPHYSICAL}
    assert np.isfinite(h.candidates.positions).all()


def test_what_is_extreme_all_at_once_is_safe():
    cells = RandomCell(species={"W": 1}, edge_A=(4, 6), density_g_cm3=(12, 18), min_distance_A=1.9, n_atoms=(2, 4))
    fields = {k: v[1] for k, v in BOUNDS.items()} | {"cutoff_A": 5.0, "repulsion_A": 5.0, "floor": 1e-6}
    part = Part(**fields, metric="raw", twojmax=8, anneal_steps=10, max_steps=10)
    h = part.run(cells.build(3, np.random.default_rng(0)), None, np.random.default_rng(1), Path())
    assert set(h.stops) <= {Stop.COMPLETED, Stop.UNPHYSICAL}


def test_weights_are_of_the_elements_there_are():
    part = Part(weights={"Mo": 2.0})
    assert isinstance(part, ChecksElements)
    with pytest.raises(InputError, match="weights: has Mo, but the structures are of W"):
        part.check(W)
    part.check(frozenset({"Mo", "W"}))
    part.check(frozenset())  # not known before the run


def test_weights_of_what_is_avoided_are_of_use(tmp_path):
    old = Frames.single([42, 74], [[0, 0, 0], [1.6, 1.6, 1.6]], 3.2 * np.eye(3))
    write_file(tmp_path / "old.xyz", Shard(old, {}))
    Part(weights={"Mo": 2.0}, avoid=tmp_path / "old.xyz").check(W)
    with pytest.raises(InputError, match="weights: has Ta"):
        Part(weights={"Ta": 2.0}, avoid=tmp_path / "old.xyz").check(W)


def test_an_element_must_be_seen():
    with pytest.raises(InputError, match="weights: are 0 for all elements"):
        Part(weights={"W": 0.0}).check(W)
    Part(weights={"W": 0.0}).check(frozenset({"Mo", "W"}))


@pytest.mark.parametrize("fields", [{}, {"repulsion_A": 3.0}])
def test_a_limit_beyond_the_repulsion_is_refused(fields):
    farthest = fields.get("repulsion_A", 2.592)  # 0.8 times twice 1.62
    with pytest.raises(InputError, match=f"min_distance_A: 4 Å is beyond .* {farthest:.3g} Å at most"):
        Part(min_distance_A=4.0, **fields).check(W)
    Part(min_distance_A=0.99 * farthest, **fields).check(W)
    Part(min_distance_A=2.5, **fields).check(frozenset({"H", "W"}))  # two of W


WORKFLOW = """
alflow: 1
name: x
seed: 1
stages:
  - name: set
    builder: {{kind: random_cell, species: {{W: 1}}, edge_A: [4, 6], density_g_cm3: [13, 20], min_distance_A: 1.9}}
    sampler: {{kind: entropy, {fields}}}
    potential: {{kind: snap, twojmax: 2}}
    uncertainty: {{kind: none}}
    selector: {{kind: everything}}
    labeler: {{kind: toy}}
    policy: {{kind: rounds, samples: 6, batch: 3}}
    until: {{max_rounds: 1}}
"""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("cutoff_A: 30", "sampler.cutoff_A: should be less than or equal to 15, got 30"),
        ("cutoff_A: 1.0e-6", "sampler.cutoff_A: should be greater than or equal to 0.5, got 1e-06"),
        ("K_eV: [0.1, 1.0e+8]", "sampler.K_eV[1]: should be less than or equal to 10000, got 100000000.0"),
        ("timestep_fs: 1.0e+6", "sampler.timestep_fs: should be"),
        ("weights: {Mo: 2}", "sampler.weights: has Mo"),
        ("weights: {W: 0}", "sampler.weights: are 0"),
        ("min_distance_A: 4.0", "sampler.min_distance_A: 4 Å"),
        ("keep: unknown", "sampler: 'entropy' keeps only what the model does not know, but uncertainty 'none'"),
        ("avoid: garbage.xyz", "sampler.avoid: "),
    ],
)
def test_check_says_where(fields, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "garbage.xyz").write_text("nonsense\n")
    (tmp_path / "w.yaml").write_text(WORKFLOW.format(fields=fields))
    assert alflow(["check", "w.yaml"]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("stages[0].") == 1, "one message"
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["garbage.xyz", "w.yaml"]


def test_check_takes_what_is_good(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.yaml").write_text(WORKFLOW.format(fields="min_distance_A: 2.0, weights: {W: 0.5}"))
    assert alflow(["check", "w.yaml"]) == 0
