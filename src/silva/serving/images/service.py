"""The classifier as the API uses it: pictures that wait are answered together, a batch at a time."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from silva.data.sources import decode_image
from silva.errors import ServingError
from silva.serving.backend import (
    BusyError,
    ModelCard,
    PeerStatus,
    PoolStatus,
    Status,
    UnavailableError,
)
from silva.serving.catalogue import Catalogue
from silva.serving.engine.tiers import TierError
from silva.serving.images.classifier import Chances, Classifier, Picture
from silva.serving.one_process import OneProcess

NAME = "classifier"
MOST_IMAGES = 64
"""In one batch."""
REMEDY = "there is one process, which has all roles"


class ImageService(OneProcess):
    """A `Serving` of image classifiers: `open` it on the loop that uses it."""

    def __init__(
        self,
        classifier: Classifier,
        cards: Sequence[ModelCard],
        *,
        most_waiting: int,
        unknown_client: str = "error",
    ) -> None:
        super().__init__("images are answered by one process", REMEDY)
        self._classifier, self._most_waiting = classifier, most_waiting
        self._unknown_client = unknown_client
        self._catalogue = Catalogue(cards, unknown_client)
        self._waiting: deque[tuple[Picture, asyncio.Future[Chances]]] = deque()
        self._decoding = self._running = 0
        self._wake = asyncio.Event()
        self._compute = ThreadPoolExecutor(1, thread_name_prefix=NAME)
        self._decoders = ThreadPoolExecutor(2, thread_name_prefix="images")
        self._worker: asyncio.Task[None] | None = None
        self._closing = False
        self._counters = dict.fromkeys(("requests", "finished", "failed", "images", "batches"), 0)
        self._step_s = 0.0

    async def open(self) -> None:
        """Begin to answer."""
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def classify(self, path: tuple[str, ...], images: Sequence[bytes]) -> list[Chances]:
        """Probabilities of the classes for each image file.

        Raises DataError for what is no image, BusyError, UnavailableError, such as where an adapter
        cannot be read, and ServingError for a model without a head and for more than may ever wait.
        """
        if self._closing or self._worker is None:
            raise UnavailableError("the server is stopping" if self._closing else "still loading")
        if len(images) > self._most_waiting:  # who is told to come again would come for ever
            raise ServingError(f"{len(images)} images, but {self._most_waiting} may wait")
        if self._decoding + len(self._waiting) + len(images) > self._most_waiting:
            raise BusyError(f"{self._decoding + len(self._waiting)} images wait already")
        self._counters["requests"] += 1
        self._counters["images"] += len(images)
        try:
            pictures = await self._decoded(path, images)
            loop = asyncio.get_running_loop()
            futures = [loop.create_future() for _ in pictures]
            self._waiting.extend(zip(pictures, futures, strict=True))
            self._wake.set()
            found = list(await asyncio.gather(*futures))
        except BaseException:
            self._counters["failed"] += 1
            raise
        self._counters["finished"] += 1
        return found

    async def _decoded(self, path: tuple[str, ...], images: Sequence[bytes]) -> list[Picture]:
        loop, side = asyncio.get_running_loop(), self._classifier.side

        def decoded(n: int, data: bytes) -> Callable[[], Picture]:
            return lambda: Picture(decode_image(data, side, f"images.{n}"), path)

        self._decoding += len(images)
        try:
            tasks = (
                loop.run_in_executor(self._decoders, decoded(*each)) for each in enumerate(images)
            )
            return list(await asyncio.gather(*tasks))
        finally:
            self._decoding -= len(images)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch = [
                    self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_IMAGES))
                ]
                batch = [(picture, future) for picture, future in batch if not future.done()]
                self._running, start = len(batch), time.monotonic()
                pictures = [picture for picture, _ in batch]
                try:
                    found = await loop.run_in_executor(
                        self._compute, self._classifier.answer, pictures
                    )
                except Exception as error:
                    found = [ServingError(f"a batch failed: {type(error).__name__}")] * len(batch)
                self._step_s += time.monotonic() - start
                self._running = 0
                self._counters["batches"] += 1
                for (_, future), each in zip(batch, found, strict=True):
                    if future.done():
                        continue  # whoever asked has left
                    if isinstance(each, TierError):
                        future.set_exception(UnavailableError(each.what))
                    elif isinstance(each, ServingError):
                        future.set_exception(each)
                    else:
                        future.set_result(each)

    def models(self) -> Sequence[ModelCard]:
        return self._catalogue.cards

    def model(self, name: str) -> ModelCard | None:
        return self._catalogue.find(name)

    def offer(self, cards: Sequence[ModelCard]) -> None:
        """See Serving."""
        self._catalogue = Catalogue(cards, self._unknown_client)

    def ready(self) -> bool:
        return self._worker is not None and not self._closing

    def busy(self) -> bool:
        """Whether images wait, are decoded or are answered."""
        return bool(self._waiting or self._decoding or self._running)

    def status(self) -> Status:
        """One peer with all roles."""
        state = "ready" if self.ready() else "draining"
        waiting, running = self._decoding + len(self._waiting), self._running
        peer = PeerStatus(
            NAME,
            "both",
            os.getpid(),
            state,  # type: ignore[arg-type]
            queue=waiting,
            running=running,
            steps=self._counters["batches"],
            step_s=self._step_s,
        )
        pool = PoolStatus(peers=1, ready=int(self.ready()), queue=waiting, running=running)
        return Status(peers=(peer,), pools={"both": pool}, counters=self._counters)

    async def close(self, grace_s: float) -> None:
        """See Serving."""
        self._closing = True
        end = time.monotonic() + grace_s
        while (self._waiting or self._running or self._decoding) and time.monotonic() < end:
            await asyncio.sleep(0.02)
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(UnavailableError("the server stopped before the answer"))
        self._waiting.clear()
        self._compute.shutdown(wait=True, cancel_futures=True)
        self._decoders.shutdown(wait=True, cancel_futures=True)
