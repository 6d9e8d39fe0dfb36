"""One end of a TCP connection (RFC 9293), sans-I/O: segments and time in, segments out; a stream of bytes on the other side.

The uplink ends a guest's connection with it. Sent are large segments, which the wire cuts (GSO); lost ones are sent again
after a timeout (RFC 6298) or three duplicate acknowledgements, from a congestion window that halves. Not offered: SACK, timestamps,
urgent data. Acceptance of segments, RST and SYN is as strict as RFC 5961's. What comes in is the guest's and trusted in nothing:
buffers are bounded, no segment makes more than one answer.

    end = TcpEnd.answer(syn, iss, now)         end.receive(segment, now)       end.tick(now)
    end.write(data); end.close()               end.take(size); end.eof         for segment in end.output(now): ...
"""

from __future__ import annotations

from typing import Final

from emulator.dom0.network.segment import ACK, FIN, PSH, RST, SYN, Segment, past

BUFFER: Final = 128 << 10
"""Bytes kept in each direction."""
MAX_SEGMENT: Final = 60_000
"""Bytes of payload sent in one piece, if that is no more than `_MAX_PIECES` of the wire's."""
DEFAULT_MSS: Final = 536
_MAX_PIECES: Final = 128
_PIECES: Final = 64  # out of order
_SCALE: Final = 2
_M: Final = 0xFFFFFFFF
_FIRST_RTO_NS, _MIN_RTO_NS, _MAX_RTO_NS = 10**9, 300 * 10**6, 16 * 10**9
_GIVE_UP_NS: Final = 180 * 10**9
"""Without an acknowledgement, while something waits for one."""
_TIME_WAIT_NS: Final = 2 * 10**9
_HALF_CLOSED_NS: Final = 120 * 10**9
_IDLE_NS: Final = 2 * 3600 * 10**9


class TcpEnd:
    """Made by `answer` or `call`. `reset`: over at once, whoever ended it; `done`: nothing more will come or go."""

    def __init__(self, iss: int, now: int, mss: int) -> None:
        self._mss_limit = self._mss = mss
        self._iss = self._una = self._nxt = self._max = iss & _M  # oldest unacknowledged, next, one past the highest sent
        self._base = iss + 1 & _M  # sequence number of _unsent's first byte
        self._unsent = bytearray()  # and sent but not acknowledged
        self._window = self._wl_seq = self._wl_ack = 0
        self._shift = 0  # of the peer's window
        self._our_shift = -1
        self._cwnd = 10 * mss
        self._duplicates = 0
        self._rto, self._rtt = _FIRST_RTO_NS, 0
        self._timed: tuple[int, int] | None = None  # (sequence number past it, when sent)
        self._resend_at = 0
        self._waits_since = 0
        self._rcv = 0  # next expected
        self._told = 0  # window's right edge as the peer knows it
        self._pieces: dict[int, bytes] = {}
        self._arrived = bytearray()
        self._fin_at: int | None = None
        self._closing = self._fin_sent = self._owes = self._synced = self._fast = self._over = False
        self._active = False
        self._last = now
        self._gone_at = 0  # end of TIME_WAIT
        self._rst: Segment | None = None
        self.reset = ""  # why
        self.eof = False  # the peer sends no more
        self.fin_acked = False
        self.retransmits = 0

    @classmethod
    def answer(cls, syn: Segment, iss: int, now: int, mss: int = 1460) -> TcpEnd:
        """The end that takes a connection: `syn` came."""
        end = cls(iss, now, mss)
        end._take_syn(syn)
        end._send_syn(now)
        return end

    @classmethod
    def call(cls, iss: int, now: int, mss: int = 1460) -> TcpEnd:
        """The end that makes a connection."""
        end = cls(iss, now, mss)
        end._active, end._our_shift = True, _SCALE
        end._send_syn(now)
        return end

    # --- the stream ------------------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Bytes that `write` takes now."""
        return 0 if self._closing or self.reset else BUFFER - len(self._unsent)

    def write(self, data: bytes) -> None:
        """At most `room` bytes."""
        self._unsent += data

    def close(self) -> None:
        """No more will be written."""
        self._closing = True

    def abort(self, why: str) -> None:
        """Tell the peer that it is over."""
        if not self.reset and not self.done:
            self._rst = Segment(self._max, self._rcv, RST | ACK, 0)
            self.reset = why

    @property
    def waiting(self) -> memoryview:
        """Bytes that arrived, for `take`. Released before anything else is called."""
        return memoryview(self._arrived)

    def take(self, size: int) -> None:
        """`size` bytes of `waiting` are consumed."""
        del self._arrived[:size]
        if past(self._rcv + self._free() & _M, self._told) >= BUFFER // 2:
            self._owes = True

    @property
    def mss(self) -> int:
        """Bytes of payload that a segment on the wire has at most."""
        return self._mss

    @property
    def connected(self) -> bool:
        return self._synced and self._una != self._iss

    @property
    def done(self) -> bool:
        return bool(self.reset) or self._over

    @property
    def state(self) -> str:
        """TCP's name for it."""
        if self.reset or self.done:
            return "CLOSED"
        if not self.connected:
            return "SYN_SENT" if self._active and not self._synced else "SYN_RECEIVED"
        if self.eof:
            return "TIME_WAIT" if self.fin_acked else "LAST_ACK" if self._fin_sent else "CLOSE_WAIT"
        return "FIN_WAIT_2" if self.fin_acked else "FIN_WAIT_1" if self._fin_sent else "ESTABLISHED"

    # --- segments in -----------------------------------------------------------------------------------------------------------

    def receive(self, segment: Segment, now: int) -> None:
        if self.reset or self.done:
            return
        self._last = now
        if not self._synced:
            self._receive_syn(segment, now)
            return
        if not self._acceptable(segment):
            self._owes = self._owes or not segment.flags & RST
            return
        if segment.flags & RST:
            if segment.sequence == self._rcv:
                self.reset = "reset by the guest"
            else:
                self._owes = True
            return
        if segment.flags & SYN or not segment.flags & ACK:
            self._owes = self._owes or bool(segment.flags & SYN)
            return
        if self._take_ack(segment, now):
            self._take_payload(segment)

    def _receive_syn(self, segment: Segment, now: int) -> None:
        """In answer to ours."""
        if segment.flags & ACK and segment.acknowledged != self._iss + 1 & _M:
            return
        if segment.flags & RST:
            if segment.flags & ACK:
                self.reset = "refused by the guest"
        elif segment.flags & SYN and segment.flags & ACK:
            self._take_syn(segment)
            self._take_ack(segment, now)
            self._owes = True

    def _take_syn(self, syn: Segment) -> None:
        self._synced = True
        self._rcv = self._told = syn.sequence + 1 & _M
        self._mss = max(64, min(self._mss_limit, syn.mss or DEFAULT_MSS))
        self._cwnd = 10 * self._mss
        if syn.scale >= 0:
            self._shift, self._our_shift = min(14, syn.scale), _SCALE
        else:
            self._our_shift = -1
        self._window, self._wl_seq, self._wl_ack = syn.window, syn.sequence, self._iss

    def _acceptable(self, segment: Segment) -> bool:
        size = len(segment.payload) + (segment.flags & FIN)
        window = past(self._told, self._rcv)
        first = past(segment.sequence, self._rcv)
        if not size:
            return 0 <= first < window if window else not first
        return (window > 0 and (0 <= first < window or 0 <= first + size - 1 < window)) or (not window and not first)

    def _take_ack(self, segment: Segment, now: int) -> bool:
        """False when the segment is to be dropped."""
        ack = segment.acknowledged
        if past(ack, self._max) > 0 or past(self._una, ack) > 1 << 30:
            self._owes = True
            return False
        window = segment.window << (0 if segment.flags & SYN else self._shift)
        gained = past(ack, self._una)
        if gained > 0:
            self._gain(ack, gained, now)
        elif not gained and not segment.payload and window == self._window and self._una != self._max and not segment.flags & FIN:
            self._duplicates += 1
            if self._duplicates == 3 and window:
                self._cwnd = max(2 * self._mss, self._cwnd // 2)
                self._fast = True
        if gained >= 0 and (past(segment.sequence, self._wl_seq), past(ack, self._wl_ack)) >= (0, 0):
            if window and not self._window:
                self._resend_at = 0
                self._nxt = self._una  # the probe was dropped
            self._window, self._wl_seq, self._wl_ack = window, segment.sequence, ack
        if not self._window and self._waits_since:
            self._waits_since = now  # it is there, and has no room
        return True

    def _gain(self, ack: int, gained: int, now: int) -> None:
        """`gained` sequence numbers more are acknowledged."""
        if self._timed is not None and past(ack, self._timed[0]) >= 0:
            sample = now - self._timed[1]
            self._rtt = (self._rtt * 7 + sample) // 8 if self._rtt else sample
            self._rto = min(_MAX_RTO_NS, max(_MIN_RTO_NS, 3 * self._rtt))
            self._timed = None
        data = min(len(self._unsent), max(0, past(ack, self._base)))
        del self._unsent[:data]
        self._base = self._base + data & _M
        self._una = ack
        if past(self._nxt, ack) < 0:
            self._nxt = ack
        if self._fin_sent and ack == self._max:
            self.fin_acked = True
            self._over = self.eof
        self._cwnd = min(BUFFER, self._cwnd + gained)
        self._duplicates = self._resend_at = self._waits_since = 0
        self._fast = False

    def _take_payload(self, segment: Segment) -> None:
        payload, sequence = segment.payload, segment.sequence
        if segment.flags & FIN and self._fin_at is None:
            at = sequence + len(payload) & _M
            if past(self._told, at) >= 0:  # else it lies past what fits: it comes again
                self._fin_at = at
        if not payload and not segment.flags & FIN:
            return
        self._owes = True
        skip = past(self._rcv, sequence)
        if skip > 0:
            payload, sequence = payload[skip:], self._rcv
        limit = self._told if self._fin_at is None else self._fin_at
        payload = payload[: max(0, past(limit, sequence))]
        if payload and sequence == self._rcv and not self._pieces:
            self._arrived += payload
            self._rcv = self._rcv + len(payload) & _M
        elif payload and (sequence == self._rcv or self._keeps(len(payload))):
            if len(payload) > len(self._pieces.get(sequence, b"")):
                self._pieces[sequence] = payload
            self._join()
        if self._fin_at is not None and past(self._rcv, self._fin_at) >= 0 and not self.eof:
            self._rcv = self._rcv + 1 & _M
            self.eof = True

    def _keeps(self, size: int) -> bool:
        """Whether there is room for a piece out of order; pieces that overlap count twice."""
        return len(self._pieces) < _PIECES and size + sum([len(piece) for piece in self._pieces.values()]) <= 2 * BUFFER

    def _join(self) -> None:
        """Pieces that have become next in line."""
        for sequence in sorted(self._pieces, key=lambda one: past(one, self._rcv)):
            skip = past(self._rcv, sequence)
            if skip < 0:
                return
            piece = self._pieces.pop(sequence)[skip:]
            self._arrived += piece
            self._rcv = self._rcv + len(piece) & _M

    # --- segments out ----------------------------------------------------------------------------------------------------------

    def _send_syn(self, now: int) -> None:
        self._nxt = self._max = self._iss + 1 & _M
        self._resend_at = now

    def _free(self) -> int:
        return max(0, min(BUFFER - len(self._arrived), 0xFFFF << max(0, self._our_shift)))

    def _segment(self, sequence: int, flags: int, payload: bytes = b"") -> Segment:
        """With our acknowledgement and window, whose right edge never goes back."""
        edge = self._rcv + self._free() & _M
        if past(edge, self._told) > 0 and self._synced:
            self._told = edge
        window = min(0xFFFF, max(0, past(self._told, self._rcv)) >> (0 if flags & SYN else max(0, self._our_shift)))
        self._owes = False
        if flags & SYN:
            return Segment(sequence, self._rcv, flags, window, b"", self._mss_limit, self._our_shift)
        return Segment(sequence, self._rcv, flags, window, payload)

    def tick(self, now: int) -> None:
        """Time has passed: for `deadline`."""
        if self.reset:
            return
        quiet = now - self._last
        if self._gone_at and now >= self._gone_at:
            self._over = True
        elif self._waits_since and now - self._waits_since >= _GIVE_UP_NS:
            self.abort("the guest acknowledges nothing")
        elif quiet >= _IDLE_NS or (self.fin_acked and not self.eof and quiet >= _HALF_CLOSED_NS):
            self.abort("idle")

    @property
    def deadline(self) -> int:
        """When `tick` and `output` have something to do without a segment; ns, 0 for never."""
        times = [time for time in (self._resend_at, self._gone_at) if time]
        times.append(self._last + (_HALF_CLOSED_NS if self.fin_acked else _IDLE_NS))
        if self._waits_since:
            times.append(self._waits_since + _GIVE_UP_NS)
        return min(times)

    def output(self, now: int) -> list[Segment]:
        """What is to be sent now."""
        if self._rst is not None:
            rst, self._rst = self._rst, None
            return [rst]
        if self.reset or self.done:
            return []
        out: list[Segment] = []
        if not self.connected:
            if self._resend_at and now >= self._resend_at:
                out.append(self._segment(self._iss, SYN | ACK if self._synced else SYN))
                if self._waits_since:
                    self._rto = min(_MAX_RTO_NS, self._rto * 2)
                    self.retransmits += 1
                self._arm(now)
            return out
        if self._fast or (self._resend_at and now >= self._resend_at):
            self._send_again(out, now)
        self._send_new(out)
        if not self._resend_at and (self._unsent or self._nxt != self._una):
            self._arm(now)
        if self._timed is None and self._nxt == self._max != self._una:
            self._timed = self._max, now
        if self._owes:
            out.append(self._segment(self._max, ACK))
        if self.eof and self.fin_acked and not self._gone_at:
            self._gone_at = now + _TIME_WAIT_NS
        return out

    def _arm(self, now: int) -> None:
        """Something is under way, or waits for the window to open: when to send again."""
        self._waits_since = self._waits_since or now
        self._resend_at = now + self._rto

    def _send_again(self, out: list[Segment], now: int) -> None:
        """The first that is not acknowledged; after a timeout all that is behind it is taken for lost."""
        fast, self._fast = self._fast, False
        if self._nxt == self._una:
            self._resend_at = 0
            if not self._window and self._unsent:  # a probe of a closed window; it counts as sent
                out.append(self._segment(self._nxt, ACK, bytes(self._unsent[:1])))
                self._went(1)
            return
        size = min(self._mss, len(self._unsent), max(1, self._window))
        out.append(self._segment(self._una, ACK | PSH, bytes(self._unsent[:size])) if size else self._segment(self._una, ACK | FIN))
        self._timed = None
        self.retransmits += 1
        if fast:
            self._resend_at = now + self._rto
            return
        self._cwnd = 2 * self._mss
        self._nxt = self._una + (size or 1) & _M
        self._rto = min(_MAX_RTO_NS, self._rto * 2)
        self._arm(now)

    def _went(self, size: int) -> None:
        self._nxt = self._nxt + size & _M
        if past(self._nxt, self._max) > 0:
            self._max = self._nxt

    def _send_new(self, out: list[Segment]) -> None:
        fin_at = self._base + len(self._unsent) & _M
        largest = min(MAX_SEGMENT, self._mss * _MAX_PIECES)
        while past(self._nxt, fin_at) < 0:
            offset = past(self._nxt, self._base)
            usable = min(self._window, self._cwnd) - past(self._nxt, self._una)
            left = len(self._unsent) - offset
            size = min(left, usable, largest)
            if size <= 0 or (size < self._mss and size < left and self._nxt != self._una):  # no silly windows
                break
            out.append(self._segment(self._nxt, ACK | PSH if size == left else ACK, bytes(self._unsent[offset : offset + size])))
            self._went(size)
        if self._closing and self._nxt == fin_at and not self.fin_acked:
            out.append(self._segment(self._nxt, ACK | FIN))
            self._went(1)
            self._fin_sent = True
