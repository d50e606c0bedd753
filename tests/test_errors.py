from __future__ import annotations

import pytest

from silva import errors
from silva.errors import DataError, ForestError, SilvaError, UnknownClientError

KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not SilvaError
]


def test_a_message_is_place_cause_and_remedy() -> None:
    assert str(DataError("is cut short", where="x.npz", remedy="make it again")) == (
        "x.npz: is cut short; make it again"
    )
    assert str(SilvaError("is wrong")) == "is wrong"


@pytest.mark.parametrize("kind", [k for k in KINDS if getattr(k, "usual", "")])
def test_a_kind_with_a_usual_remedy_names_it_where_none_is_given(kind: type[SilvaError]) -> None:
    assert str(kind("is wrong")) == f"is wrong; {kind.usual}"
    assert str(kind("is wrong", remedy="mend it")) == "is wrong; mend it"
    assert kind("is wrong").remedy == ""


def test_an_unknown_client_is_a_mistake_about_the_forest() -> None:
    assert issubclass(UnknownClientError, ForestError)
    assert UnknownClientError.usual == ForestError.usual
