from __future__ import annotations

import json

import numpy as np

from alflow.campaign.model import Submitted, Verb
from alflow.core.frames import Frames
from alflow.core.labels import Cause, Labels, Theory, Verdict
from alflow.runtime import layout
from alflow.runtime.journal import read_lines
from alflow.runtime.worker import _comparable, execute
from alflow.store.files import digest
from alflow.testing import kills


def test_an_evaluation_is_held_against_labels_of_the_stages_theory_only():
    frames = Frames.concat(
        [Frames.single([13] * n, np.arange(3.0 * n).reshape(n, 3), np.eye(3) * 9) for n in (1, 2, 3)]
    )
    labels = Labels(np.arange(3.0), np.arange(18.0).reshape(6, 3), np.arange(27.0).reshape(3, 3, 3))
    own, changed = Theory("dft", {"cutoff": 1}), Theory("dft", {"cutoff": 1, "changed": {"smearing": 2}})
    verdicts = (Verdict(ok=True), Verdict(ok=True, theory=changed), Verdict.bad(Cause.VALUE, "absurd"))

    found = _comparable(frames, labels, verdicts, {own.fingerprint})
    assert np.isfinite(found.energy).tolist() == [True, False, False]
    assert np.isfinite(found.forces).all(axis=1).tolist() == [True] + [False] * 5
    assert found.energy[0] == labels.energy[0]
    np.testing.assert_array_equal(found.stress[0], labels.stress[0])

    mapped = _comparable(frames, labels, verdicts, {own.fingerprint, changed.fingerprint})
    np.testing.assert_array_equal(mapped.forces[:3], labels.forces[:3])
    assert np.isfinite(mapped.energy).tolist() == [True, True, False]
    assert _comparable(frames, labels, (Verdict(ok=True),) * 3, {own.fingerprint}) is labels


def test_what_a_killed_worker_left_of_a_shard_or_model_goes_with_the_next_try(tmp_path):
    run = kills.undisturbed(tmp_path / "round")
    tasks = {e.task.verb: e.task for _, events in read_lines(run / layout.JOURNAL) for e in events if is_kept(e)}
    before = {p: digest(p) for name in ("dataset", "models") for p in (run / name).rglob("*") if p.is_file()}
    for task, folder in ((tasks[Verb.MERGE], "dataset"), (tasks[Verb.CALIBRATE], "models")):
        result = run / layout.task_dir(task.id) / layout.RESULT
        made = run / json.loads(result.read_text())["path"]
        assert folder in made.parts
        result.unlink()
        made.with_name(f".{made.name}.0123abcd.part").write_text("half")
        came = execute({"id": task.id, "verb": task.verb, "args": task.args}, str(run))
        assert "failure" not in came, came
    assert before == {p: digest(p) for name in ("dataset", "models") for p in (run / name).rglob("*") if p.is_file()}


def is_kept(event):
    return isinstance(event, Submitted) and event.task.verb in {Verb.MERGE, Verb.CALIBRATE}
