"""What a process of its own does with a client's examples: a leaf, or a probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from silva.adapters.codec import encode_tier
from silva.adapters.forest import Forest
from silva.adapters.objects import encode_tensors
from silva.adapters.probe_file import Probed, decode_probed, encode_probed
from silva.errors import HelperError
from silva.serving.newcomers import LeafTuner, Prober
from silva.serving.training_process import PROBER, TrainingProcess

Leave = Callable[[int, int], None]


class Work(Protocol):
    """Pickled to the process, with the examples."""

    def result(self, forest: Forest, client: str, examples: Any, leave: Leave) -> bytes:
        """What goes back to the server. Raises a SilvaError."""
        ...


@dataclass(frozen=True)
class LeafWork:
    """A leaf's tensors as a file."""

    tuner: LeafTuner[Any]

    def result(self, forest: Forest, client: str, examples: Any, leave: Leave) -> bytes:
        """See Work."""
        return encode_tensors(*encode_tier(self.tuner.tune(forest, client, examples, leave)))


@dataclass(frozen=True)
class ProbeWork:
    """A probe as a file."""

    prober: Prober[Any]

    def result(self, forest: Forest, client: str, examples: Any, leave: Leave) -> bytes:
        """See Work."""
        return encode_probed(self.prober.probe(forest, client, examples), forest.manifest)


class ProberBeside:
    """A prober in a process of its own, which holds the model and ends when the probe is made.

    Where models are large: the server's own process has none, and what training takes is given back.
    One client is probed at a time.
    """

    def __init__(self, prober: Prober[Any]) -> None:
        self._prober = prober
        self._process: TrainingProcess | None = None
        self._closed = False

    def rows(self, forest: Forest, examples: Any) -> int:
        """See `Prober`; told here."""
        return self._prober.rows(forest, examples)

    def probe(self, forest: Forest, client: str, examples: Any) -> Probed:
        """See `Prober`. Raises HelperError where the process ends before its time."""
        self._process = process = TrainingProcess(PROBER)
        try:
            if self._closed:
                raise HelperError("the server is stopping")
            process.begin(ProbeWork(self._prober), forest, client, examples)
            found = process.hear()
            if not isinstance(found, bytes):
                raise HelperError("the prober asked leave for a pass")
            return decode_probed(found, forest.manifest, "the probe")
        finally:
            self._process = None
            process.close()

    def close(self) -> None:
        """Make no more probes; who waits for one is told so."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
