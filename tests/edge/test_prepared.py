"""Answers that many get: what is fed from a file in memory is what was copied before, and no file stays open."""

from __future__ import annotations

import os
import socket

from edge.prepared import FILE_AFTER, FILE_BYTES, Files, Prepared

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
BODY = os.urandom(60_000)


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += sock.recv(size - len(data))
    return data


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    ours.setblocking(False)
    return ours, theirs


def test_what_many_ask_for_comes_from_a_file_and_is_the_same() -> None:
    files = Files()
    ours, theirs = pair()
    with ours, theirs:
        answer = Prepared(HEAD, BODY)
        for turn in range(3 * FILE_AFTER):
            assert files.open == (turn >= FILE_AFTER)
            assert answer.send(ours.fileno(), files) == answer.size == len(HEAD) + len(BODY)
            assert read(theirs, answer.size) == HEAD + BODY
        assert answer.send(ours.fileno(), files) == answer.size
        del answer  # what lies in the socket outlives the file
        assert files.open == 0
        assert Prepared(HEAD, os.urandom(60_000)).send(ours.fileno(), files)
        assert read(theirs, len(HEAD) + len(BODY)) == HEAD + BODY


def test_small_large_and_one_too_many_are_copied() -> None:
    files = Files(limit=1)
    ours, theirs = pair()
    with ours, theirs:
        answers = [Prepared(HEAD, BODY[:size]) for size in (10, 20_000, 30_000)]
        answers.append(Prepared(HEAD, bytes(FILE_BYTES + 1)))
        for answer in answers:
            for _ in range(2 * FILE_AFTER):
                taken = answer.send(ours.fileno(), files)
                assert read(theirs, taken) == (answer.head + answer.body)[:taken]
            assert files.open <= 1
        assert files.open == 1
        answers.clear()
        del answer
        assert files.open == 0


def test_what_is_no_longer_asked_for_makes_room() -> None:
    files = Files(limit=2)
    ours, theirs = pair()
    with ours, theirs:
        kept = [Prepared(HEAD, BODY) for _ in range(5)]
        for answer in kept:
            for _ in range(FILE_AFTER):
                read(theirs, answer.send(ours.fileno(), files))
            assert answer._fd >= 0
        assert [answer._fd >= 0 for answer in kept] == [False, False, False, True, True]
        for answer in kept:
            assert answer.send(ours.fileno(), files) == answer.size
            assert read(theirs, answer.size) == HEAD + BODY
        assert files.open == 2
