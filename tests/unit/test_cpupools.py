"""xl's scheduler and pool commands against a host with small guests: what they set, what they list, what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.control.commands import run_command
from emulator.control.host import Host
from emulator.control.messages import CommandResult
from emulator.dom0.scheduling import parse_cpus
from emulator.errors import UserError

IMAGES = Path(__file__).resolve().parents[2] / "guests/images"


class Xl:
    """Commands by name."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def __call__(self, name: str, **args: str | int | bool) -> str:
        result: CommandResult = run_command(self.host, name, args, lambda text: None)
        assert result.ok
        return result.message

    def create(self, name: str, extra: str = "") -> int:
        text = f'name = "{name}"\nkernel = "{IMAGES / "counter"}.elf"\nmemory = 4\n{extra}\n'
        return run_command(self.host, "create", {"text": text}, lambda said: None).domid

    def refused(self, name: str, **args: str | int | bool) -> str:
        with pytest.raises(UserError) as refusal:
            self(name, **args)
        return refusal.value.line()

    def row(self, name: str) -> tuple[str, str, str]:
        row = next(view for view in self.host.overview().domains if view.name == name)
        return row.pool, row.affinity, row.soft_affinity


@pytest.fixture
def xl() -> Iterator[Xl]:
    host = Host(pool_kib=64 << 10, cpus=2)
    host.start()
    yield Xl(host)
    host.stop()


def test_a_pool_is_made_filled_and_taken_down(xl: Xl) -> None:
    assert xl("cpupool-list").splitlines()[1].split() == ["Pool-0", "2", "credit2", "y", "1", "0,1"]
    xl("cpupool-cpu-remove", pool="Pool-0", cpus="1")
    xl("cpupool-create", settings="name=fast sched=credit cpus=1")
    domid = xl.create("inside", 'pool = "fast"')
    assert xl.row("inside") == ("fast", "all", "all")
    assert xl("cpupool-list", pool="fast").splitlines()[1].split() == ["fast", "1", "credit", "y", "1", "1"]
    assert xl.host.overview().host.pools[1].domains == 1
    assert "EBUSY" in xl.refused("cpupool-destroy", pool="fast")
    assert "EBUSY" in xl.refused("cpupool-cpu-remove", pool="fast", cpus="1")
    xl("cpupool-migrate", domid=domid, pool="Pool-0")
    assert xl.row("inside")[0] == "Pool-0"
    xl("cpupool-destroy", pool="fast")
    xl("cpupool-cpu-add", pool="Pool-0", cpus="1")
    assert [pool.cpus for pool in xl.host.cpupools.reports()] == [(0, 1)]


def test_what_xen_refuses_of_pools_is_refused_and_changes_nothing(xl: Xl) -> None:
    before = xl("cpupool-list")
    assert "CPU 0 stays" in xl.refused("cpupool-cpu-remove", pool="Pool-0", cpus="0")
    assert "Domain-0" in xl.refused("cpupool-destroy", pool="Pool-0")
    assert "EEXIST" in xl.refused("cpupool-create", settings="name=Pool-0")
    assert "in pool Pool-0" in xl.refused("cpupool-create", settings="name=p cpus=1")
    assert "cfs" in xl.refused("cpupool-create", settings="name=p sched=cfs")
    assert "colour" in xl.refused("cpupool-create", settings="name=p colour=red")
    assert "leaves no CPU" in xl.refused("cpupool-cpu-add", pool="Pool-0", cpus="7")
    assert "no pool" in xl.refused("cpupool-list", pool="nowhere")
    assert xl("cpupool-list") == before
    xl("cpupool-create", settings='name = "empty"\nsched = "rtds"')
    domid = xl.create("stays")
    assert "ENODEV" in xl.refused("cpupool-migrate", domid=domid, pool="empty")
    assert "ENODEV" in xl.refused("create", text=f'name = "x"\nkernel = "{IMAGES / "counter"}.elf"\nmemory = 4\npool = "empty"')
    assert "no pool" in xl.refused("create", text=f'name = "x"\nkernel = "{IMAGES / "counter"}.elf"\nmemory = 4\npool = "none"')
    assert [view.name for view in xl.host.overview().domains] == ["Domain-0", "stays"]
    assert xl.host.overview().host.free_kib == (64 << 10) - (4 << 10)
    for number in (1, 2):
        xl("cpupool-create", settings=f"name=more{number}")
    assert "ENOSPC" in xl.refused("cpupool-create", settings="name=more3")


def test_hard_and_soft_affinity_are_set_shown_and_checked(xl: Xl) -> None:
    domid = xl.create("pinned", 'cpus = "0-1"\ncpus_soft = "1"')
    assert xl.row("pinned") == ("Pool-0", "all", "1")
    xl("vcpu-pin", domid=domid, vcpu="all", cpus="1", soft="0")
    assert xl.row("pinned") == ("Pool-0", "1", "0")
    xl("vcpu-pin", domid=domid, vcpu="0", cpus="-", soft="all")
    assert xl.row("pinned") == ("Pool-0", "1", "all")
    assert "vCPU 1" in xl.refused("vcpu-pin", domid=domid, vcpu="1", cpus="0")
    assert "breaking affinity for d1" in xl("cpupool-cpu-remove", pool="Pool-0", cpus="1")
    assert xl.row("pinned") == ("Pool-0", "all", "all")
    assert "EINVAL" in xl.refused("vcpu-pin", domid=domid, vcpu="all", cpus="1")


def test_sched_commands_set_and_list_as_xl_does(xl: Xl) -> None:
    first, second = xl.create("one", "cpu_weight = 512"), xl.create("two", "cap = 50")
    assert xl("sched-credit2").splitlines() == [
        "Cpupool Pool-0: ratelimit=1000us",
        "Name                                ID Weight  Cap",
        "one                                  1    512    0",
        "two                                  2    256   50",
    ]
    xl("sched-credit2", domid=first, weight=1000, cap=25)
    assert xl("sched-credit2", domid=first).splitlines()[1].split() == ["one", "1", "1000", "25"]
    assert xl("sched-credit2", whole=True, ratelimit_us=500) == "Cpupool Pool-0: ratelimit=500us"
    assert "weight of 0" in xl.refused("sched-credit2", domid=first, weight=0)
    assert "cap of 101" in xl.refused("sched-credit2", domid=first, cap=101)
    assert "rate limit of 99" in xl.refused("sched-credit2", whole=True, ratelimit_us=99)
    assert "-d DOMAIN" in xl.refused("sched-credit2", weight=7)
    assert "Pool-0 has credit2" in xl.refused("sched-rtds")
    assert "sched-credit2" in xl.refused("sched-credit", domid=second, weight=7)
    xl("cpupool-cpu-remove", pool="Pool-0", cpus="1")
    xl("cpupool-create", settings="name=slow sched=credit cpus=1")
    assert xl("sched-credit", whole=True, tslice_ms=5, ratelimit_us=0) == "Cpupool slow: tslice=5ms ratelimit=0us"
    assert "time slice of 2" in xl.refused("sched-credit", whole=True, pool="slow", tslice_ms=2, ratelimit_us=3000)


def test_rtds_has_periods_budgets_and_extra_time(xl: Xl) -> None:
    xl("cpupool-cpu-remove", pool="Pool-0", cpus="1")
    xl("cpupool-create", settings="name=rt sched=rtds cpus=1")
    domid = xl.create("real", 'pool = "rt"\nperiod = 20000\nbudget = 5000\nextratime = 0')
    heading = "Name                                ID    Period    Budget  Extratime"
    row = "real                                 1     20000      5000         no"
    assert xl("sched-rtds").splitlines() == ["Cpupool rt: sched=RTDS", heading, row]
    xl("sched-rtds", domid=domid, period=10000, budget=9000, extratime=1)
    assert xl("sched-rtds", domid=domid).splitlines()[1].split() == ["real", "1", "10000", "9000", "yes"]
    assert "9000" in xl("sched-rtds", domid=domid, vcpu="all", budget=9000)
    assert "no vCPU 2" in xl.refused("sched-rtds", domid=domid, vcpu="2")
    assert "-d DOMAIN" in xl.refused("sched-rtds", vcpu="0")
    for period, budget in ((10, 11), (5, 5), (100, 9)):
        assert "EINVAL" in xl.refused("sched-rtds", domid=domid, period=period, budget=budget)
    assert xl("sched-rtds", domid=domid).splitlines()[1].split() == ["real", "1", "10000", "9000", "yes"]


def test_rtds_terms_are_listed_for_each_vcpu_and_set_for_all(xl: Xl) -> None:
    xl("cpupool-cpu-remove", pool="Pool-0", cpus="1")
    xl("cpupool-create", settings="name=rt sched=rtds cpus=1")
    domid = xl.create("pair", 'pool = "rt"\nvcpus = 2')
    heading = "Name                                ID VCPU    Period    Budget  Extratime"
    rows = [f"pair                                 1    {vcpu}     10000      4000        yes" for vcpu in (0, 1)]
    assert xl("sched-rtds", vcpu="all").splitlines() == ["Cpupool rt: sched=RTDS", heading, *rows]
    assert xl("sched-rtds", domid=domid, vcpu="all").splitlines() == [heading, *rows]
    assert xl("sched-rtds", domid=domid, vcpu="1").splitlines() == [heading, rows[1]]
    assert "go together" in xl.refused("sched-rtds", domid=domid, vcpu="1", budget=9000)
    xl("sched-rtds", domid=domid, vcpu="all", budget=9000)
    assert xl("sched-rtds", domid=domid).splitlines()[1].split() == ["pair", "1", "10000", "9000", "yes"]


@pytest.mark.parametrize(("text", "cpus"), [("0-2,^1", {0, 2}), ("all,^3", {0, 1, 2}), ("node:0,^0", {1, 2, 3}), ("nodes:1,2", {2}), ("1;3", {1, 3})])
def test_lists_of_cpus_are_read_as_xl_reads_them(text: str, cpus: set[int]) -> None:
    assert parse_cpus(text, 4) == frozenset(cpus)
