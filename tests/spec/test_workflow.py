from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from alflow.campaign.policy import Cycles, Rounds, Stream, Until
from alflow.errors import CapabilityError, InputError, SpecError, UnknownPartError
from alflow.interfaces import Code, Thresholds
from alflow.spec import shipped
from alflow.spec.site import Lane, Site, load_site
from alflow.spec.workflow import against, digest, elements_of, load, to_yaml
from alflow.validation import each

TOY = {
    "alflow": 1,
    "name": "toy",
    "seed": 4,
    "stages": [
        {
            "name": "one",
            "builder": {"kind": "cells"},
            "sampler": {"kind": "toy", "steps": 5},
            "potential": {"kind": "toy"},
            "uncertainty": {"kind": "spread_"},
            "selector": {"kind": "any"},
            "labeler": {"kind": "toy"},
            "policy": {"kind": "rounds", "samples": 4, "batch": 2, "initial": 8},
            "until": {"max_rounds": 2},
        }
    ],
}


@pytest.fixture
def write(tmp_path):
    def _write(content, name="w.yaml"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return path

    return _write


@pytest.fixture
def changed(write):
    """Load the toy workflow with changes to the keys of its stage; None removes a key."""

    def _changed(**changes):
        content = copy.deepcopy(TOY)
        for key, value in changes.items():
            content["stages"][0][key] = value
            if value is None:
                del content["stages"][0][key]
        return load(write(content))

    return _changed


def site(scheduler="local", **codes):
    return Site(name="here", lanes={v: Lane(scheduler=scheduler) for v in ("sample", "label", "fit")}, codes=codes)


# ---- what is read --------------------------------------------------------------------------------------------------


def test_a_workflow_becomes_typed_objects(write):
    workflow = load(write(TOY))
    assert (workflow.name, workflow.seed, len(workflow.stages)) == ("toy", 4, 1)
    stage = workflow.stages[0]
    assert stage.policy == Rounds(samples=4, batch=2, initial=8)
    assert stage.until == Until(max_rounds=2)
    assert stage.thresholds == Thresholds(select=1.0, stop=1.0)
    assert stage.evaluate is None
    assert stage.sampler.steps == 5
    assert stage.from_stage == ""
    assert elements_of(workflow, 0) == {"Al"}


def test_every_policy_and_evaluate(changed):
    assert changed(policy={"kind": "stream", "sampling": 2, "initial": 3}).stages[0].policy == Stream(
        sampling=2, initial=3
    )
    cycles = {"kind": "cycles", "loops": 3, "samples": 4, "initial": 5, "quorum": 0.5}
    assert changed(policy=cycles).stages[0].policy == Cycles(loops=3, samples=4, initial=5, quorum=0.5)
    evaluate = changed(evaluate={"fresh": 10, "crystals": ["fcc", "bcc"], "elastic": False}).stages[0].evaluate
    assert (evaluate.fresh, evaluate.crystals, evaluate.elastic) == (10, ("fcc", "bcc"), False)


def test_defaults_are_inherited_key_by_key_and_replaced_whole(write):
    stage = TOY["stages"][0]
    content = {
        **TOY,
        "defaults": {k: v for k, v in stage.items() if k != "name"},
        "stages": [{"name": "a"}, {"name": "b", "sampler": {"kind": "toy", "T_K": 900}}],
    }
    a, b = load(write(content)).stages
    assert (a.sampler.steps, a.sampler.T_K) == (5, 600)
    assert (b.sampler.steps, b.sampler.T_K) == (50, 900), "a stage's mapping replaces the default, it is not merged"
    assert a.potential == b.potential


MTP = """
alflow: 1
name: mtp-al-melting
seed: 4
defaults:
  builder:     {kind: cells, species: [Al]}
  potential:   {kind: basis, level: 16, cutoff_A: 5.0, members: 1}
  uncertainty: {kind: grade_, per: frame}
  selector:    {kind: maxvol_}
  labeler:     {kind: dft, encut_eV: 410, kpoints: gamma}
  sampler:     {kind: toy}
  thresholds:  {select: 3, stop: 10}
  until:       {no_candidates: true, max_rounds: 80}
stages:
  - name: one_trajectory
    policy:  {kind: rounds, samples: 1, initial: 10}
  - name: better_dft
    builder: {kind: resample_, from_stage: one_trajectory, count: 186}
    labeler: {kind: dft, encut_eV: 410, kpoints: [3, 3, 3]}
    policy:  {kind: rounds, samples: 60, initial: 186}
"""

ENTROPY = """
alflow: 1
name: entropy-w
seed: 0
stages:
  - name: set
    builder:     {kind: cells, species: [W]}
    sampler:     {kind: climb}
    potential:   {kind: basis, level: 8}
    uncertainty: {kind: grade_}
    selector:    {kind: any}
    labeler:     {kind: dft}
    policy:      {kind: rounds, samples: 1000}
    until:       {max_rounds: 1}
"""


def test_two_thresholds_several_stages_and_another_theory(write):
    workflow = load(write(MTP))
    first, second = workflow.stages
    assert first.thresholds == Thresholds(select=3, stop=10)
    assert second.from_stage == "one_trajectory"
    assert first.labeler.theory(None) == second.labeler.theory(None)  # of this toy; the parts differ
    assert first.labeler != second.labeler
    assert elements_of(workflow, 1) == {"Al"}, "a builder that draws from a stage has that stage's elements"


SNAP = {"kind": "snap", "twojmax": 2, "weights": {"Al": 1.0, "Cu": 0.9}}


def two_stages(write, first=SNAP, second=SNAP):
    """One of aluminium, then one of aluminium and copper."""
    content = copy.deepcopy(TOY)
    for name, potential, species in (("pure", first, {"Al": 1.0}), ("alloy", second, {"Al": 0.5, "Cu": 0.5})):
        builder = {"kind": "random_cell", "species": species, "edge_A": [5.0, 7.0], "density_g_cm3": [1.8, 2.6]}
        more = {"name": name, "builder": builder, "potential": potential, "uncertainty": {"kind": "none"}}
        content["stages"].append({**content["stages"][0], **more})
    content["stages"] = content["stages"][1:]
    return load(write(content))


def test_potentials_without_elements_know_all_that_the_workflow_builds(write):
    """The first structures may lack one by chance, and a model that does not know it could not go on."""
    net = {"kind": "ani"}
    for potential in (SNAP, net):
        workflow = two_stages(write, potential, potential)
        assert [stage.potential.elements for stage in workflow.stages] == [("Al", "Cu")] * 2
        assert digest(load(write(to_yaml(workflow), "copy.yaml"))) == digest(workflow)
    named = two_stages(write, {**SNAP, "elements": ["Al"], "weights": {}})
    assert [stage.potential.elements for stage in named.stages] == [("Al",), ("Al", "Cu")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": {"Al": 1.0}}, "lacks Cu"),
        ({"radii": {"Ag": 0.5}}, "has Ag, but the elements are Al, Cu"),
        ({"isolated_eV": {"Mo": -3.0}}, "has Mo, but the elements are Al, Cu"),
        ({"group_weights": {"pur": 2.0}}, "did you mean 'pure'"),
        ({"group_weights": {"pure": 2.0}, "group_column": "K_eV"}, "no dataset of a campaign has the column 'K_eV'"),
    ],
)
def test_what_a_potential_says_of_elements_and_groups_that_are_not_there(write, changes, words):
    with pytest.raises(InputError, match="potential") as caught:
        two_stages(write, SNAP, {**SNAP, **changes})
    assert words in str(caught.value)


def test_what_a_potential_says_is_told_with_all_other_mistakes(write):
    content = copy.deepcopy(TOY)
    builder = {"kind": "random_cell", "species": {"Al": 1.0}}
    wrong = {"potential": {**SNAP, "twojmax": -1}, "uncertainty": {"kind": "none"}, "builder": builder}
    content["stages"] = [
        {**TOY["stages"][0], **wrong},
        {**TOY["stages"][0], "name": "two", "selector": {"kind": "anny"}},
    ]
    content["stages"].append({**TOY["stages"][0], "name": "three", "builder": {"kind": "file", "path": "nowhere.xyz"}})
    with pytest.raises(InputError) as caught:
        load(write(content))
    told = str(caught.value)
    assert [place in told for place in ("twojmax", "stages[1].selector", "stages[2].builder.path")] == [True] * 3


def test_groups_of_earlier_stages_are_there_and_those_of_later_ones_are_not(write):
    for name in ("pure", "alloy"):
        two_stages(write, SNAP, {**SNAP, "group_weights": {name: 2.0}})
    with pytest.raises(InputError, match="is no group"):
        two_stages(write, {**SNAP, "group_weights": {"alloy": 2.0}})
    with pytest.raises(InputError, match=r"split_group: .*'orign'"):
        two_stages(write, {"kind": "ani", "split_group": "orign"})


def test_a_one_shot_set_without_a_model(write):
    stage = load(write(ENTROPY)).stages[0]
    assert not stage.sampler.needs_guide
    assert stage.until.max_rounds == 1


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind", "place", "words"),
    [
        ({"sampler": {"kind": "toi"}}, UnknownPartError, "stages[0].sampler.kind", "did you mean 'toy'?"),
        ({"sampler": {"kind": "toy", "step": 5}}, SpecError, "stages[0].sampler.step", "did you mean"),
        ({"sampler": {"steps": 5}}, SpecError, "stages[0].sampler", "has no 'kind'"),
        ({"sampler": "toy"}, SpecError, "stages[0].sampler", "expected a mapping"),
        ({"sampler": None}, SpecError, "stages[0].sampler", "is required"),
        ({"smapler": {"kind": "toy"}}, SpecError, "stages[0].smapler", "did you mean 'sampler'?"),
        ({"until": None}, SpecError, "stages[0].until", "max_rounds"),
        ({"until": {"no_candidates": False}}, SpecError, "stages[0].until", "never holds"),
        ({"until": {"max_rounds": -1}}, SpecError, "stages[0].until.max_rounds", "at least 0, got -1"),
        ({"until": {"max_labels": 0}}, SpecError, "stages[0].until.max_labels", "at least 1"),
        ({"until": {"median_length_ps": 0}}, SpecError, "stages[0].until.median_length_ps", "positive"),
        ({"policy": {"kind": "round"}}, UnknownPartError, "stages[0].policy.kind", "did you mean 'rounds'?"),
        ({"policy": {"kind": "rounds"}}, SpecError, "stages[0].policy.samples", "is required"),
        ({"policy": {"kind": "rounds", "samples": 2, "btch": 1}}, SpecError, "stages[0].policy.btch", "'batch'"),
        ({"policy": {"kind": "rounds", "samples": -2, "initial": 1}}, SpecError, "stages[0].policy.samples", "least 1"),
        (
            {"policy": {"kind": "rounds", "samples": 2, "batch": 3, "initial": 1}},
            SpecError,
            "stages[0].policy.batch",
            "2",
        ),
        ({"policy": {"kind": "rounds", "samples": 2}}, CapabilityError, "stages[0].policy.initial", "follows a model"),
        (
            {"policy": {"kind": "cycles", "loops": 2, "samples": 2, "initial": 1, "quorum": 1.5}},
            SpecError,
            "stages[0].policy.quorum",
            "fraction",
        ),
        (
            {"policy": {"kind": "cycles", "loops": 2, "samples": 2, "initial": 1, "quorum": 0.0}},
            SpecError,
            "stages[0].policy.quorum",
            "positive",
        ),
        (
            {"policy": {"kind": "cycles", "loops": 2, "samples": 2, "initial": 1, "deadline_h": 0}},
            SpecError,
            "stages[0].policy.deadline_h",
            "positive",
        ),
        ({"patience": {"fit_factor": -1}}, SpecError, "stages[0].patience.fit_factor", "positive"),
        ({"thresholds": {"select": 3}}, SpecError, "stages[0].thresholds.stop", "is required"),
        ({"thresholds": {"select": 3, "stop": 1}}, SpecError, "stages[0].thresholds", "stop (1) is below select (3)"),
        ({"thresholds": {"select": float("nan"), "stop": 1}}, SpecError, "stages[0].thresholds", "NaN"),
        ({"evaluate": {"fres": 1}}, SpecError, "stages[0].evaluate.fres", "did you mean 'fresh'?"),
        ({"evaluate": {"crystals": ["fc"]}}, SpecError, "stages[0].evaluate.crystals[0]", "'fcc'"),
        ({"name": "a/b"}, SpecError, "stages[0].name", "is not a usable name"),
        ({"name": None}, SpecError, "stages[0].name", "is required"),
        ({"builder": {"kind": "resample_", "from_stage": "zero"}}, SpecError, "stages[0].builder.from_stage", "zero"),
        ({"builder": {"kind": "resample_", "from_stage": "one"}}, SpecError, "stages[0].builder.from_stage", "earlier"),
        ({"builder": {"kind": "cells", "file": "x.xyz"}}, InputError, "stages[0].builder.file", "does not exist"),
        (
            {"potential": {"kind": "basis", "level": 3}, "uncertainty": {"kind": "grade_"}},
            InputError,
            "stages[0].pot",
            "even",
        ),
        (
            {
                "potential": {"kind": "basis", "level": 2},
                "uncertainty": {"kind": "grade_"},
                "builder": {"kind": "cells", "species": ["Al", "Cu", "Ni"]},
            },
            InputError,
            "stages[0].potential.elements",
            "at most two",
        ),
        (
            {"potential": {"kind": "basis", "level": 2}},
            CapabilityError,
            "stages[0].uncertainty",
            "'spread_' needs 'members', which potential 'basis' does not provide",
        ),
        (
            {"selector": {"kind": "maxvol_"}, "potential": {"kind": "ani"}},
            CapabilityError,
            "stages[0].selector",
            "'maxvol_' needs 'features', which potential 'ani' does not provide",
        ),
        ({"potential": {"kind": "toy", "members": 1}}, CapabilityError, "stages[0].uncertainty", "has 1"),
        (
            {"sampler": {"kind": "climb"}, "until": {"median_length_ps": 250}},
            CapabilityError,
            "stages[0].until.median_length_ps",
            "'steps', not in ps",
        ),
        (
            {"sampler": {"kind": "climb"}, "policy": {"kind": "cycles", "loops": 2, "samples": 2}},
            CapabilityError,
            "stages[0].policy",
            "loops differ by their models",
        ),
    ],
)
def test_one_mistake_is_one_message_with_line_place_and_remedy(changed, changes, kind, place, words):
    with pytest.raises(InputError) as caught:
        changed(**changes)
    error = caught.value
    assert len(each(error)) == 1, str(error)
    assert type(error) is kind
    file, line, where = error.where.split(":", 2)
    assert file.endswith("w.yaml")
    assert int(line) >= 4
    assert where.strip().startswith(place)
    assert words in str(error)


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"alflow": None}, "alflow", "is required"),
        ({"alflow": 2}, "alflow", "upgrade alflow"),
        ({"alflow": "1"}, "alflow", "schema 1"),
        ({"alflow": True}, "alflow", "schema 1"),
        ({"name": None}, "name", "is required"),
        ({"name": 3}, "name", "not a usable name"),
        ({"seed": None}, "seed", "is required"),
        ({"seed": -1}, "seed", "from 0"),
        ({"seed": 1.5}, "seed", "whole number"),
        ({"stages": None}, "stages", "at least one stage"),
        ({"stages": []}, "stages", "at least one stage"),
        ({"stages": {"name": "x"}}, "stages", "expected a list"),
        ({"stages": ["x"]}, "stages[0]", "expected a mapping"),
        ({"defaults": [1]}, "defaults", "expected a mapping"),
        ({"defaults": {"name": "x"}}, "defaults.name", "is not a known key"),
        ({"stagse": []}, "stagse", "did you mean 'stages'?"),
    ],
)
def test_top_level_mistakes(write, change, place, words):
    content = {k: v for k, v in {**TOY, **change}.items() if v is not None}
    with pytest.raises(SpecError) as caught:
        load(write(content))
    assert len(each(caught.value)) == 1, str(caught.value)
    assert caught.value.where.endswith(f": {place}")
    assert words in str(caught.value)


def test_two_stages_of_one_name(write):
    with pytest.raises(SpecError, match="two stages are called 'one'"):
        load(write({**TOY, "stages": [TOY["stages"][0]] * 2}))


def test_all_mistakes_are_told_each_on_its_line(write):
    text = MTP.replace("level: 16", "levle: 16").replace("per: frame", "per: 3").replace("select: 3", "selct: 3")
    with pytest.raises(InputError) as caught:
        load(write(text))
    assert [e.where.partition("w.yaml:")[2] for e in each(caught.value)] == [
        "7: defaults.potential.levle",
        "7: defaults.potential.level",
        "8: defaults.uncertainty.per",
        "12: defaults.thresholds.selct",
        "12: defaults.thresholds.select",
    ], "a bad default is told once, not for each stage"


# ---- paths, digest, copies -----------------------------------------------------------------------------------------


def test_paths_start_from_the_folder_of_the_file(changed, tmp_path):
    (tmp_path / "cells.xyz").write_text("")
    stage = changed(builder={"kind": "cells", "file": "cells.xyz"}).stages[0]
    assert stage.builder.file == tmp_path / "cells.xyz"


def test_a_copy_means_the_same_from_anywhere(write, tmp_path, monkeypatch):
    (tmp_path / "cells.xyz").write_text("")
    monkeypatch.setenv("ALFLOW_TEST_FILE", str(tmp_path / "cells.xyz"))
    for file in ("cells.xyz", "${ALFLOW_TEST_FILE}"):
        workflow = load(write(MTP.replace("species: [Al]", f"species: [Al], file: '{file}'")))
        elsewhere = tmp_path / "run"
        elsewhere.mkdir(exist_ok=True)
        (elsewhere / "workflow.yaml").write_text(to_yaml(workflow))
        again = load(elsewhere / "workflow.yaml")
        assert again == workflow
        assert digest(again) == digest(workflow)
        assert again.stages[1].from_stage == "one_trajectory"


def test_the_digest_sees_content_only(write):
    plain = digest(load(write(MTP)))
    reordered = "# a comment\nseed: 4\nname: mtp-al-melting\n" + MTP.replace("\nname: mtp-al-melting\nseed: 4", "", 1)
    assert digest(load(write(reordered))) == plain
    assert digest(load(write(MTP.replace("encut_eV: 410", "encut_eV: 410.0")))) == plain
    spread = yaml.safe_load(MTP)
    spread["stages"] = [{**spread["defaults"], **s} for s in spread["stages"]]
    del spread["defaults"]
    assert digest(load(write(spread))) == plain
    for old, new in [
        ("level: 16", "level: 18"),
        ("seed: 4", "seed: 5"),
        ("select: 3", "select: 2"),
        ("count: 186", "count: 9"),
    ]:
        assert digest(load(write(MTP.replace(old, new)))) != plain


# ---- programs of a site --------------------------------------------------------------------------------------------


def test_a_program_that_the_site_does_not_have(write):
    with pytest.raises(SpecError, match="'dft' runs 'dft', which the site 'here' does not have") as caught:
        load(write(ENTROPY), site())
    assert "stages[0].labeler" in caught.value.where
    assert "codes.dft" in caught.value.hint


def test_what_the_labeler_finds_wrong_has_its_place(write):
    with pytest.raises(InputError, match="no pseudopotential for W") as caught:
        load(write(ENTROPY), site(dft=Code("dft", command=("true",), settings={"knows": ["Al"]})))
    assert "w.yaml:12: stages[0].labeler.elements" in caught.value.where


def test_a_program_that_cannot_be_seen_from_here_is_a_note(write):
    code = Code("dft", command=("/not/here/dft",), settings={"knows": ["W"], "library": "/not/here/either"})
    workflow = load(write(ENTROPY), site("slurm", dft=code))
    (note,) = against(workflow, site("slurm", dft=code))
    assert "/not/here/dft, /not/here/either" in note
    assert "alflow doctor" in note
    seen = Code("dft", command=("true",), settings={"knows": ["W"]})
    assert against(workflow, site("slurm", dft=seen)) == ()


def test_a_labeler_without_a_program_needs_none(write):
    assert against(load(write(TOY)), site()) == ()


# ---- what comes with alflow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped.names("workflows"))
def test_shipped_workflows_are_right_and_say_which_site_runs_them(name, monkeypatch, tmp_path):
    text = shipped.find(name, "workflows").read_text()
    assert f"alflow submit workflows/{name}.yaml" in text
    for variable in ("ALFLOW_TEACHER", "ALFLOW_W_EAM"):
        if f"${{{variable}}}" in text:
            monkeypatch.delenv(variable, raising=False)
            with pytest.raises(SpecError, match=f"{variable} is not set"):
                load(name)
            monkeypatch.setenv(variable, str(tmp_path / "file"))
    workflow = load(name)
    assert workflow.name.replace("-", "_") == name
    assert Path(shipped.find(name, "workflows")).stem == name
    assert digest(load(write_copy(workflow, tmp_path))) == digest(workflow)


def write_copy(workflow, folder):
    (folder / "copy.yaml").write_text(to_yaml(workflow))
    return folder / "copy.yaml"


def test_the_papers_full_settings_pass_on_the_papers_machine():
    sierra = load_site("sierra_lsf")
    workflow = load("ani_al", sierra)
    stage = workflow.stages[0]
    assert stage.policy.initial == 400
    assert isinstance(stage.policy, Cycles)
    assert stage.potential.members == 8
    assert stage.until.median_length_ps == 250
    assert stage.builder.edge_A == (10.5, 17.0)
    assert stage.builder.density_g_cm3 == (1.8, 4.05)
    assert stage.labeler.kpoints == (3, 3, 3)
    assert "vasp" in against(workflow, sierra)[0]
