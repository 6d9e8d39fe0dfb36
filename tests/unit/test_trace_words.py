"""Hypercalls of the trace in the words of Xen's headers."""

from __future__ import annotations

import pytest

from emulator.hypervisor.trace import TraceEvent


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("sched_op", (1, 0, 7), "block, 0"),
        ("vcpu_op", (8, 0, 0xFFFF800000001000), "set_singleshot_timer, 0, 0xffff800000001000"),
        ("event_channel_op", (4, 0x1000), "send, 0x1000"),
        ("memory_op", (3 << 6 | 6, 0x1000), "populate_physmap, 0x1000"),
        ("grant_table_op", (5, 0x1000, 2), "copy, 0x1000, 2"),
        ("sched_op", (99, 0), "0x63, 0"),
        ("stack_switch", (24, 5), "0x18, 5"),
    ],
)
def test_a_command_is_told_by_its_name(name: str, arguments: tuple[int, ...], said: str) -> None:
    event = TraceEvent(1, 0, 0, "hypercall", name)
    event.arguments = arguments
    assert event.said == said
    event.detail = "to the kernel"
    assert event.said == "to the kernel"
