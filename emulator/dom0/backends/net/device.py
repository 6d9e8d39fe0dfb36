"""One virtual network interface of one guest: the handshake, the rings when there are any, and its port of a network.

All but `deliver` runs in the domain's holder. Frames from other guests come as messages (`FramesIn`), so that the log of messages is
enough to run the domain again without the network.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from emulator.abi.netif import XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6
from emulator.dom0.backends.net.queues import MAX_QUEUES, Place, Queue, QueueState, choose, open_queue
from emulator.dom0.backends.net.rx import MAX_QUEUED_BYTES, MAX_QUEUED_FRAMES
from emulator.dom0.backends.net.side import Abilities, GuestSide, VifCounters
from emulator.dom0.backends.ring import FRAME
from emulator.dom0.grants import GrantError
from emulator.dom0.network import Capture, Frame, Network, TokenBucket, mac_text
from emulator.dom0.network.frame import complete, segment
from emulator.dom0.vifspec import VifSpec
from emulator.dom0.xenbus import XenbusBackend
from emulator.dom0.xenstore import Store

_IPV6: Final = b"\x86\xdd"
_STALL_NS: Final = 1_000_000_000
_MOST: Final = (1 << 32) - 1
_FEATURES: Final = {
    "feature-sg": "1", "feature-gso-tcpv4": "1", "feature-gso-tcpv6": "1", "feature-ipv6-csum-offload": "1", "feature-rx-copy": "1",
    "feature-rx-flip": "0", "feature-multicast-control": "1", "feature-split-event-channels": "1", "feature-ctrl-ring": "0",
    "multi-queue-max-queues": str(MAX_QUEUES), "hotplug-status": "connected",
}  # fmt: skip


@dataclass(frozen=True)
class VifState:
    """A saved interface."""

    spec: VifSpec
    handshake: tuple[int, int, bool, bool, bool]
    queues: tuple[QueueState, ...]
    abilities: Abilities
    multicast: frozenset[bytes]
    credit: tuple[int, int] | None


class Vif(XenbusBackend):
    """`gone` is called once the device's nodes are removed, in the holder's turn."""

    def __init__(self, spec: VifSpec, network: Network, side: GuestSide, store: Store, gone: Callable[[Vif], None]) -> None:
        self.name = f"vif{side.domid}.{spec.devid}"
        super().__init__("vif", spec.devid, self.name, side, store)
        self.spec, self.network = spec, network
        self.event_name = f"vif-{spec.devid}"
        self._side, self._gone = side, gone
        self.queues: list[Queue] = []  # none while it is not connected
        self.multicast: set[bytes] = set()  # groups that the frontend asked for
        self.abilities = Abilities()
        self.counters = VifCounters()
        self.bucket = TokenBucket(spec.rate, side.now()) if spec.rate is not None else None
        self.capture: Capture | None = None
        self._asleep = False  # waits for credit
        self._waits_since = {False: 0, True: 0}  # sending, receiving: when that was first seen, ns
        self._posting = threading.Lock()
        self._posted_frames = self._posted_bytes = 0
        self._posted_at: deque[int] = deque()  # when each message that is under way was posted, ns
        self.port = network.attach(self, spec.mac)

    # --- xenstore --------------------------------------------------------------------------------------------------------------

    def advertise(self) -> None:
        """The nodes as libxl writes them, then what this backend can do; the handshake starts."""
        spec, devid, mac = self.spec, str(self.devid), mac_text(self.spec.mac)
        back = {"script": "vif-bridge", "vifname": self.name, "mac": mac, "bridge": spec.bridge, "handle": devid, "type": "vif"}
        if spec.rate is not None:
            back["rate"] = spec.rate.text()
        front = {"handle": devid, "mac": mac, "mtu": str(spec.mtu), "trusted": str(int(spec.trusted))}
        self.publish("vif", back, front, _FEATURES)

    def forget(self) -> None:
        self.queues = []
        super().forget()

    def removed(self) -> None:
        self._gone(self)

    def connect(self) -> None:
        """connect of xen-netback: what the frontend can do, then each queue's two rings and one or two event channels."""
        count = self.number("multi-queue-num-queues", _MOST, 1)
        if not 0 < count <= MAX_QUEUES:
            raise GrantError(f"it wants {count} queues, {MAX_QUEUES} are the most")
        if not self.number("request-rx-copy", 1, 0):
            raise GrantError("it does not ask for rx-copy, nothing else is offered")
        abilities, queues = self._read_abilities(), []
        self.multicast = set()
        try:
            for number in range(count):
                queues.append(Queue(self._side, self.event_name, self._place(f"queue-{number}/" if count > 1 else ""), self.multicast))
        except (GrantError, ValueError):
            for queue in queues:
                queue.release()
            raise
        self.abilities, self.queues = abilities, queues

    def _place(self, prefix: str) -> Place:
        """A queue's nodes lie in a folder of its own when there are several."""
        split = self._store.read(f"{self.front}/{prefix}event-channel-tx") is not None
        return open_queue(self._side, self.event_name, lambda key: self.number(prefix + key, _MOST), split)

    def opened(self) -> None:
        for queue in self.queues:
            queue.notify()
        self.kick()

    def _read_abilities(self) -> Abilities:
        def has(key: str) -> bool:
            return bool(self.number(key, 1, 0))

        gso = {XEN_NETIF_GSO_TYPE_TCPV4: has("feature-gso-tcpv4"), XEN_NETIF_GSO_TYPE_TCPV6: has("feature-gso-tcpv6")}
        return Abilities(has("feature-sg"), frozenset(kind for kind, can in gso.items() if can), not has("feature-no-csum-offload"),
                         has("feature-ipv6-csum-offload"), has("request-multicast-control"))  # fmt: skip

    def disconnect(self) -> None:
        queues, self.queues = self.queues, []
        for queue in queues:
            queue.release()

    # --- frames ----------------------------------------------------------------------------------------------------------------

    def kick(self) -> None:
        """The frontend sent an event: frames to send, or buffers."""
        for queue in self.queues:
            tx, rx = queue.tx, queue.rx
            frames = tx.take(self._allow) if self.bucket is not None else tx.take()
            if rx.queue:
                rx.fill()
            if not self._pushed(queue):
                return
            self.counters.tx_errors += tx.errors
            tx.errors = 0
            if frames:
                self._sent(frames)

    def _sent(self, frames: list[Frame]) -> None:
        """The guest sent these."""
        counters = self.counters
        counters.tx_frames += len(frames)
        counters.tx_bytes += sum([len(frame.data) for frame in frames])
        if not self._side.replaying:
            self._record(frames, sent=True)
            self.network.send(self.port, frames)

    def _allow(self, size: int) -> bool:
        assert self.bucket is not None
        again = self.bucket.take(size, self._side.now())
        if again and not self._asleep:
            self._asleep = True
            self._side.wake(self.event_name, again)
        return not again

    def _pushed(self, queue: Queue) -> bool:
        """False when the interface had to be closed."""
        if broken := queue.push():
            self.fail(broken)
        return not broken

    def deliver(self, frames: list[Frame]) -> None:
        """Frames from the network: posted as far as there is room. Any thread."""
        with self._posting:
            room = []
            for frame in frames:
                size = len(frame.data)
                if self._posted_frames >= MAX_QUEUED_FRAMES or self._posted_bytes + size > MAX_QUEUED_BYTES:
                    self.counters.drop("it does not look at what came")
                    continue
                self._posted_frames += 1
                self._posted_bytes += size
                room.append(frame)
            if room:
                self._posted_at.append(time.monotonic_ns())
        if room:
            self._side.send(self.event_name, tuple(room))

    def received(self, frames: tuple[Frame, ...]) -> None:
        """A message: frames for the guest; none: time for what waited for credit."""
        if not frames:
            self._asleep = False
            self.kick()
            return
        with self._posting:
            self._posted_frames = max(0, self._posted_frames - len(frames))
            self._posted_bytes = max(0, self._posted_bytes - sum([len(frame.data) for frame in frames]))
            if self._posted_at:  # none in a replay
                self.counters.wait_ns += (time.monotonic_ns() - self._posted_at.popleft()) * len(frames)
                self.counters.waited += len(frames)
        queues = self.queues
        if not queues:
            self.counters.drop("not connected", len(frames))
            return
        wanted = [one for frame in frames for one in self._prepared(frame)]
        if len(queues) == 1:
            self._fill(queues[0], wanted)
            return
        shares: list[list[Frame]] = [[] for _ in queues]
        for frame in wanted:
            shares[choose(frame.data, len(queues))].append(frame)
        for queue, share in zip(queues, shares, strict=True):
            if share and not self._fill(queue, share):
                return

    def _fill(self, queue: Queue, frames: list[Frame]) -> bool:
        """Frames into a queue's buffers; False when the interface had to be closed."""
        if frames:
            rx, counters = queue.rx, self.counters
            self._record(frames, sent=False)
            before = rx.dropped
            rx.put(frames)
            if rx.dropped > before:
                counters.drop("no receive buffers", rx.dropped - before)
            counters.rx_frames += len(frames)
            counters.rx_bytes += sum([len(frame.data) for frame in frames])
        return self._pushed(queue)

    def _prepared(self, frame: Frame) -> list[Frame]:
        """As the frontend can take it; nothing when it does not want it."""
        data, able = frame.data, self.abilities
        if able.multicast_control and data[0] & 1 and data[:6] != b"\xff" * 6 and data[:6] not in self.multicast:
            return []
        sums = able.csum6 if data[12:14] == _IPV6 else able.csum4
        if frame.gso and not (able.sg and sums and frame.gso_type in able.gso):
            return [one for one in segment(frame) if able.sg or len(one.data) <= FRAME]
        if len(data) > FRAME and not able.sg:
            self.counters.drop("larger than a page")
            return []
        if frame.blank and not sums:
            return [complete(frame)]
        return [frame]

    @property
    def queued(self) -> int:
        """Frames that wait for the guest's buffers. Any thread."""
        return sum([len(queue.rx.queue) for queue in self.queues])

    @property
    def refused(self) -> str:
        """Why the last packet that was answered with an error was. Any thread."""
        return next((queue.tx.refused for queue in self.queues if queue.tx.refused), "")

    @property
    def throttled(self) -> bool:
        """Whether it waits for credit. Any thread."""
        return self._asleep

    def waiting_ns(self, receiving: bool) -> int:
        """For how long frames have waited for buffers, or packets for the rate limit, as far as somebody looked."""
        waits = bool(self.queued) if receiving else self._asleep
        now = time.monotonic_ns()
        if not waits:
            self._waits_since[receiving] = 0
        elif not self._waits_since[receiving]:
            self._waits_since[receiving] = now
        return now - self._waits_since[receiving] if waits else 0

    def stalled(self, receiving: bool) -> bool:
        """Whether something has waited for a second."""
        return self.waiting_ns(receiving) > _STALL_NS

    def _record(self, frames: list[Frame], sent: bool) -> None:
        capture = self.capture
        if capture is not None:
            now = time.time_ns()
            for frame in frames:
                capture.add(frame, now, sent)

    # --- end, saving -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave the network. Nobody holds the domain any more, or its holder calls."""
        if not self.closed.is_set():
            self.closed.set()
            self.network.detach(self.port)
            self.stop_capture()

    def stop_capture(self) -> Capture | None:
        """The capture that ran, ended."""
        capture, self.capture = self.capture, None
        if capture is not None:
            capture.close()
        return capture

    def save(self) -> VifState:
        """Between two slices."""
        return VifState(self.spec, self.handshake.save(), tuple(queue.save() for queue in self.queues), self.abilities,
                        frozenset(self.multicast), self.bucket.save() if self.bucket else None)  # fmt: skip

    def load(self, state: VifState) -> None:
        """The guest's memory, grants and event channels are those of `state` already."""
        self.handshake.load(state.handshake)
        self.abilities, self.multicast = state.abilities, set(state.multicast)
        if self.bucket is not None and state.credit is not None:
            self.bucket.load(state.credit)
        self.queues = [Queue(self._side, self.event_name, saved.place, self.multicast) for saved in state.queues]
        for queue, saved in zip(self.queues, state.queues, strict=True):
            queue.load(saved)
        if self.queues and (self._asleep or self.bucket is not None):
            self._side.wake(self.event_name, 0)
