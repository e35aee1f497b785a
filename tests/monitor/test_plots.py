"""Pictures of runs with figures of all sizes; warnings are errors."""

import pytest

from alflow.monitor.history import History, Wave
from alflow.monitor.plots import all_plots


@pytest.mark.parametrize("scores", [(1e-3, 0.5), (0.0, 1e-8, 3.0), (0.2, 0.3), (0.0,)])
def test_scores_of_all_sizes_are_drawn(scores):
    history = History()
    history.waves += [Wave(60.0 * k, 0, 0, "", (1.0,), "ps", {}, 1, s, s) for k, s in enumerate(scores)]
    (found,) = [p for p in all_plots(history, {0: (1e-3, 1e-2)}) if p.title == "Uncertainty of candidates"]
    assert "<svg" in found.svg
