"""Law: misuse of a command line or spec is one message on one rank, before any group, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import EXAMPLES
from tests.executor.jobs import ranks

TINY = str(EXAMPLES / "tiny_4rank.yaml")
BAD_OPTIONS = {
    "--dtype fp99": "argument --dtype: invalid choice: 'fp99'",
    "--steps 0": "argument --steps: expected an integer from 1 to",
    "--steps -3": "got '-3'",
    "--steps 1.5": "got '1.5'",
    "--lr -1": "argument --lr: expected a number above 0 and at most 1e+06, got '-1'",
    "--lr nan": "got 'nan'",
    "--lr inf": "got 'inf'",
    "--seed one": "argument --seed: expected an integer from 0",
    "--timeout 0": "argument --timeout: expected a number above 0 and at most 86400, got '0'",
    "--timeout -1": "got '-1'",
    "--timeout nan": "got 'nan'",
    "--timeout 1e300": "got '1e300'",
    "--colour": "unrecognized arguments: --colour",
    "--metrics /nope/x --reference": "--metrics /nope/x cannot be written: there is no directory /nope",
    "--metrics / --reference": "--metrics / is a directory",
}


def only_message(outcomes: list[tuple[int, str, str]], code: int) -> str:
    assert [found for found, _, _ in outcomes] == [code] * len(outcomes), outcomes
    assert not any(out for _, out, _ in outcomes)
    (message,) = [err for _, _, err in outcomes if err]
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_an_option_without_sense_is_refused(options: str) -> None:
    message = only_message(ranks.run(1, "jobs:command", "train", TINY, *options.split()), 2)
    assert BAD_OPTIONS[options] in message


@pytest.mark.parametrize("arguments", [("train", TINY, "--dtype", "fp99"), ("prove", TINY), ("check",)])
def test_of_several_ranks_one_says_what_the_command_takes(arguments: tuple[str, ...]) -> None:
    message = only_message(ranks.run(3, "jobs:command", *arguments), 2)
    assert message.count("usage: python -m executor") == 1


def test_the_reference_is_one_process() -> None:
    message = only_message(ranks.run(4, "jobs:command", "train", TINY, "--reference"), 2)
    assert message == "executor: --reference runs on one rank: start one process, got 4\n"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RANK", "abc", "RANK in the environment is a number, got 'abc'"),
        ("RANK", "-1", "RANK in the environment is a number, got '-1'"),
        ("WORLD_SIZE", "", "WORLD_SIZE in the environment is a number, got ''"),
        ("LOCAL_RANK", "x", "LOCAL_RANK in the environment is a number, got 'x'"),
        ("MASTER_PORT", "http", "MASTER_PORT in the environment is a number, got 'http'"),
        ("RANK", "7", "0 <= RANK < WORLD_SIZE in the environment, got 7 and 1"),
    ],
)
def test_an_environment_without_sense_is_refused(name: str, value: str, said: str) -> None:
    assert said in only_message(ranks.run(1, "jobs:command", "check", TINY, env={name: value}), 1)


BEYOND = {
    "fp16": (("dtype: fp32", "dtype: fp16"), "loss scaling over several modules is not right"),
    "sharded_sgd": (("optimizer: sgd", "distributed_optimizer: true, optimizer: sgd"), "shards the state of adam only"),
    "items": (("tokens_per_sample: 16", "tokens_per_sample: 17"), "is a multiple of the 16 tokens"),
    "limit": (("{pp: 2}", "{cp: 2}"), "cp = 1 with local attention, got 2"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_cannot_be_trained_is_refused_before_the_ranks_agree(name: str, tmp_path: Path) -> None:
    """The plan has four ranks, and three run: a rank that got as far as the agreement would say that instead."""
    (old, new), said = BEYOND[name]
    text = Path(TINY).read_text()
    assert text.count(old) == 1
    spec = tmp_path / "spec.yaml"
    spec.write_text(text.replace(old, new))
    assert said in only_message(ranks.run(3, "jobs:command", "train", str(spec)), 1)
