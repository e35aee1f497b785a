"""`alflow plan`: forecasts side by side, and one message for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alflow.campaign.policy import Cycles, Rounds, Stream
from alflow.cli.app import run
from alflow.cli.plan import as_kind
from alflow.runtime import campaign_run
from alflow.runtime.runner import InlineRunner
from alflow.runtime.worker import execute

WORKFLOW = """
alflow: 1
name: toy
seed: 1
stages:
  - name: melt
    builder: {kind: random_cell, species: {Al: 1.0}, edge_A: [6.0, 8.0], density_g_cm3: [1.8, 2.6]}
    sampler: {kind: toy}
    potential: {kind: toy}
    uncertainty: {kind: spread, energy_meV: 5.0}
    selector: {kind: everything}
    labeler: {kind: toy, sleep_s: 0.0}
    policy: {kind: rounds, samples: 40, initial: 20}
    until: {max_labels: 200}
    thresholds: {select: 0.01, stop: 0.02}
"""
PROFILE = """
tasks:
  sample: {median_s: 100, sigma: 0.6}
  label: {median_s: 600, sigma: 0.6, per: frame}
  fit: {median_s: 900}
stragglers: {probability: 0.02, factor: 20}
failures: {infrastructure: 0.03, unphysical: 0.03}
queue: {median_s: 300, sigma: 1.0}
"""


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("workflow.yaml").write_text(WORKFLOW)
    Path("profile.yaml").write_text(PROFILE)
    for name, blocks in (("small", 2), ("large", 8)):
        lane = f"scheduler: slurm, launcher: srun, nodes_per_block: 2, max_blocks: {blocks}, cores_per_node: 4"
        text = f"site: {name}\nlanes:\n  all: {{{lane}, walltime: '12:00:00'}}\n"
        Path(f"{name}.yaml").write_text(text + "shares: {sample: all, label: all, fit: all}\n")
    return tmp_path


def planned(capsys, *arguments):
    assert run(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_sites_and_policies_are_compared_on_the_same_draws(files, capsys):
    before = sorted(files.iterdir())
    found = planned(
        capsys,
        *("workflow.yaml", "--model", "profile.yaml", "--site", "small.yaml", "--site", "large.yaml"),
        *("--policy", "rounds", "--policy", "stream"),
    )
    names = ["small rounds", "small stream", "large rounds", "large stream"]
    assert [x["name"] for x in found] == names
    for x in found:
        assert x["busy"] + sum(x["idle"].values()) == pytest.approx(1)
        assert x["labels"] == 200
        assert not x["failed"]
        assert set(x["idle"]) == {"no work", "barrier", "straggler", "failure", "start-up"}
    by = dict(zip(names, found, strict=True))
    assert by["large rounds"]["makespan_s"] < by["small rounds"]["makespan_s"]
    assert by["small stream"]["makespan_s"] < by["small rounds"]["makespan_s"]
    assert sorted(files.iterdir()) == before


def test_it_is_printed_as_one_table(files, capsys):
    options = ["--model", "profile.yaml", "-s", "small.yaml", "-s", "large.yaml"]
    assert run(["plan", "workflow.yaml", *options]) == 0
    out = capsys.readouterr().out
    head, *rows = out.splitlines()
    assert head.split() == ["small", "large"]
    words = ("makespan", "node-hours", "busy", "idle: straggler", "waited in the queue", "labels", "model versions")
    assert all(any(r.strip().startswith(w) for r in rows) for w in words)
    assert "from profile.yaml; seed 0. Nothing was started." in out
    assert all(f"Site {name}: lane " in out for name in ("small", "large"))


def test_the_seed_decides_chance(files, capsys):
    def spans(seed):
        options = ["--model", "profile.yaml", "-s", "small.yaml", "--seed", seed]
        return [x["makespan_s"] for x in planned(capsys, "workflow.yaml", *options)]

    assert spans("1") == spans("1") != spans("2")


def test_the_paper_on_its_machine_without_its_programs(capsys):
    (found,) = planned(capsys, "ani_al", "--site", "sierra_lsf")
    assert 5000 < found["labels"] < 15_000  # the paper has 6352
    assert found["ended"] == "all stages are done"


def test_a_campaign_that_fails_says_why(files, capsys):
    Path("profile.yaml").write_text("failures: {defect: 1.0}\n")
    assert run(["plan", "workflow.yaml", "--model", "profile.yaml"]) == 0
    assert "rounds failed: 0-build-000000 failed (defect)" in capsys.readouterr().out


def test_a_finished_run_is_measured_and_replayed(files, capsys):
    site = "site: here\nlanes: {sample: {cores_per_node: 1}}\nshares: {label: sample, fit: sample}\nmonitoring: false\n"
    (files / "site.yaml").write_text(site)
    (files / "quick.yaml").write_text(WORKFLOW.replace("40, initial: 20", "4, initial: 6").replace("200", "12"))
    made = campaign_run.prepare(files / "quick.yaml", files / "site.yaml", files / "run")
    campaign_run.resume(made, lambda where, root: InlineRunner(execute, str(root)))
    (same,) = planned(capsys, "--from", "run")
    assert (same["workflow"], same["site"], same["labels"]) == ("toy", "here", 12)
    assert same["replayed"] == sum(same["tasks"].values())
    (other,) = planned(capsys, "--from", "run", "--policy", "stream", "-s", "large.yaml")
    assert other["replayed"] == 0
    assert other["labels"] == 12
    assert run(["plan", "--from", "run"]) == 0
    assert "never ended" not in capsys.readouterr().out
    lines = (files / "run" / "journal.jsonl").read_text().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if '"0-fit-000000"' in line)
    (files / "run" / "journal.jsonl").write_text("".join(lines[: cut + 1]))
    assert run(["plan", "--from", "run"]) == 0
    assert "never ended a task of calibrate, fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "WORKFLOW: is required"),
        (["nothing.yaml"], "nothing.yaml: no such file"),
        (["workflow.yaml", "--site", "nowhere"], "nowhere: no such file"),
        (["workflow.yaml", "--policy", "steam"], "did you mean 'stream'?"),
        (["workflow.yaml", "--model", "none.yaml"], "none.yaml: no such file"),
        (["--from", "nowhere"], "nowhere: is no run directory"),
    ],
)
def test_what_cannot_be_used_is_one_message(files, capsys, arguments, said):
    assert run(["plan", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: {}", "task: is not a known key"),
        ("tasks: {smaple: {median_s: 1}}", "tasks.smaple: is no verb"),
        ("tasks: {sample: {median: 1}}", "tasks.sample.median: is not a known key"),
        ("tasks: {sample: {median_s: -1}}", "tasks.sample.median_s: should be finite and not negative, got -1"),
        ("tasks: {sample: {median_s: .nan}}", "tasks.sample.median_s"),
        ("tasks: {sample: {values_s: [1, -2]}}", "tasks.sample.values_s[1]: should be finite and not negative"),
        ("tasks: {sample: {per: hour}}", "tasks.sample.per"),
        ("failures: {unphysical: 1.5}", "failures.unphysical: should be between 0 and 1, got 1.5"),
        ("stragglers: {factor: 0}", "stragglers.factor: should be positive, got 0"),
        ("learning: {labels: [10, 10]}", "learning.labels: should grow"),
        ("start_s: soon", "start_s"),
        ("- 1", "profile.yaml"),
    ],
)
def test_a_profile_with_a_mistake_is_refused_with_its_place(files, capsys, text, said):
    Path("profile.yaml").write_text(text + "\n")
    assert run(["plan", "workflow.yaml", "--model", "profile.yaml"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "profile.yaml" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "policy",
    [
        Rounds(samples=40, batch=4, initial=9, label_batch=2),
        Stream(sampling=10, batch=4, initial=9, label_batch=2, fit_at=40),
        Cycles(loops=8, samples=5, batch=4, initial=9, label_batch=2),
    ],
)
def test_a_policy_of_another_kind_runs_as_many_trajectories(policy):
    rounds, stream, cycles = (as_kind(policy, kind) for kind in ("rounds", "stream", "cycles"))
    assert policy in (rounds, stream, cycles)
    assert rounds.samples == stream.sampling * stream.batch == cycles.loops * cycles.samples == stream.fit_at == 40
    assert {p.initial for p in (rounds, stream, cycles)} == {9}
    assert {p.label_batch for p in (rounds, stream, cycles)} == {2}
