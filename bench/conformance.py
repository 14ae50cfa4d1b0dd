"""The edge, nginx and Varnish by the public test suites for HTTP caches and for HTTP/2, side by side.

    python bench/conformance.py [--only cache,h2] [--suite FOLDER] [--h2spec PROGRAM] [--out FOLDER]

| suite | what it is                                                                                           |
|-------|------------------------------------------------------------------------------------------------------|
| cache | `http-tests/cache-tests`: the npm package http-cache-tests, fetched when the bench runs, or `--suite` |
| h2    | h2spec 2 for HTTP/2 servers: `go install github.com/summerwind/h2spec/cmd/h2spec@latest`              |

The cache tests come in three kinds: what RFC 9111 requires, what makes a good cache, and questions to which
there is no wrong answer; these last are not counted here. A test whose precondition the cache does not meet (it did
not store what the test is about) counts as not applicable. All three run as their suite runs them, ours with all
request fields forwarded, as the suite's origin knows its tests by them, and its query parameter in the key. What ours
does not pass by intent is said in docs/cdn.md. Takes about three minutes, mostly idle. Needs node and npm.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

if sys.path[0] == str(Path(__file__).resolve().parent):
    sys.path[0] += "/support"  # in this folder itself, edge.py is not the package of its name

from processes import free_port
from servers import Options, Target, certificate, makers, wait_open

PACKAGE = "http-cache-tests@0.4.5"
OPTIONS = Options(
    edge={"forward_headers": ("*",), "query_keys": ("test",)},
    nginx="proxy_cache_revalidate on;",
    varnish=("-p", "default_ttl=0", "-p", "default_grace=0", "-p", "default_keep=3600"),
)


def fetch_suite(folder: Path) -> Path:
    """Install the npm package below `folder`; where it lies."""
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), PACKAGE], check=True
    )
    return folder / "node_modules" / "http-cache-tests"


async def cache_tests(suite: Path, target: Target, origin: int) -> list[dict[str, Any]]:
    """Every test with what came of it."""
    urls = (f"http://127.0.0.1:{target.port}", f"http://127.0.0.1:{origin}")
    process = await asyncio.create_subprocess_exec(
        *("node", "--no-warnings", str(Path(__file__).with_name("cache_tests.mjs")), str(suite), *urls),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    tests = json.loads(out)
    judged: dict[str, str] = {}
    for test in tests:
        judge(test, {item["id"]: item for item in tests}, judged)
    return [{**test, "verdict": judged[test["id"]]} for test in tests]


def judge(test: dict[str, Any], every: dict[str, dict[str, Any]], judged: dict[str, str]) -> str:
    """`passed`, `failed`, or `not applicable`, as the suite itself says it."""
    if test["id"] not in judged:
        judged[test["id"]] = "not applicable"  # should tests depend on each other in a ring
        needs = [judge(every[name], every, judged) for name in test["depends_on"] if name in every]
        if all(need == "passed" for need in needs) and not test["setup"] and not test["skipped"]:
            judged[test["id"]] = "passed" if test["passed"] else "failed"
    return judged[test["id"]]


async def run_cache(suite: Path, folder: Path) -> dict[str, list[dict[str, Any]]]:
    origin = free_port()
    server = await asyncio.create_subprocess_exec(
        *("node", "--no-warnings", "server/server.mjs"),
        cwd=suite,
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "npm_config_protocol": "http",
            "npm_config_port": str(origin),
            "npm_config_pidfile": str(folder / "pid"),
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    results = {}
    try:
        await wait_open(origin)
        for make in makers():
            async with make(origin, folder, OPTIONS) as target:
                results[target.name] = await cache_tests(suite, target, origin)
                print(f"  {target.name}: {dict(Counter(test['verdict'] for test in results[target.name]))}", flush=True)
    finally:
        server.terminate()
        await server.wait()
    return results


async def run_h2(program: str, folder: Path) -> dict[str, list[dict[str, Any]]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            body = b"x" * 1500
            writer.write(b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: %d\r\n\r\n" % len(body))
            writer.write(b"" if head.startswith(b"HEAD") else body)

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(quietly, "127.0.0.1", 0)
    origin = server.sockets[0].getsockname()[1]
    results = {}
    for make in makers():
        async with make(origin, folder, Options(edge={})) as target:
            if not target.tls_port:
                continue
            report = folder / f"{target.name}.xml"
            process = await asyncio.create_subprocess_exec(
                *(program, "-h", "127.0.0.1", "-p", str(target.tls_port), "-t", "-k", "-o", "3"),
                *("-P", "/live/x", "-j", str(report)),
                stdout=asyncio.subprocess.DEVNULL,
            )
            await process.wait()
            results[target.name] = tests = []
            for case in ET.parse(report).iter("testcase"):
                failed = case.find("failure") is not None or case.find("error") is not None
                verdict = "failed" if failed else "not applicable" if case.find("skipped") is not None else "passed"
                why = " ".join("".join(item.itertext()) for item in case)
                name = f"{case.get('package')} {case.get('classname')}"
                tests.append({"suite": "h2spec", "id": name, "kind": "required", "verdict": verdict, "why": why})
            print(f"  {target.name}: {dict(Counter(test['verdict'] for test in tests))}", flush=True)
    server.close()
    return results


def show(results: dict[str, list[dict[str, Any]]]) -> None:
    """Passed of applicable tests, one row per section and kind; then what ours failed."""
    names = list(results)
    rows: dict[tuple[str, str], dict[str, Counter[str]]] = {}
    for name, tests in results.items():
        for test in tests:
            if test["kind"] != "check":
                for row in ((test["suite"], test["kind"]), ("all", test["kind"])):
                    rows.setdefault(row, {}).setdefault(name, Counter())[test["verdict"]] += 1
    print(f"\n{'section':26}{'kind':10}" + "".join(f"{name:>12}" for name in names))
    for (suite, kind), found in rows.items():
        cells = (f"{c['passed']}/{c['passed'] + c['failed']}" for c in (found[name] for name in names))
        print(f"{suite:26}{kind:10}" + "".join(f"{cell:>12}" for cell in cells))
    print("\nfailed by ours:")
    for test in results["headrace"]:
        if test["verdict"] == "failed" and test["kind"] != "check":
            others = ", ".join(
                f"{name} {item['verdict']}"
                for name in names
                for item in results[name]
                if name != "headrace" and item["id"] == test["id"]
            )
            print(f"  {test['suite']}: {test['id']} ({test['kind']}): {test['why']} [{others}]")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="cache,h2")
    parser.add_argument("--suite", type=Path, help="folder of the package http-cache-tests")
    parser.add_argument("--h2spec", default=shutil.which("h2spec") or str(Path.home() / "go/bin/h2spec"))
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        certificate(folder)
        if "cache" in options.only:
            suite = options.suite or await asyncio.to_thread(fetch_suite, folder)
            found["cache"] = await run_cache(suite.resolve(), folder)
        if "h2" in options.only:
            if shutil.which(options.h2spec):
                found["h2"] = await run_h2(options.h2spec, folder)
            else:
                print("h2spec is missing: go install github.com/summerwind/h2spec/cmd/h2spec@latest")
    for results in found.values():
        show(results)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "conformance.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
