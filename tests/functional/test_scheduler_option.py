"""The scheduler that was asked for is the one the host runs by, from the command line to the engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from emulator.control.client import start_engine
from emulator.control.process import EngineOptions
from tests.patience import PATIENCE_SECONDS
from xenconsole.cli import SCHEDULERS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
async def test_the_engine_runs_guests_by_the_scheduler_it_was_started_with(scheduler: str) -> None:
    client = await start_engine(EngineOptions(scheduler=scheduler))
    try:
        assert (await client.overview()).host.scheduler == scheduler
        made = await client.command("create", file=str(ROOT / "guests/hello.cfg"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            async with aclosing(client.console_attach(made.domid, 0)) as chunks:
                assert (await anext(chunks)).data
    finally:
        await client.close()


def test_create_takes_a_scheduler_on_either_side_of_the_verb() -> None:
    command = [sys.executable, "-m", "xenconsole"]
    rest = ["create", "-c", str(ROOT / "guests/shell.cfg"), "--timeout", "3000"]
    for words in ([*command, "--scheduler", "bvt", *rest], [*command, *rest, "--scheduler=null"]):
        done = subprocess.run(words, input=b"poweroff\n", capture_output=True, cwd=ROOT, timeout=PATIENCE_SECONDS)
        assert (done.returncode, done.stderr) == (0, b"")
