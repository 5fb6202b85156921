"""Law: memory is used again only if nothing can read it any more. Runs on a rank, since tests do not import torch."""

from __future__ import annotations

from tests.executor.jobs import ranks


def test_what_refers_to_a_buffer_keeps_it() -> None:
    (found,) = ranks.run(1, "bridge_jobs:buffers")
    assert found == {
        "dropped": True,  # the same memory again
        "held": False,
        "a view of a view": False,
        "saved by autograd": False,
        "after backward": True,
        "taken over as a parameter's gradient": False,
        "smaller": True,
        "allocated": 2,
    }
