from __future__ import annotations

import pytest
import yaml

from alflow.campaign.model import Verb
from alflow.errors import InputError, SpecError
from alflow.interfaces import Code
from alflow.spec import shipped
from alflow.spec.plan import plan, workers_per_node
from alflow.spec.site import Lane, code_of, invisible, lane_of, load_site, walltime_s
from alflow.validation import each


@pytest.fixture
def read(tmp_path):
    def _read(content):
        path = tmp_path / "s.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return load_site(path)

    return _read


LANES = {"sample": {}, "label": {}, "fit": {}}


def refusal(read, content):
    with pytest.raises(InputError) as caught:
        read(content)
    assert len(each(caught.value)) == 1, str(caught.value)
    return caught.value


# ---- lanes ---------------------------------------------------------------------------------------------------------


def test_verbs_find_their_lanes(read):
    site = read({"site": "x", "lanes": {"cores": {}, "label": {}}, "shares": {"sample": "cores", "fit": "cores"}})
    found = {verb: lane_of(site, verb) for verb in Verb}
    assert found[Verb.LABEL] == "label"
    assert found[Verb.EVALUATE] == "label", "evaluation runs the labeler's program"
    assert {found[v] for v in Verb if v not in {Verb.LABEL, Verb.RELABEL, Verb.EVALUATE}} == {"cores"}


def test_every_verb_may_have_its_own_lane(read):
    site = read({"site": "x", "lanes": {**LANES, "build": {}, "evaluate": {}}})
    assert lane_of(site, Verb.BUILD) == "build"
    assert lane_of(site, Verb.EVALUATE) == "evaluate"


@pytest.mark.parametrize(
    ("text", "seconds", "inside"),
    [
        ("04:00:00", 14400, "04:00:00"),
        ("4:00:00", 14400, "04:00:00"),
        ("36:30:05", 131405, "36:30:05"),
        ("1-12:00:00", 129600, "36:00:00"),
        ("10-00:00:00", 864000, "240:00:00"),
    ],
)
def test_walltimes(read, text, seconds, inside):
    assert walltime_s(text) == seconds
    lanes = {**LANES, "fit": {"walltime": text}}
    assert read({"site": "x", "lanes": lanes}).lanes["fit"].walltime == inside
    unquoted = f"site: x\nlanes: {{sample: {{walltime: {text}}}, label: {{}}, fit: {{}}}}"
    assert read(unquoted).lanes["sample"].walltime == inside


@pytest.mark.parametrize("text", ["90", "04:00", "00:00:00", "1:60:00", "1-24:00:00", "1:00:61", "2 h", "-1:00:00"])
def test_what_is_no_walltime(read, text):
    error = refusal(read, {"site": "x", "lanes": {**LANES, "fit": {"walltime": text}}})
    assert error.where.endswith("lanes.fit.walltime")
    assert "HH:MM:SS" in error.hint


def test_a_block_that_could_never_take_a_task_is_refused(read):
    lane = {"scheduler": "slurm", "walltime": "01:00:00", "task_minutes": 50}
    error = refusal(read, {"site": "x", "lanes": {**LANES, "label": lane}})
    assert error.where.endswith("lanes.label.task_minutes")
    assert "50 minutes, a block lives 60" in error.problem
    assert read({"site": "x", "lanes": {**LANES, "label": {**lane, "task_minutes": 40}}})
    error = refusal(read, {"site": "x", "lanes": {**LANES, "label": {**lane, "walltime": "00:00:30"}}})
    assert "a minute at least" in error.problem


@pytest.mark.parametrize(
    ("lane", "key", "words"),
    [
        ({"nodes_per_blok": 2}, "nodes_per_blok", "did you mean 'nodes_per_block'?"),
        ({"scheduler": "pbs"}, "scheduler", "'slurm'"),
        ({"scheduler": "slurm", "launcher": "jsrun"}, "launcher", "use srun or none"),
        ({"launcher": "srun"}, "launcher", "use none"),
        ({"scheduler": "slurm", "nodes_per_block": 2}, "launcher", "only the first of 2 nodes would fit"),
        ({"nodes_per_block": 2}, "nodes_per_block", "this machine is one node"),
        ({"nodes_per_block": 0}, "nodes_per_block", "at least 1, got 0"),
        ({"max_blocks": 0, "min_blocks": 0}, "max_blocks", "at least 1"),
        ({"min_blocks": 3}, "min_blocks", "more than max_blocks"),
        ({"gpus_per_task": 1}, "gpus_per_task", "set gpus_per_node"),
        ({"gpus_per_node": 4, "gpus_per_task": 8}, "gpus_per_task", "a task wants 8 GPUs, a node has 4"),
        ({"gpus_per_node": 4, "gpus_per_task": 2, "workers_per_node": 3}, "workers_per_node", "3 tasks of 2 GPUs"),
        ({"ranks_per_task": 8, "cores_per_task": 2, "cores_per_node": 8}, "cores_per_node", "wants 16 cores"),
        ({"cores_per_node": "8"}, "cores_per_node", "whole number"),
        ({"cores_per_node": True}, "cores_per_node", "whole number"),
        ({"options": "#SBATCH"}, "options", "a list"),
    ],
)
def test_what_cannot_be_in_a_lane(read, lane, key, words):
    error = refusal(read, {"site": "x", "lanes": {**LANES, "fit": lane}})
    assert error.where.endswith(f"lanes.fit.{key}")
    assert words in str(error)


@pytest.mark.parametrize(
    ("content", "where", "words"),
    [
        ({"lanes": LANES}, "site", "is required"),
        ({"site": "x"}, "lanes", "is required"),
        ({"site": "x", "lanes": ["sample"]}, "lanes", "expected a mapping"),
        ({"site": "x", "lanes": {"sample": {}, "label": {}}}, "lanes.fit", "fit has no lane"),
        ({"site": "x", "lanes": {**LANES, "lable": {}}}, "lanes.lable", "did you mean 'label'?"),
        ({"site": "x", "lanes": LANES, "shares": {"bild": "fit"}}, "shares.bild", "did you mean 'build'?"),
        ({"site": "x", "lanes": LANES, "shares": {"build": "fitt"}}, "shares.build", "did you mean 'fit'?"),
        ({"site": "x", "lanes": LANES, "shares": {"fit": "label"}}, "shares.fit", "has a lane of its own"),
        ({"site": "x", "lanes": LANES, "monitoring": "yes"}, "monitoring", "true or false"),
        ({"site": "x", "lanes": LANES, "code": {}}, "code", "did you mean 'codes'?"),
        ({"site": "x", "lanes": {**LANES, "fit": 3}}, "lanes.fit", "expected a mapping"),
    ],
)
def test_what_cannot_be_in_a_site(read, content, where, words):
    error = refusal(read, content)
    assert error.where.endswith(f": {where}")
    assert words in str(error)


def test_a_lane_of_programs_with_a_launcher_of_their_own_needs_none(read):
    label = {"scheduler": "slurm", "launcher": "none", "nodes_per_block": 8}
    assert read({"site": "x", "lanes": {**LANES, "label": label}}).lanes["label"].nodes_per_block == 8


def test_all_mistakes_have_their_lines(read):
    text = "site: x\nlanes:\n  sample: {walltime: 3}\n  label:\n    scheduler: pbs\n  fit: {gpus_per_task: 1}\n"
    with pytest.raises(InputError) as caught:
        read(text)
    found = [e.where.partition("s.yaml:")[2] for e in each(caught.value)]
    assert found == ["3: lanes.sample.walltime", "5: lanes.label.scheduler", "6: lanes.fit.gpus_per_task"]


# ---- programs ------------------------------------------------------------------------------------------------------


def code(read, **entry):
    lanes = {**LANES, "label": {"cores_per_node": 8, "ranks_per_task": 8}}
    return code_of(read({"site": "x", "lanes": lanes, "codes": {"dft": entry}}), "dft")


def test_a_program(read, monkeypatch):
    monkeypatch.setenv("ALFLOW_TEST_HOME", "/home/me")
    found = code(
        read,
        command="/opt/pw.x -nk 2 'a b'",
        launcher="/usr/bin/mpirun -np {ranks}",
        env={"OMP_NUM_THREADS": 1, "DEBUG": True, "EMPTY": None, "A": "b"},
        scratch="/scratch/${ALFLOW_TEST_HOME}",
        pseudo_dir="$ALFLOW_TEST_HOME/pseudo",
        ecut={"Al": 30},
        words="as $they are",
    )
    assert found == Code(
        name="dft",
        command=("/opt/pw.x", "-nk", "2", "a b"),
        launcher=("/usr/bin/mpirun", "-np", "8"),
        env={"OMP_NUM_THREADS": "1", "DEBUG": "true", "EMPTY": "", "A": "b"},
        scratch=found.scratch,
        settings={"pseudo_dir": "/home/me/pseudo", "ecut": {"Al": 30}, "words": "as $they are"},
    )
    assert str(found.scratch) == "/scratch//home/me".replace("//", "/")


def test_labels_that_are_tried_again_may_get_more_ranks(read):
    lanes = {
        **LANES,
        "label": {"cores_per_node": 8, "ranks_per_task": 4},
        "relabel": {"cores_per_node": 32, "ranks_per_task": 16, "cores_per_task": 2},
    }
    dft = {"command": "x", "launcher": "srun -n {ranks}", "env": {"OMP_NUM_THREADS": "{threads}"}}
    site = read({"site": "x", "lanes": lanes, "codes": {"dft": dft}})
    first, again = code_of(site, "dft"), code_of(site, "dft", Verb.RELABEL)
    assert (first.launcher[-1], first.env["OMP_NUM_THREADS"]) == ("4", "1")
    assert (again.launcher[-1], again.env["OMP_NUM_THREADS"]) == ("16", "2")
    assert code_of(site, "other") is None


def test_a_command_may_be_a_list_of_words(read):
    assert code(read, command=["pw.x", "-nk", 2]).command == ("pw.x", "-nk", "2")
    assert code(read).command == ()


@pytest.mark.parametrize("launcher", ["srun -n {ranks}", "jsrun -n {ranks}", "flux run -n {ranks}"])
def test_a_schedulers_own_launcher_needs_no_path(read, launcher):
    assert code(read, command="x", launcher=launcher).launcher[-1] == "8"


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        ({"launcher": "mpirun -np 4"}, "launcher", "is not an absolute path"),
        ({"command": "pw.x 'open"}, "command", "is not a command line"),
        ({"command": {"a": 1}}, "command", "a list of words"),
        ({"command": [["a"]]}, "command", "a list of words"),
        ({"env": ["A=b"]}, "env", "names and values"),
        ({"env": {"A": [1]}}, "env", "names and values"),
        ({"scratch": "here"}, "scratch", "absolute path"),
        ({"scratch": 3}, "scratch", "absolute path"),
        ({"pseudo_dir": "$ALFLOW_SURELY_NOT_SET/x"}, "pseudo_dir", "is not set"),
    ],
)
def test_what_cannot_be_a_program(read, entry, key, words):
    with pytest.raises(SpecError) as caught:
        code(read, **entry)
    assert caught.value.where.endswith(f"codes.dft.{key}")
    assert words in str(caught.value)


def test_what_cannot_be_seen_from_here(tmp_path):
    seen = Code("x", command=("true",), settings={"a": str(tmp_path), "b": "word", "c": 3})
    assert invisible(seen) == ()
    unseen = Code("x", command=("no-such-program",), launcher=("/no/such",), settings={"a": str(tmp_path / "b")})
    assert invisible(unseen) == ("no-such-program", "/no/such", str(tmp_path / "b"))


# ---- plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lane", "workers"),
    [
        ({}, 1),
        ({"cores_per_node": 8, "cores_per_task": 2}, 4),
        ({"cores_per_node": 9, "cores_per_task": 2}, 4),
        ({"cores_per_node": 40, "ranks_per_task": 40}, 1),
        ({"cores_per_node": 64, "ranks_per_task": 16, "cores_per_task": 2}, 2),
        ({"cores_per_node": 40, "cores_per_task": 10, "gpus_per_node": 4, "gpus_per_task": 1}, 4),
        ({"cores_per_node": 40, "cores_per_task": 20, "gpus_per_node": 4, "gpus_per_task": 1}, 2),
        ({"cores_per_node": 40, "gpus_per_node": 4, "gpus_per_task": 4}, 1),
        ({"cores_per_node": 4, "workers_per_node": 9}, 9),
    ],
)
def test_tasks_that_a_node_runs(lane, workers):
    assert workers_per_node(Lane(**lane)) == workers


def test_the_blocks_of_a_site(read):
    lane = {"scheduler": "slurm", "launcher": "srun", "nodes_per_block": 3, "max_blocks": 5, "walltime": "01:30:00"}
    site = read({"site": "x", "lanes": {**LANES, "sample": {**lane, "cores_per_node": 8, "cores_per_task": 4}}})
    block = next(b for b in plan(site) if b.lane == "sample")
    assert (block.workers_per_node, block.tasks_per_block, block.max_tasks) == (2, 6, 30)
    assert (block.walltime_h, block.node_hours) == (1.5, 4.5)
    assert sorted(v for b in plan(site) for v in b.verbs) == sorted(Verb)
    assert block.words() == (
        "slurm: at most 5 blocks of 3 nodes for 1.5 h (4.5 node-hours each); 2 tasks a node, 30 at a time"
    )


# ---- what comes with alflow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped.names("configs"))
def test_shipped_sites_are_right_and_mark_what_to_adapt(name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    site = load_site(name)
    assert {lane_of(site, v) for v in Verb} <= set(site.lanes)
    text = shipped.find(name, "configs").read_text()
    assert "# ADAPT" in text
    for key in ("command:", "account:", "partition:", "max_blocks:", "pseudo_dir:", "potcars:"):
        for line in text.splitlines():
            if line.strip().startswith(key) and "max_blocks: 1\n" not in line + "\n":
                assert "# ADAPT" in line, line


def test_there_is_one_for_every_scheduler():
    found = {lane.scheduler for n in shipped.names("configs") for lane in load_site(n).lanes.values()}
    assert found == {"local", "slurm", "lsf", "flux"}


def test_sierra_is_the_papers_machine():
    site = load_site("sierra_lsf")
    sample = next(b for b in plan(site) if b.lane == "sample")
    assert (sample.workers_per_node, sample.max_tasks) == (4, 800)
    assert code_of(site, "vasp").launcher == ("jsrun", "-n", "1", "-a", "40", "-c", "40")
    assert site.lanes["label"].launcher == "none", "jsrun within jsrun would wait without end"


def test_the_default_is_this_machine():
    assert load_site() == load_site("laptop")
    assert all(lane.scheduler == "local" for lane in load_site().lanes.values())
