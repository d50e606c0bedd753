"""Which settings of `silva serve` say anything about servers of images."""

from __future__ import annotations

from operator import attrgetter

from silva.config import paths
from silva.errors import ConfigError
from silva.serving.config import ServeConfig

APPLY = frozenset(
    ("forest", "unknown_client", "adapter_bytes", "threads", "most_waiting", "grace_s")
)
"""One process answers, in float32: there are no peers, blocks, steps or experts."""


def check_settings(config: ServeConfig) -> None:
    """Raise ConfigError for a setting that is not as usual and would change nothing."""
    usual = ServeConfig()
    for name in paths(ServeConfig):
        value = attrgetter(name)
        if name not in APPLY and value(config) != value(usual):
            raise ConfigError(
                "says nothing about a server of images, which is one process",
                where=f"serve.{name}",
                remedy="leave it out",
            )
