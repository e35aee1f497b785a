from __future__ import annotations

import numpy as np

from alflow.core.frames import Frames
from alflow.core.labels import Cause, Labels, Theory, Verdict
from alflow.runtime.worker import _comparable


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
