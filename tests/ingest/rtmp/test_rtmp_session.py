"""The publisher's session without I/O: command flow of real encoders, refusals, limits, garbage."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rtmp_double import GOOD_KEY, Script

from ingest.rtmp.amf0 import encode
from ingest.rtmp.events import Ended, Event, Media, Pong, PublishAsked, Unpublished
from ingest.rtmp.messages import Kind, Message, UserControl, user_control
from ingest.rtmp.session import PING_S, Session
from ingest.rtmp.state import State
from ingest.settings import LimitSettings

ASC = Message(Kind.AUDIO, 0, 1, bytes.fromhex("af001210"), 4)


def frame(time: int) -> Message:
    return Message(Kind.AUDIO, time, 1, b"\xaf\x01frame", 4)


def session(**limits: float) -> Session:
    return Session(LimitSettings(**limits), bytes(1528), 0.0)  # type: ignore[arg-type]


def publishing(script: Script, **extra: float) -> Session:
    peer = session()
    peer.receive(script.start(**extra), 0.0)
    peer.admit(0.0)
    script.read(peer.data_to_send())
    assert peer.state is State.PUBLISHING
    return peer


def whole(peer: Session, data: bytes) -> list[Event]:
    return peer.receive(data, 0.0)


def bytewise(peer: Session, data: bytes) -> list[Event]:
    return [event for at in range(len(data)) for event in peer.receive(data[at : at + 1], 0.0)]


class TestFlow:
    @pytest.mark.parametrize("feed", [whole, bytewise])
    def test_asks_before_it_looks_at_media(self, script: Script, feed: Callable[[Session, bytes], list[Event]]) -> None:
        peer = session()
        media = script.start(f"{GOOD_KEY}?x=1&y=2") + script.message(ASC) + script.message(frame(0))
        events = feed(peer, media)
        assert events == [PublishAsked(GOOD_KEY, "live", "test/1", {"x": "1", "y": "2"})]
        assert peer.state is State.ASKING
        script.read(peer.data_to_send())
        assert not script.statuses()
        events = peer.admit(0.0)
        assert [type(event) for event in events] == [Media]
        script.read(peer.data_to_send())
        assert [code for code, _, _ in script.statuses()] == ["NetStream.Publish.Start"]
        assert [command.name for command in script.commands()] == [
            "_result",
            "_result",
            "onFCPublish",
            "_result",
            "_result",
            "onStatus",
        ]

    def test_what_we_can_do_is_told(self, script: Script) -> None:
        peer = session()
        peer.receive(script.hello + script.echo + script.connect(capsEx=1.0), 0.0)
        script.read(peer.data_to_send())
        info = script.commands()[0].arguments[0]
        assert isinstance(info, dict)
        assert info["capsEx"] == 15
        assert info["videoFourCcInfoMap"] == {"avc1": 5, "hvc1": 5, "av01": 5}
        assert peer.can_reconnect

    @pytest.mark.parametrize(
        ("app", "name", "key", "parameters"),
        [
            ("live", "k", "k", {}),
            ("live", "k?a=b", "k", {"a": "b"}),
            ("live/", "k", "k", {}),
            ("live/k", "", "k", {}),
            ("live?token=k", "", "k", {"token": "k"}),
            ("live?a=1", "k?a=2", "k", {"a": "2"}),
            ("live/room", "k", "k", {}),
        ],
    )
    def test_where_a_key_may_stand(
        self, script: Script, app: str, name: str, key: str, parameters: dict[str, str]
    ) -> None:
        peer = session()
        (event,) = peer.receive(script.start(name, app=app), 0.0)
        assert isinstance(event, PublishAsked)
        assert (event.app, event.key, event.parameters) == ("live", key, parameters)

    def test_goodbye_and_a_second_stream_on_the_same_connection(self, script: Script) -> None:
        peer = publishing(script)
        goodbye = script.command("FCUnpublish", 6.0, None, GOOD_KEY) + script.command("deleteStream", 7.0, None, 1.0)
        assert peer.receive(goodbye, 1.0) == [Unpublished()]
        assert peer.receive(script.message(frame(0)), 1.0) == []
        (event,) = peer.receive(script.publish("other"), 1.0)
        assert isinstance(event, PublishAsked)

    def test_gst_deletes_a_stream_by_its_name(self, script: Script) -> None:
        peer = publishing(script)
        assert peer.receive(script.command("deleteStream", 0.0, None, GOOD_KEY), 1.0) == [Unpublished()]

    def test_refusal_carries_the_text(self, script: Script) -> None:
        peer = session()
        peer.receive(script.start("bad"), 0.0)
        peer.refuse("No such key.")
        script.read(peer.data_to_send())
        assert script.statuses() == [("NetStream.Publish.BadName", "error", "No such key.")]
        assert peer.receive(b"anything", 0.0) == []

    def test_play_is_refused(self, script: Script) -> None:
        peer = session()
        data = script.hello + script.echo + script.connect() + script.command("createStream", 2.0, None)
        (event,) = peer.receive(data + script.command("play", 0.0, None, "x", sid=1), 0.0)
        assert isinstance(event, Ended)
        assert event.error is not None
        assert event.error.slug == "play_refused"
        script.read(peer.data_to_send())
        assert script.statuses()[0][:2] == ("NetStream.Play.Failed", "error")

    def test_a_second_publish_is_refused_and_the_first_goes_on(self, script: Script) -> None:
        peer = publishing(script)
        assert peer.receive(script.command("publish", 9.0, None, "two", "live", sid=2), 0.0) == []
        script.read(peer.data_to_send())
        assert script.statuses()[-1][0] == "NetStream.Publish.BadName"
        assert peer.state is State.PUBLISHING

    def test_commands_in_the_disguise_of_amf3(self, script: Script) -> None:
        peer = session()
        body = b"\0" + encode("connect", 1.0, {"app": "live"})
        peer.receive(script.hello + script.echo + script.message(Message(Kind.COMMAND_AMF3, 0, 0, body, 3)), 0.0)
        assert peer.state is State.READY

    def test_aggregates_and_metadata(self, script: Script) -> None:
        peer = publishing(script)
        meta = encode("@setDataFrame", "onMetaData", {"audiodatarate": 128.0})
        peer.receive(script.message(Message(Kind.DATA_AMF0, 0, 1, meta, 4)), 0.0)
        tags = b""
        for time, body in ((0, ASC.body), (23, frame(0).body)):
            head = bytes((8,)) + len(body).to_bytes(3, "big") + time.to_bytes(3, "big") + bytes(4)
            tags += head + body + (11 + len(body)).to_bytes(4, "big")
        (event,) = peer.receive(script.message(Message(Kind.AGGREGATE, 1000, 1, tags, 4)), 0.0)
        assert isinstance(event, Media)
        assert event.sample.dts == 1023
        assert event.sample.track.bitrate == 128_000


class TestHousekeeping:
    def test_every_window_is_acknowledged(self, script: Script) -> None:
        peer = publishing(script)
        peer.receive(script.message(Message(Kind.WINDOW_ACK_SIZE, 0, 0, (1000).to_bytes(4, "big"), 2)), 0.0)
        script.read(peer.data_to_send())  # more than this window had come before it was named
        peer.receive(script.message(Message(Kind.DATA_AMF0, 0, 1, encode("x" * 2000), 4)), 0.0)
        fresh = script.read(peer.data_to_send())
        assert [int.from_bytes(m.body, "big") for m in fresh if m.kind == Kind.ACKNOWLEDGEMENT] == [peer.received_bytes]

    def test_pings_both_ways(self, script: Script) -> None:
        peer = publishing(script)
        peer.receive(script.message(user_control(UserControl.PING_REQUEST, 77)), 0.0)
        assert script.read(peer.data_to_send())[-1].body == user_control(UserControl.PING_RESPONSE, 77).body
        assert peer.check(PING_S + 1) == []
        (ping,) = script.read(peer.data_to_send())
        answer = user_control(UserControl.PING_RESPONSE, int.from_bytes(ping.body[2:], "big"))
        assert peer.receive(script.message(answer), PING_S + 1.25) == [Pong(250.0)]

    @pytest.mark.parametrize("sent", [b"", b"\x03", b"\x03" + bytes(2000), Script.hello + Script.echo])
    def test_a_slow_handshake_ends(self, sent: bytes) -> None:
        peer = session(handshake_timeout_s=10)
        for at in range(len(sent)):
            peer.receive(sent[at : at + 1], at / len(sent) * 9)
        assert peer.check(9.9) == []
        (event,) = peer.check(10.1)
        assert isinstance(event, Ended)
        assert event.error is not None
        assert event.error.slug == "handshake_timeout"

    def test_a_silent_publisher_ends_and_dribbling_does_not_help(self, script: Script) -> None:
        peer = publishing(script)
        whole_frame = script.message(Message(Kind.VIDEO, 0, 1, bytes(1000), 6))
        for second in range(15):
            assert peer.receive(whole_frame[second : second + 1], float(second)) == []
        (event,) = peer.check(16.0)
        assert isinstance(event, Ended)
        assert event.error is not None
        assert event.error.slug == "idle_timeout"

    @pytest.mark.parametrize(
        ("sent", "why"),
        [
            (Message(Kind.DATA_AMF0, 0, 1, encode("onMetaData", {}), 4), "send H.264"),
            (Message(Kind.AUDIO, 0, 1, b"\xaf\x00\xf9\x46\x20", 4), "AAC object type 42 is not supported"),
            (Message(Kind.VIDEO, 0, 1, b"\x27\x01\0\0\0\0\0\0\2\x41\x9a", 4), "send H.264"),
        ],
        ids=["metadata alone", "unusable configuration", "no configuration"],
    )
    def test_a_publisher_of_nothing_that_can_be_used_ends(self, script: Script, sent: Message, why: str) -> None:
        """It would hold its stream for ever, and nobody would tell it why there is no picture."""
        peer = publishing(script)
        for second in range(16):
            assert peer.receive(script.message(sent), float(second)) == []
            events = peer.check(second + 0.5)
        (event,) = events
        assert isinstance(event, Ended)
        assert event.error is not None
        assert event.error.slug == "no_media"
        script.read(peer.data_to_send())
        assert why in script.statuses()[-1][2]

    def test_waiting_for_the_gatekeeper_is_not_the_peers_fault(self, script: Script) -> None:
        peer = session()
        peer.receive(script.start(), 0.0)
        assert peer.check(1000.0) == []

    def test_last_words(self, script: Script) -> None:
        peer = publishing(script)
        peer.request_reconnect("Restart.", "rtmp://other/live")
        peer.stop("status", "NetStream.Unpublish.Success", "Bye.")
        script.read(peer.data_to_send())
        assert [status[0] for status in script.statuses()][1:] == [
            "NetConnection.Connect.ReconnectRequest",
            "NetStream.Unpublish.Success",
        ]
        assert peer.state is State.CLOSED


class TestFaults:
    @pytest.mark.parametrize(
        ("data", "slug"),
        [
            (b"GET / HTTP/1.1\r\n", "not_rtmp"),
            (b"\x16\x03\x01\x02\x00", "tls_on_rtmp"),
            (b"\xff" * 10, "not_rtmp"),
        ],
    )
    def test_other_protocols_are_told_by_their_first_byte(self, data: bytes, slug: str) -> None:
        peer = session()
        (event,) = peer.receive(data, 0.0)
        assert isinstance(event, Ended)
        assert event.error is not None
        assert event.error.slug == slug
        assert peer.data_to_send() == b""

    def test_version_6_is_answered_with_3(self) -> None:
        peer = session()
        assert peer.receive(b"\x06", 0.0) == []
        answer = peer.data_to_send()
        assert answer[0] == 3
        assert answer[5:9] == bytes(4)

    @pytest.mark.parametrize("first", ["createStream", "publish"])
    def test_commands_before_connect(self, script: Script, first: str) -> None:
        peer = session()
        (event,) = peer.receive(script.hello + script.echo + script.command(first, 1.0, None, "k"), 0.0)
        assert isinstance(event, Ended)
        assert event.error is not None
        assert event.error.slug == "out_of_turn"

    def test_an_unusable_codec_is_told_to_the_encoder(self, script: Script) -> None:
        peer = publishing(script)
        (event,) = peer.receive(script.message(Message(Kind.VIDEO, 0, 1, b"\x14" + bytes(10), 6)), 0.0)
        assert isinstance(event, Ended)
        assert event.error is not None
        assert event.error.slug == "unusable_media"
        script.read(peer.data_to_send())
        assert "H.264" in script.statuses()[-1][2]

    def test_who_was_not_admitted_gets_no_room_for_pictures(self, script: Script) -> None:
        """Two thousand connections that each begin a message of megabytes would have all memory, and no key."""
        picture = script.message(Message(Kind.VIDEO, 0, 1, bytes(200_000), 6))
        peer = session()
        (event,) = peer.receive(script.hello + script.echo + script.connect() + picture, 0.0)
        assert isinstance(event, Ended)
        assert event.error is not None
        assert event.error.slug == "message_too_large"
        again = Script()
        assert (
            publishing(again).receive(again.message(Message(Kind.VIDEO, 0, 1, bytes(200_000), 6))[:150_000], 0.0) == []
        )

    @pytest.mark.parametrize("admitted", [False, True])
    def test_a_flood_of_empty_chunks(self, script: Script, admitted: bool) -> None:
        """One byte each, and 3 us of the event loop: 10 Mb/s of them would stop the server, without any key."""
        peer = session()
        peer.receive(script.start() if admitted else script.hello + script.echo + script.connect(), 0.0)
        peer.admit(0.0)
        (event,) = peer.receive(bytes((4, 0, 0, 0, 0, 0, 0, Kind.ACKNOWLEDGEMENT, 0, 0, 0, 0)) + b"\xc4" * 150_000, 0.5)
        assert isinstance(event, Ended)
        assert event.error is not None
        assert event.error.slug == "too_many_chunks"

    def test_a_flood_of_metadata(self, script: Script) -> None:
        """A microsecond of the event loop for each byte; an encoder that repeats its own each second is none."""
        peer = publishing(script)
        usual = (
            script.message(
                Message(Kind.DATA_AMF0, 0, 1, encode("onMetaData", {f"name {n}": float(n) for n in range(40)}), 4)
            )
            * 30
        )
        flood = script.message(Message(Kind.DATA_AMF0, 0, 1, b"\x05" * 9_000, 4))
        for second in range(5):
            assert peer.receive(usual, float(second)) == []
        events = [event for _ in range(30) for event in peer.receive(flood, 4.5)]
        (event,) = events
        assert isinstance(event, Ended)
        assert event.error is not None
        assert event.error.slug == "too_many_chunks"

    def test_small_chunks_at_a_high_rate_are_no_flood(self, script: Script) -> None:
        """The smallest chunks in use, 128 bytes, at the highest bit rate, 60 Mb/s, and what a stalled network held."""
        peer = publishing(script)
        picture = script.message(Message(Kind.SHARED_OBJECT_AMF0, 0, 1, bytes(750_000), 6))
        for tenth in range(30):
            assert peer.receive(picture, tenth / 10) == []
        assert peer.receive(script.message(frame(0)) * 10_000, 3.5) == []

    @given(st.lists(st.tuples(st.sampled_from([8, 9, 15, 17, 18, 20, 22, 2, 3, 4, 5, 6]), st.binary(max_size=80))))
    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_garbage_in_messages_ends_a_session_in_good_order(self, bodies: list[tuple[int, bytes]]) -> None:
        script = Script()
        peer = publishing(script)
        for kind, body in bodies:
            events = peer.receive(script.message(Message(kind, 0, 1, body, 4)), 0.0)
            assert all(isinstance(event, Event) for event in events)
        peer.data_to_send()

    @given(st.lists(st.binary(max_size=2000), max_size=6))
    @settings(max_examples=200, deadline=None)
    def test_garbage_from_the_first_byte_on(self, pieces: list[bytes]) -> None:
        peer = session()
        ended = False
        for piece in [b"\x03", *pieces]:
            events = peer.receive(piece, 0.0)
            assert not (ended and events)
            ended = ended or any(isinstance(event, Ended) for event in events)
