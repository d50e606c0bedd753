"""Ten thousand requests at once: who is refused, how, what memory it takes, does the server go on?

    python benchmarks/serving_flood.py

Each request has a connection of its own and wants a stream. Memory is the resident set of the
process that answers HTTP, read every 20 ms. Floods are repeated: what one leaves behind shows as
growth from the first to the last.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

import serving
from serving import STORIES, Bench, Numbers

WATCH_S = 0.02
TOKENS = 32
TRIES, AGAIN_S = 50, 0.2
"""A system that has no room for a connection now may have it a moment later."""


async def one(to: tuple[str, int], source: str, request: bytes) -> tuple[str, bool]:
    """Status of one request, or the kind of its failure; and whether it was told when to retry."""
    for _ in range(TRIES):
        try:
            reader, writer = await asyncio.open_connection(*to, local_addr=(source, 0))
            break
        except OSError:
            await asyncio.sleep(AGAIN_S)
    else:
        return "no connection", False
    try:
        writer.write(request)
        await writer.drain()
        answer = await reader.read()
    except OSError:
        return "broken off", False
    finally:
        writer.close()
    headers = answer.partition(b"\r\n\r\n")[0].decode("latin-1").lower().split("\r\n")
    status = headers[0].split(" ")[1] if headers[0].startswith("http/") else "no answer"
    whole = b"data: [DONE]" in answer if status == "200" else True
    return status if whole else "broken off", any(h.startswith("retry-after:") for h in headers)


async def all_at_once(url: str, bodies: list[bytes], source: str) -> list[tuple[str, bool]]:
    """Every request on a connection of its own, from an address of this machine."""
    parts = urlsplit(url)
    to = (parts.hostname or "", parts.port or 80)

    def head(body: bytes) -> bytes:
        lines = ("POST /v1/completions HTTP/1.1", f"host: {parts.netloc}", "connection: close")
        lines += ("content-type: application/json", f"content-length: {len(body)}", "", "")
        return "\r\n".join(lines).encode()

    return await asyncio.gather(*(one(to, source, head(body) + body) for body in bodies))


class Watch:
    """The resident set of a process while something happens: before, at most, after."""

    def __init__(self, pid: int) -> None:
        import psutil

        self._process, self._over = psutil.Process(pid), threading.Event()
        self.before = self.most = self._rss()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _rss(self) -> int:
        return self._process.memory_info().rss

    def _look(self) -> None:
        while not self._over.wait(WATCH_S):
            self.most = max(self.most, self._rss())

    def stop(self) -> Numbers:
        self._over.set()
        self._thread.join()
        return {
            "rss_before_bytes": self.before,
            "rss_peak_bytes": self.most,
            "rss_after_bytes": self._rss(),
        }


def flood(server: serving.Server, text: serving.Text, count: int, number: int) -> Numbers:
    """One flood: answers by status, seconds, memory; then one request alone."""
    bodies = []
    for n in range(count):
        body = serving.completion(STORIES, text.cut(number * count + n, 24), TOKENS, stream=True)
        bodies.append(json.dumps(body).encode())
    watch, start = Watch(server.process.pid), time.perf_counter()
    # Ports of closed connections rest for a minute: each flood has an address of its own.
    answers = asyncio.run(all_at_once(server.url, bodies, f"127.0.0.{2 + number}"))
    seconds = time.perf_counter() - start
    after = serving.stream(server.url, [serving.completion(STORIES, text.cut(5, 24), TOKENS)])
    refused = [retry for status, retry in answers if status == "429"]
    return {
        "requests": count,
        "by_status": dict(sorted(Counter(status for status, _ in answers).items())),
        "refused_with_retry_after": sum(refused),
        "seconds": seconds,
        "answered_afterwards": bool(after[0].good),
        **watch.stop(),
    }


def main() -> int:
    add = lambda parser: parser.add_argument("--requests", type=int, default=10_000)  # noqa: E731
    bench = Bench("flood", __doc__, "requests; seconds; bytes (10^6: MB)", add)
    count, floods = (200, 2) if bench.quick else (bench.options.requests, 5)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < count + 200:
        sys.exit(f"{count} connections need as many open files, this system gives {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    path = bench.model(STORIES)
    text = serving.Text(serving.folder_of(path))

    def run() -> Numbers:
        rows = []
        with serving.serving(bench.folder / "server", path) as server:
            for number in range(floods):
                row = flood(server, text, count, number)
                rows.append(row)
                print(
                    f"          {row['by_status']}, {row['seconds']:.1f} s, resident "
                    f"{row['rss_before_bytes'] / 1e6:.0f} MB before, "
                    f"{row['rss_peak_bytes'] / 1e6:.0f} at most, "
                    f"{row['rss_after_bytes'] / 1e6:.0f} after",
                    flush=True,
                )
        return {"floods": rows}

    found = bench.measure(f"{floods} floods of {count}", run)
    bench.publish({"model": STORIES, "answer_tokens": TOKENS, **found}, f"--requests {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
