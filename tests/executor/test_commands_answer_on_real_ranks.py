"""Law: on real ranks commands give results or, if something is wrong, one clear message and a non-zero exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from planner import compile_spec, load_spec
from tests import ROOT
from tests.executor.jobs import ranks

TINY = str(ROOT / "examples" / "tiny_4rank.yaml")
Outcome = tuple[int, str, str]
KEYS = {
    *("run", "step", "loss", "grad_norm", "num_tokens", "seconds", "memory_bytes", "device"),
    *("predicted_seconds", "predicted_bytes", "predicted_gpu"),
}


def one_message(outcomes: list[Outcome]) -> str:
    """The only message of several ranks that failed."""
    assert all(code == 1 for code, _, _ in outcomes), outcomes
    messages = [err for _, _, err in outcomes if err.strip()]
    assert len(messages) == 1, messages
    return messages[0]


def test_check_prints_a_table_and_agrees() -> None:
    outcomes = ranks.run(4, "jobs:command", "check", TINY)
    assert [code for code, _, _ in outcomes] == [0] * 4
    table = outcomes[0][1]
    assert "53 groups" in table
    assert "images->language" in table
    assert "all groups and bridges are as planned" in table
    assert table.splitlines()[-1] == "`train` would run this plan"
    assert all(not out for _, out, _ in outcomes[1:])


def test_check_says_in_its_last_line_what_train_would_refuse(tmp_path: Path) -> None:
    """Groups and bridges are fine all the same."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(Path(TINY).read_text().replace("{pp: 2}", "{cp: 2}").replace("dtype: fp32", "dtype: fp16"))
    outcomes = ranks.run(4, "jobs:command", "check", str(spec))
    assert [code for code, _, _ in outcomes] == [0] * 4
    last = outcomes[0][1].splitlines()[-1]
    assert last.startswith(f"`train` would refuse this plan: {spec}:7:")
    assert "[R202] modules.language.parallel.cp: cp = 1 with local attention, got 2" in last
    assert "; " in last
    assert "[R106] training.dtype: " in last


def test_layers_that_a_machine_has_not_are_refused(tmp_path: Path) -> None:
    """`check` tries groups and bridges of the plan on any machine, and says that `train` would not do."""
    said = "--target te: this machine builds local layers, since it has no GPU: leave it out"
    outcomes = ranks.run(4, "jobs:command", "check", TINY, "--target", "te")
    assert [code for code, _, _ in outcomes] == [0] * 4
    assert outcomes[0][1].splitlines()[-1] == f"`train` would refuse this plan: {said}"
    assert one_message(ranks.run(4, "jobs:command", "train", TINY, "--target", "te")) == f"executor: {said}\n"


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_gpu_that_nobody_knows_is_refused_at_its_place(command: str, tmp_path: Path) -> None:
    """In a spec. Its plan runs: it may have been made on a machine that knows the GPU's file."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"cluster: {{gpu: gh200, nodes: 1, gpus_per_node: 4}}\n{Path(TINY).read_text()}")
    said = one_message(ranks.run(4, "jobs:command", command, str(spec)))
    assert f"{spec}:1:11: error[S105] cluster.gpu: the GPU is one of" in said
    plan = tmp_path / "plan.json"
    plan.write_text(compile_spec(load_spec(spec)).to_json())
    options = ["--any-node-shape", *(["--steps", "1"] if command == "train" else [])]
    assert [code for code, _, _ in ranks.run(4, "jobs:command", command, str(plan), *options)] == [0] * 4


def test_train_and_reference_write_equal_metrics(tmp_path: Path) -> None:
    """The second example of the README on 4 CPU ranks, and on one."""
    files = tmp_path / "layout.jsonl", tmp_path / "reference.jsonl"
    outcomes = ranks.run(4, "jobs:command", "train", TINY, "--steps", "3", "--metrics", str(files[0]))
    assert [code for code, _, _ in outcomes] == [0] * 4
    assert outcomes[0][1].count("grad norm") == 3
    ranks.run(1, "jobs:command", "train", TINY, "--steps", "3", "--reference", "--metrics", str(files[1]))
    steps, wanted = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    assert [set(step) for step in steps] == [KEYS] * 3
    for step, want in zip(steps, wanted, strict=True):
        assert step["num_tokens"] == want["num_tokens"]
        assert step["loss"] == pytest.approx(want["loss"], rel=1e-6)
        assert step["grad_norm"] == pytest.approx(want["grad_norm"], rel=1e-6)


def test_a_plan_file_trains_as_its_spec(tmp_path: Path) -> None:
    """Both are one plan: their steps are equal, and options take precedence over the spec."""
    file = tmp_path / "plan.json"
    file.write_text(compile_spec(load_spec(TINY)).to_json())
    options = ("--steps", "2", "--dtype", "bf16", "--optimizer", "adam", "--lr", "0.001")
    outcomes = [
        ranks.run(4, "jobs:command", "train", source, *options, "--seed", seed)
        for source, seed in ((str(file), "5"), (TINY, "5"), (TINY, "6"))
    ]
    assert all(code == 0 and not err for ranks_of_run in outcomes for code, _, err in ranks_of_run)
    planned, compiled, reseeded = (
        [line.split("grad norm")[0] for line in ranks_of_run[0][1].splitlines() if line.startswith("step")]
        for ranks_of_run in outcomes
    )
    assert len(planned) == 2
    assert planned == compiled
    assert all(one != other for one, other in zip(planned, reseeded, strict=True))


def test_unequal_token_counts(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    ranks.run(1, "jobs:command", "train", TINY, "--steps", "4", "--reference", "--metrics", str(file))
    counts = [json.loads(line)["num_tokens"] for line in file.read_text().splitlines()]
    assert len(set(counts)) > 1


def test_another_world_size_is_one_message() -> None:
    message = one_message(ranks.run(3, "jobs:command", "train", TINY))
    assert "world size = 3, but the plan is for 4 ranks" in message


def test_plans_that_differ_are_one_message(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(Path(TINY).read_text().replace("global_size: 8", "global_size: 16"))
    plans = [TINY, TINY, str(other), TINY]
    message = one_message(ranks.run(4, "jobs:command_on_own_plan", plans, "check"))
    assert "ranks were started differently: plan " in message
    assert " on ranks 0-1, 3, " in message
    assert " on rank 2. Give every rank" in message


def test_versions_that_differ_are_one_message() -> None:
    message = one_message(ranks.run(4, "jobs:command_with_version_on_one_rank", "2.14.99", "check", TINY))
    assert "torch " in message
    assert "2.14.99 on rank 1" in message


def test_an_unknown_megatron_core_is_one_message() -> None:
    """Megatron-Bridge #4651: with two versions, a KeyError 'View expert' came from deep inside."""
    message = one_message(ranks.run(2, "jobs:command_with_versions", "2.15.0", "0.16.1", "check", TINY))
    assert "megatron-core 0.16.1 is not known here" in message
    assert "megatron-core>=0.19,<0.20" in message


def test_a_spec_with_faults_is_one_message(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(Path(TINY).read_text().replace("pp: 2", "pp: 3"))
    assert "num_layers % pp" in one_message(ranks.run(2, "jobs:command", "check", str(bad)))


def test_a_rank_that_does_not_come_is_named() -> None:
    """Three of four processes start. The store waits no longer than it is told to."""
    outcomes = ranks.run(4, "jobs:command_without", 2, "check", TINY, "--timeout", "3")
    del outcomes[2]
    assert "rank 2 did not come within 0:00:03" in one_message(outcomes)


@pytest.mark.parametrize("victim", [0, 3])
@pytest.mark.parametrize("has_launcher", [True, False])
def test_a_dead_rank_ends_the_run(victim: int, has_launcher: bool) -> None:
    """The others notice, leave with an error and never hang. One of them says so, in a line without a traceback."""
    arguments = (victim, "train", TINY, "--timeout", "20")
    environment, store = {}, None
    if has_launcher:  # like torchrun's agent, which outlives all ranks
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        environment = {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    outcomes = ranks.run_all(4, "jobs:command_with_a_death", *arguments, env=environment)
    survivors = [outcome for rank, outcome in enumerate(outcomes) if rank != victim]
    assert outcomes[victim] == "died without a word"
    assert all(code == 1 for code, _, _ in survivors)
    messages = [err for _, _, err in survivors if err.strip()]
    most = 2 if victim and not has_launcher else 1  # rank 1 cannot know whether rank 0 spoke, as the store is gone
    assert 1 <= len(messages) <= most
    assert all(re.search("lost (another rank|the peer|one of the ranks)", message) for message in messages)
    assert not any("Traceback" in message for message in messages)


def test_the_readmes_commands_under_torchrun(tmp_path: Path) -> None:
    """Word by word on 4 CPU ranks: `check` proves the layout, and `train` and its reference print the same."""
    (block,) = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    checked, trained, reference = (_run(line, tmp_path) for line in block.splitlines())
    assert "all groups and bridges are as planned" in checked
    assert "4 ranks, 53 groups" in checked
    steps, wanted = (
        [line.split("tokens/s")[0].split()[:-1] for line in out.splitlines() if line.startswith("step")]
        for out in (trained, reference)
    )
    assert len(steps) == len(wanted) == 20
    for step, want in zip(steps, wanted, strict=True):  # printed to six places
        assert float(step[3]) == pytest.approx(float(want[3]), abs=1e-5)
    written = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in written] == list(range(20))
    assert all(set(step) == KEYS for step in written)
    assert max(len(line) for out in (checked, trained, reference) for line in out.splitlines()) <= 80


def _run(line: str, place: Path) -> str:
    """The standard output of a command of the README, run by this interpreter."""
    program, *arguments = line.split()
    start = {"torchrun": [sys.executable, "-m", "torch.distributed.run"], "python": [sys.executable]}[program]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*start, *arguments], capture_output=True, text=True, timeout=180, check=False, cwd=place, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ranks_of_tests_see_no_gpu() -> None:
    """Tests start more ranks than a machine has GPUs, and compare with numbers of the CPU."""
    assert ranks.run(1, "jobs:visible_gpus") == [("", 0)]


def test_predicted_stands_beside_measured() -> None:
    """On a CPU, the output says that it is no GPU. Rank 0 alone speaks."""
    outcomes = ranks.run(4, "jobs:command", "train", TINY, "--steps", "2")
    predicted, measured = outcomes[0][1].splitlines()[-2:]
    assert re.fullmatch(r"predicted  [\d.]+ ms a step, [\d.]+ MiB of rank 0 on h100, timed as bf16", predicted)
    assert re.fullmatch(r"measured   [\d.]+ ms a step, [\d.]+ [GM]iB of rank 0 on cpu, not comparable", measured)
    assert all(not out for _, out, _ in outcomes[1:])


def test_a_run_goes_on_where_nothing_can_be_predicted(tmp_path: Path) -> None:
    """A plan that was made on another machine, which knew the file of its GPU."""
    spec, plan, file = (tmp_path / name for name in ("spec.yaml", "plan.json", "metrics.jsonl"))
    spec.write_text(Path(TINY).read_text() + "cluster: {gpu: abacus}\n")
    plan.write_text(compile_spec(load_spec(spec)).to_json())
    ((code, out, _),) = ranks.run(
        1, "jobs:command", "train", str(plan), "--steps", "2", "--reference", "--metrics", str(file)
    )
    assert code == 0
    assert out.count("predicted") == 1
    assert re.search(r"predicted  nothing: .*'abacus'", out)
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(written) == 2
    for step in written:
        assert set(step) == KEYS
        assert [step[f"predicted_{name}"] for name in ("seconds", "bytes", "gpu")] == [None] * 3
