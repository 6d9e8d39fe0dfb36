"""The control protocol as a script: bytes in, messages out, and every broken rule ends the connection."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.control.messages import (
    MAGIC,
    PROTOCOL_VERSION,
    Attach,
    CommandReply,
    CommandResult,
    Credit,
    Detach,
    FromClient,
    GetOverview,
    Goodbye,
    Hello,
    Message,
    Notices,
    OverviewReply,
    RunCommand,
    StreamData,
    StreamEnd,
    WriteConsole,
)
from emulator.control.protocol import (
    MAX_CREDIT,
    MAX_FROM_CLIENT,
    MAX_FROM_ENGINE,
    MAX_PENDING,
    MAX_STREAMS,
    ClientSide,
    EngineSide,
    FrameDecoder,
    ProtocolError,
)
from emulator.control.views import VIEW_VERSION, ConsoleChunk, HostView, Overview


def frame(message: Message | bytes) -> bytes:
    body = message if isinstance(message, bytes) else msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


def greeted() -> tuple[ClientSide, EngineSide]:
    client, engine = ClientSide("1"), EngineSide("1")
    assert list(engine.receive(client.hello())) == []
    assert list(client.receive(engine.hello())) == []
    return client, engine


def hello(**changes: object) -> Hello:
    fields = {"magic": MAGIC, "protocol": PROTOCOL_VERSION, "views": VIEW_VERSION, "role": "client"}
    return Hello(**{**fields, **changes})  # type: ignore[arg-type]


def chunk(data: bytes) -> ConsoleChunk:
    return ConsoleChunk(domid=1, offset=0, data=data, end=len(data))


def test_both_sides_learn_who_the_other_is() -> None:
    client, engine = greeted()
    assert client.peer is not None and client.peer.role == "engine"
    assert engine.peer is not None and engine.peer.role == "client" and engine.peer.pid > 0


def test_a_request_is_answered_once() -> None:
    client, engine = greeted()
    asked = GetOverview(id=client.next_id(), since_log=7)
    assert list(engine.receive(client.send(asked))) == [asked]
    answer = OverviewReply(id=asked.id, overview=Overview(host=HostView(name="here")))
    data = engine.send(answer)
    assert list(client.receive(data)) == [answer]
    assert engine.pending == 0
    with pytest.raises(ProtocolError, match="not open"):
        list(client.receive(data))


requests = st.one_of(
    st.builds(GetOverview, id=st.integers(1, 2**31), since_log=st.integers(0, 2**63)),
    st.builds(WriteConsole, id=st.integers(1, 2**31), domid=st.integers(0, 2**31), data=st.binary(max_size=200)),
    st.builds(
        RunCommand,
        id=st.integers(1, 2**31),
        name=st.text(max_size=10),
        args=st.dictionaries(
            st.text(max_size=5), st.one_of(st.booleans(), st.integers(-(2**63), 2**63), st.text(max_size=9)), max_size=4
        ),
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(requests, max_size=8, unique_by=lambda request: request.id), st.data())
def test_cutting_the_stream_changes_nothing(messages: list[FromClient], draw: st.DataObject) -> None:
    client, engine = ClientSide(), EngineSide()
    stream = client.hello() + b"".join(client.send(message) for message in messages)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    received: list[FromClient] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += engine.receive(stream[start:end])
    assert received == messages
    for sent, got in zip(messages, received, strict=True):
        assert type(sent) is type(got)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_garbage_is_refused_or_waited_for_never_more(pieces: list[bytes]) -> None:
    for side in (EngineSide(), ClientSide()):
        try:
            for piece in pieces:
                assert list(side.receive(piece)) == []
        except ProtocolError:
            assert side.closed
            with pytest.raises(ProtocolError):
                list(side.receive(b""))


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=60))
def test_a_frame_that_is_no_message_is_refused(body: bytes) -> None:
    _, engine = greeted()
    try:
        assert all(isinstance(message, Message) for message in engine.receive(frame(body)))
    except ProtocolError:
        assert engine.closed


@pytest.mark.parametrize(("side", "limit"), [(EngineSide, MAX_FROM_CLIENT), (ClientSide, MAX_FROM_ENGINE)])
def test_an_oversize_frame_is_refused_by_its_length_alone(side: type[EngineSide | ClientSide], limit: int) -> None:
    with pytest.raises(ProtocolError, match="frame of"):
        list(side().receive((limit + 1).to_bytes(4, "big")))
    with pytest.raises(ProtocolError, match="frame of 0"):
        list(side().receive(bytes(4)))


def test_the_decoder_holds_no_more_than_an_unfinished_frame() -> None:
    decoder = FrameDecoder(100)
    assert list(decoder.feed(frame(b"x" * 100) * 5 + b"\0")) == [b"x" * 100] * 5
    assert decoder.buffered == 1


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (hello(protocol=99), "version 99"),
        (hello(views=VIEW_VERSION + 1), "version"),
        (hello(role="engine"), "no xenconsole client"),
        (hello(magic="ssh"), "no xenconsole client"),
        (GetOverview(id=1), "no hello"),
    ],
)
def test_a_hello_that_does_not_suit_ends_the_connection(first: Message, said: str) -> None:
    engine = EngineSide()
    with pytest.raises(ProtocolError, match=said):
        list(engine.receive(frame(first)))
    assert engine.closed


def test_a_newer_peer_may_say_more_in_its_messages() -> None:
    engine = EngineSide()
    body = {**msgspec.to_builtins(hello()), "mood": "sunny"}
    assert list(engine.receive(frame(msgspec.msgpack.encode(body)))) == []
    assert engine.peer is not None


def test_hello_is_said_once() -> None:
    client, engine = greeted()
    with pytest.raises(ProtocolError, match="second hello"):
        list(engine.receive(client.hello()))


def test_an_engine_that_cannot_start_says_so_before_any_hello() -> None:
    client = ClientSide()
    assert list(client.receive(frame(Goodbye(reason="no memory")))) == [Goodbye(reason="no memory")]
    assert client.closed


def test_requests_are_bounded_on_both_sides() -> None:
    client, engine = greeted()
    for _ in range(MAX_PENDING):
        list(engine.receive(client.send(GetOverview(id=client.next_id()))))
    with pytest.raises(ValueError, match="unanswered"):
        client.send(GetOverview(id=client.next_id()))
    with pytest.raises(ProtocolError, match="unanswered"):
        list(engine.receive(frame(GetOverview(id=999))))


def test_a_number_in_use_is_refused() -> None:
    _, engine = greeted()
    list(engine.receive(frame(GetOverview(id=1))))
    with pytest.raises(ProtocolError, match="request 1"):
        list(engine.receive(frame(GetOverview(id=1))))


def test_a_stream_stays_within_its_credit() -> None:
    client, engine = greeted()
    stream, opening = client.attach(1, 0, 10)
    assert list(engine.receive(opening)) == [Attach(stream=stream, domid=1, credit=10)]
    data = StreamData(stream=stream, chunk=chunk(b"x" * 10))
    assert list(client.receive(engine.send(data))) == [data]
    with pytest.raises(ValueError, match="no credit"):
        engine.send(StreamData(stream=stream, chunk=chunk(b"x")))
    list(engine.receive(client.send(Credit(stream=stream, amount=1))))
    more = StreamData(stream=stream, chunk=chunk(b"x"))
    assert list(client.receive(engine.send(more))) == [more]
    with pytest.raises(ProtocolError, match="credit"):
        list(client.receive(frame(StreamData(stream=stream, chunk=chunk(b"x")))))


def test_what_comes_for_a_closed_stream_is_dropped() -> None:
    client, engine = greeted()
    stream, opening = client.attach(1, 0, 10)
    list(engine.receive(opening))
    late = engine.send(StreamData(stream=stream, chunk=chunk(b"late")))
    leaving = client.send(Detach(stream=stream))
    assert list(client.receive(late)) == []
    assert list(engine.receive(leaving)) == [Detach(stream=stream)]
    assert list(engine.receive(frame(Credit(stream=stream, amount=1)))) == []
    assert list(client.receive(frame(StreamEnd(stream=stream)))) == []


@pytest.mark.parametrize(
    "message",
    [Attach(stream=1, domid=1, credit=MAX_CREDIT + 1), Attach(stream=1, domid=1, credit=-1)],
)
def test_credit_is_bounded(message: Message) -> None:
    _, engine = greeted()
    with pytest.raises(ProtocolError, match="credit"):
        list(engine.receive(frame(message)))


def test_streams_are_bounded() -> None:
    _, engine = greeted()
    for stream in range(MAX_STREAMS):
        list(engine.receive(frame(Attach(stream=stream, domid=1))))
    with pytest.raises(ProtocolError, match="streams"):
        list(engine.receive(frame(Attach(stream=MAX_STREAMS, domid=1))))


def test_too_long_a_message_is_not_sent() -> None:
    client, _ = greeted()
    with pytest.raises(ValueError, match="a frame holds"):
        client.send(WriteConsole(id=1, data=bytes(MAX_FROM_CLIENT)))


def test_notices_and_results_go_over_as_they_are() -> None:
    client, engine = greeted()
    list(engine.receive(client.send(RunCommand(id=1, name="create", args={"file": "x.cfg", "paused": True}))))
    said = [CommandReply(id=1, result=CommandResult(ok=True, domid=3)), Notices(notices=(("console", 3), ("log", -1)))]
    assert list(client.receive(b"".join(engine.send(message) for message in said))) == said  # type: ignore[arg-type]
