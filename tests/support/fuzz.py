"""Fuzzing every parser that reads from the network: mutated real input, in one process, repeatable by a number.

    python tests/support/fuzz.py --seconds 3600 --seed 1
    python tests/support/fuzz.py --only hpack --seed 1 --case 4711      (one case again, with its traceback)

Prints a line for each parser: cases and cases a second, how many were refused with `ProtocolError` (or what else the
parser may raise by its contract), other exceptions, the slowest case, and how much the process grew while it ran.
Ends with 1 if a parser raised anything else, took longer than `HANG_S` for a case, or grew by more than `GROWTH_KB`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from media.errors import MediaError, ProtocolError

HANG_S = 5.0
"""A case that needs more is a hang: the largest input has some 100 kB."""
MAX_BYTES = 100_000
GROWTH_KB = 20_000
SLICE_S = 2.0
"""Each parser's turn, so that growth is seen over the whole run."""
_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 0x7F, 0x80, 0xFE, 0xFF)
_WIDE = (b"\0\0", b"\xff\xff", b"\x7f\xff", b"\x80\0", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\1")


@dataclass(frozen=True)
class Target:
    """A parser: `run(data, dice)` feeds it; whatever is not in `refusals` counts as a crash."""

    name: str
    seeds: Sequence[bytes]
    run: Callable[[bytes, random.Random], object]
    refusals: tuple[type[Exception], ...]
    words: Sequence[bytes] = ()
    """Pieces of the grammar, to be put in anywhere."""


@dataclass
class Result:
    """What came of one target."""

    cases: int = 0
    seconds: float = 0.0
    refused: int = 0
    crashes: dict[str, int] = field(default_factory=dict)
    """First case number by the text of the exception and its place."""
    slowest_ms: float = 0.0
    slowest_case: int = 0
    grown_kb: int = 0


class Hung(BaseException):
    """Raised by the alarm within a case."""


def mutate(target: Target, dice: random.Random) -> bytes:
    """A seed with some things done to it; now and then plain noise."""
    if dice.random() < 0.03:
        return dice.randbytes(dice.randrange(400))
    data = bytearray(dice.choice(target.seeds))
    for _ in range(dice.choice((0, 1, 1, 2, 3, 5, 8, 16))):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(9):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << dice.randrange(8)
            case 1 if data:
                data[min(at, len(data) - 1)] = dice.choice(_NUMBERS)
            case 2:
                wide = dice.choice(_WIDE)
                data[at : at + len(wide)] = wide
            case 3:
                del data[at : at + dice.choice((1, 1, 2, 4, 30, 500))]
            case 4:
                data[at:at] = dice.randbytes(dice.choice((1, 1, 2, 4, 30)))
            case 5:  # a piece again, a few times
                end = at + dice.choice((1, 4, 60, 2000))
                data[at:at] = data[at:end] * dice.choice((1, 2, 20))
            case 6:
                other = dice.choice(target.seeds)
                begin = dice.randrange(len(other) + 1)
                data[at:] = other[begin : begin + MAX_BYTES]
            case 7:
                del data[at:]
            case _ if target.words:
                data[at:at] = dice.choice(target.words)
    return bytes(data[:MAX_BYTES])


def quietly(parser: Callable[[], object]) -> None:
    """Call it; its refusals are all right. For targets that try one input with several parsers."""
    with contextlib.suppress(ProtocolError, MediaError):
        parser()


def cut(data: bytes, dice: random.Random) -> Iterator[bytes]:
    """The data in pieces, as a network delivers it: mostly whole, now and then byte by byte."""
    how = dice.random()
    if how < 0.5 or len(data) < 2:
        yield data
        return
    most = 1 if how > 0.97 and len(data) < 4000 else max(2, len(data) // 3)
    at = 0
    while at < len(data):
        size = dice.randint(1, most)
        yield data[at : at + size]
        at += size


def one(target: Target, seed: int, number: int) -> None:
    """Run the case with that number."""
    dice = random.Random(f"{target.name}-{seed}-{number}")
    target.run(mutate(target, dice), dice)


def turn(target: Target, result: Result, seed: int, *, cases: int = 0, seconds: float = 0.0) -> None:
    """Some more cases: so many, or for so long."""
    began = time.monotonic()
    done = 0
    while done < cases or time.monotonic() - began < seconds:
        number = result.cases
        started = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, HANG_S)
        try:
            one(target, seed, number)
        except target.refusals:
            result.refused += 1
        except (Exception, Hung) as error:  # noqa: BLE001 - that is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:80]}"
            result.crashes.setdefault(text, number)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        spent_ms = (time.process_time() - started) * 1000
        if spent_ms > result.slowest_ms:
            result.slowest_ms, result.slowest_case = round(spent_ms, 2), number
        result.cases += 1
        done += 1
    result.seconds += time.monotonic() - began


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """`Hung` instead of hanging."""

    def hung(*_: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, hung)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def resident_kb() -> int:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def report(results: dict[str, Result], grown_kb: int) -> bool:
    """Print the table; True where all is well."""
    print(f"{'parser':<16}{'cases':>10}{'cases/s':>9}{'refused':>9}{'crashes':>9}{'slowest':>11}{'grown':>9}")
    for name, result in results.items():
        print(
            f"{name:<16}{result.cases:>10}{result.cases / max(result.seconds, 1e-9):>9.0f}"
            f"{result.refused / max(result.cases, 1):>8.0%} {len(result.crashes):>8}"
            f"{result.slowest_ms:>8.1f} ms{result.grown_kb:>6} kB"
        )
        for text, number in result.crashes.items():
            print(f"    case {number}: {text}")
    print(
        f"all: {sum(r.cases for r in results.values())} cases, grown by {grown_kb} kB since the first round", flush=True
    )
    return grown_kb <= GROWTH_KB and not any(result.crashes for result in results.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--only", default="", help="names of parsers, parted by commas")
    parser.add_argument("--case", type=int, help="run this one case of one parser, and show what it raises")
    parser.add_argument("--json", type=Path, help="write the results there too")
    arguments = parser.parse_args()
    from fuzz_targets import targets

    wanted = [name for name in arguments.only.split(",") if name]
    found = [target for target in targets() if not wanted or target.name in wanted]
    if arguments.case is not None:
        one(found[0], arguments.seed, arguments.case)
        return 0
    print(f"seed {arguments.seed}, {len(found)} parsers", flush=True)
    results = {target.name: Result() for target in found}
    end = time.monotonic() + arguments.seconds
    base_kb, told = 0, time.monotonic()
    with alarm():
        for target in found:
            turn(target, results[target.name], arguments.seed, seconds=min(1.0, arguments.seconds / len(found) / 4))
        base_kb = resident_kb()
        while time.monotonic() < end:
            for target in found:
                before_kb = resident_kb()
                left = end - time.monotonic()
                if left <= 0:
                    break
                turn(target, results[target.name], arguments.seed, seconds=min(SLICE_S, left))
                results[target.name].grown_kb += resident_kb() - before_kb
            if time.monotonic() - told > 300:
                told = time.monotonic()
                report(results, resident_kb() - base_kb)
    grown_kb = resident_kb() - base_kb
    good = report(results, grown_kb)
    if arguments.json:
        rows = {name: asdict(result) for name, result in results.items()}
        arguments.json.write_text(json.dumps({"seed": arguments.seed, "grown_kb": grown_kb, "parsers": rows}, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
