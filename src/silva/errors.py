"""Every error a user can meet: what is wrong, where, and what to do about it.

A command ends with exit code 2 and the error's one line; an API answers with a 4xx. Errors that are
not listed here are defects of silva.
"""

from __future__ import annotations

from typing import ClassVar


class SilvaError(Exception):
    """A mistake that the user can mend: `what` is wrong, at `where`, `remedy` says what to do.

    Where no remedy is given the `usual` one of the kind stands in the message.
    """

    usual: ClassVar[str] = ""

    def __init__(self, what: str, *, where: object = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, str(where), remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        remedy = self.remedy or self.usual
        return f"{line}; {remedy}" if remedy else line


class ConfigError(SilvaError):
    """A setting is unknown, of the wrong type or out of range."""

    usual = "correct this setting"


class DataError(SilvaError):
    """A data set cannot be read, or is not what its format promises."""

    usual = "check the data"


class PartitionError(SilvaError):
    """The images cannot be dealt out to the clients as asked."""

    usual = "choose other numbers or another partition"


class ModelError(SilvaError):
    """A model directory is missing, incomplete or of another shape."""

    usual = "give a model directory as transformers writes it, complete"


class PromptError(SilvaError):
    """A prompt or a conversation cannot be turned into tokens of the model."""

    usual = "change the prompt"


class ForestError(SilvaError):
    """A forest is missing, damaged or does not fit the model or the data."""

    usual = "restore it from a copy, or make it again"


class UnknownClientError(ForestError):
    """No client of that name lives in the forest."""


class RunError(SilvaError):
    """A tuning run cannot start, go on or be resumed."""


class ServingError(SilvaError):
    """The server cannot start, or a request cannot be served."""

    usual = "see docs/serving.md"


class HelperError(SilvaError):
    """A process that helps this one has ended or cannot start; whoever asked is not to blame."""

    usual = "try again later; the log says more"


class MissingExtraError(SilvaError):
    """An optional library is needed; the remedy names the extra that brings it."""
