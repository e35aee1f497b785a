"""Any process of a campaign is killed at any moment: it finishes after resume, and nothing is lost or bought twice.

ALFLOW_KILL_ROUNDS says how many rounds, ALFLOW_KILL_SEED which is the first. A round that fails tells its seed.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alflow.store.dataset import Dataset
from alflow.testing import kills
from alflow.testing import slurm as bed
from alflow.testing.kills import Draw, Kill, Victim

ROUNDS = int(os.environ.get("ALFLOW_KILL_ROUNDS", "1"))
FIRST = int(os.environ.get("ALFLOW_KILL_SEED", "0"))
TIMEOUT_S = 900 + 300 * ROUNDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return kills.undisturbed(tmp_path_factory.mktemp("kill") / "undisturbed")


def test_draws_are_repeatable_and_kill_everything():
    draws = [Draw.of(seed) for seed in range(100)]
    assert draws == [Draw.of(seed) for seed in range(100)]
    by_any = Victim.HELPER
    assert {k.victim for d in draws for k in d.kills} == set(Victim) - {Victim.SLURMD, Victim.NODE, by_any}
    assert {k.victim for s in range(100) for k in Draw.of(s, on_slurm=True).kills} == set(Victim) - {by_any}


def test_rounds(reference, tmp_path):
    """One of each kind in the middle of the first labels, and random ones beside it: a round mostly waits."""
    victims = (Victim.WORKER, Victim.INTERCHANGE, Victim.COORDINATOR, Victim.MANAGER)
    each = tuple(Kill(v, 6 + 4 * i, 0.1, 0.5) for i, v in enumerate(victims))
    helper = (Kill(Victim.HELPER, 8, 0.1, 0.0),)
    some = [Draw(-1 - i, "one lane", "rounds", 0.2, kills, patient=True) for i, kills in enumerate((each, helper))]
    draws = [*some, *map(Draw.of, range(FIRST, FIRST + ROUNDS))]
    with ThreadPoolExecutor(3) as pool:
        rounds = list(pool.map(lambda d: kills.play(d, tmp_path / str(d.seed), reference), draws))
    sys.stdout.write("\n".join(r.line for r in rounds))
    assert not [r.line for r in rounds if not r.good]
    assert [r.killed for r in rounds[:2]] == [list(victims), [Victim.HELPER]]
    assert [r.exits for r in rounds[:2]] == [[1, -9, 0], [0]], "only an interchange that is gone ends the coordinator"


@pytest.mark.requires_program("slurmctld", "/usr/sbin/slurmctld")
def test_random_rounds_on_slurm(reference, tmp_path, monkeypatch):
    with bed.cluster(tmp_path / "bed") as cluster:
        for name, value in cluster.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        for seed in range(FIRST, FIRST + max(1, ROUNDS // 4)):
            came = kills.play(Draw.of(seed, on_slurm=True), tmp_path / str(seed), reference, cluster)
            sys.stdout.write(came.line)
            assert came.good, came.line


def test_what_is_lost_or_bought_twice_is_seen(reference, tmp_path):
    """The judge can find against a round: here of a campaign that was tampered with after its end."""
    run = kills.undisturbed(tmp_path / "round")
    ids = Dataset.open(sorted((run / "dataset").glob("*.h5"))).ids
    came = kills.judged(Draw(0, "one lane", "rounds", 0.0, (), patient=False), run, reference)
    assert (came.good, came.same, came.bought, came.uncounted) == (True, True, len(ids), 0)
    with (tmp_path / "round" / "ledger.txt").open("a") as ledger:
        ledger.write(f"{ids[0]}\n")
    (run / "dataset" / "0-000002.h5").unlink()
    came = kills.judged(Draw(0, "one lane", "rounds", 0.0, (), patient=False), run, reference)
    assert not came.good
    assert (came.same, came.twice) == (False, [ids[0]])
    assert 0 < len(came.lost) == len(ids) - came.bought
