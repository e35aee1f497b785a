from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from alflow import registry
from alflow.core.frames import Frames
from alflow.errors import InputError, SpecError, UnknownPartError
from alflow.registry import Manifest, load_model, read_manifest, save_manifest
from alflow.store.dataset import Dataset
from alflow.testing.toys import ToyLabeler, ToyPotential, ToySampler, morse


def test_names_come_from_files_and_entry_points_without_importing_them():
    code = (
        "import sys; from alflow import registry; n = {r: registry.names(r) for r in registry.ROLES};"
        "print('toy' in n['samplers'], 'random_cell' in n['builders'], "
        "any(k.startswith('_') for v in n.values() for k in v));"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'ase', 'parsl') or m == 'alflow.testing.toys'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True True False", "[]"]


def test_every_shipped_part_has_a_class_that_is_a_part():
    for role in registry.ROLES:
        for kind in registry.names(role):
            cls = registry.part_class(role, kind)
            assert cls.__dataclass_params__.frozen, (role, kind)
            assert cls.__doc__, (role, kind)


def test_make_and_dump_are_inverse():
    for role, part in [
        ("samplers", ToySampler(T_K=900, steps=3)),
        ("potentials", ToyPotential(members=2)),
        ("labelers", ToyLabeler(fail_every=7)),
    ]:
        mapping = registry.dump(role, part)
        assert mapping["kind"] == "toy"
        assert registry.make(role, json.loads(json.dumps(mapping)), "x") == part


def test_an_own_module_is_found_by_its_name():
    part = registry.make("builders", {"kind": "random_cell", "species": {"Al": 1}}, "b")
    assert registry.kind_of("builders", part) == "random_cell"
    assert registry.make("builders", registry.dump("builders", part), "b") == part


@pytest.mark.parametrize(
    ("mapping", "where", "words"),
    [
        ({"kind": "toi"}, "s.kind", "did you mean 'toy'?"),
        ({"kind": "_ani_net"}, "s.kind", "known:"),
        ({"kind": 3}, "s.kind", "expected a word, got 3"),
        ({"T_K": 3}, "s", "has no 'kind'"),
        ("md", "s", "expected a mapping such as {kind:"),
        ({"kind": "toy", "T_k": 3}, "s.T_k", "did you mean 'T_K'?"),
        ({"kind": "toy", "T_K": -3}, "s.T_K", "greater than 0"),
    ],
)
def test_a_bad_mapping_is_one_message_with_place_and_remedy(mapping, where, words):
    with pytest.raises(SpecError) as caught:
        registry.make("samplers", mapping, "s")
    assert caught.value.where == where
    assert words in str(caught.value)


def test_a_part_that_needs_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    import alflow.samplers

    (tmp_path / "needy.py").write_text("import torch_sim_that_is_not_there\n")
    (tmp_path / "empty.py").write_text("")
    monkeypatch.setattr(alflow.samplers, "__path__", [str(tmp_path)])
    monkeypatch.setattr(alflow.samplers.__spec__, "submodule_search_locations", [str(tmp_path)])
    registry._modules.cache_clear()
    try:
        with pytest.raises(SpecError, match="needs the Python package") as caught:
            registry.part_class("samplers", "needy", "s")
        assert caught.value.hint == "pip install torch_sim_that_is_not_there"
        with pytest.raises(UnknownPartError, match="has no class Part"):
            registry.part_class("samplers", "empty", "s")
    finally:
        registry._modules.cache_clear()


def test_a_package_that_is_called_otherwise_on_the_index():
    error = registry._missing_package(ModuleNotFoundError(name="torch_sim.units"), "md", "s.kind")
    assert error.hint == "pip install torch-sim-atomistic"


def test_roles():
    assert [registry.role_of(registry.role_word(r)) for r in registry.ROLES] == list(registry.ROLES)
    with pytest.raises(UnknownPartError, match="did you mean 'samplers'"):
        registry.names("sampler_")
    with pytest.raises(UnknownPartError):
        registry.kind_of("samplers", object())


# ---- models --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), axis=-1).reshape(-1, 3) * 3.0
    frames = Frames.concat(
        [Frames.single([13] * 8, grid + rng.normal(scale=0.2, size=(8, 3)), 6.0 * np.eye(3)) for _ in range(4)]
    )
    potential = ToyPotential(members=2, n_radial=6)
    data = Dataset(frames, morse(frames), ToyLabeler().theory(None))
    report = potential.fit(data, range(2), 1, folder / "members")
    files = [folder / "members" / f for f in report.files]
    save_manifest(folder / "model.json", "toy", registry.plain(potential), files, ["Al"])
    return folder, frames, potential.load(files).predict(frames)


def test_a_saved_model_predicts_what_it_did(fitted):
    folder, frames, expected = fitted
    for given in (folder / "model.json", folder):
        found = load_model(given).predict(frames)
        np.testing.assert_array_equal(found.energy, expected.energy)
        np.testing.assert_array_equal(found.forces, expected.forces)


def test_a_model_folder_can_be_moved_whole(fitted, tmp_path):
    import shutil

    folder, frames, expected = fitted
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    manifest = read_manifest(moved / "model.json")
    assert manifest == Manifest("toy", manifest.fields, manifest.files, ("Al",))
    assert all(f.is_relative_to(moved.resolve()) for f in manifest.files)
    np.testing.assert_array_equal(load_model(moved).predict(frames).energy, expected.energy)


def test_bad_models_are_input_errors(fitted, tmp_path):
    folder, *_ = fitted
    good = json.loads((folder / "model.json").read_text())
    cases = {
        "torn.json": '{"alflow_model": 1',
        "other.json": '{"a": 1}',
        "list.json": "[1]",
        "later.json": json.dumps({**good, "alflow_model": 2}),
        "kindless.json": json.dumps({k: v for k, v in good.items() if k != "kind"}),
        "lost.json": json.dumps({**good, "files": ["not-there.pt"]}),
        "strange.json": json.dumps({**good, "kind": "toi", "files": []}),
        "field.json": json.dumps({**good, "fields": {"membres": 2}, "files": []}),
        "no_files.json": json.dumps({**good, "files": []}),
        "model.xyz": "what",
    }
    for name, text in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError) as caught:
            load_model(tmp_path / name)
        assert name in str(caught.value) or "toy potential" in str(caught.value), name
    for missing in (tmp_path / "no.json", tmp_path / "no.info", tmp_path):
        with pytest.raises(InputError):
            load_model(missing)


def test_a_damaged_member_file_is_an_input_error(fitted, tmp_path):
    import shutil

    folder, *_ = fitted
    broken = shutil.copytree(folder, tmp_path / "broken")
    read_manifest(broken / "model.json").files[0].write_text("{")
    with pytest.raises(InputError, match="cannot be read as a model"):
        load_model(broken)


def test_a_foreign_file_is_read_by_the_potential_that_knows_its_suffix(tmp_path):
    (tmp_path / "ensemble.info").write_text("not an ensemble")
    reader = registry._foreign_reader(tmp_path / "ensemble.info")
    assert ".info" in reader.foreign_suffixes
    with pytest.raises(InputError, match=r"ensemble\.info"):
        load_model(tmp_path / "ensemble.info")
