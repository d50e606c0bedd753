"""`silva forest served`, `reload`, `leaf`: the forest of a server that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from silva.cli.admin import HERE, AdminKey, Url

PATIENCE_S = 300.0
"""A server reads every object of a version before it makes it live."""
Data = Annotated[str, typer.Option(help="Its images (classes as the forest's) or texts.")]
Split = Annotated[str, typer.Option(help="Train/test column or share.")]
Labels = Annotated[str, typer.Option(help="Label column or folder levels.")]
_NEEDS = ("version", "clusters", "clients")


def served(url: Url = HERE, admin_key: AdminKey = "") -> None:
    """Print the version that a server answers for, and the leaves that it tunes."""
    from silva.cli.admin import ask

    _show(ask(url, admin_key, "forest", method="GET", needs=_NEEDS))


def reload(
    to: Annotated[int | None, typer.Option(help="Make this version live first.")] = None,
    url: Url = HERE,
    admin_key: AdminKey = "",
) -> None:
    """Let a server answer for the version of its forest that is live on disk."""
    from silva.cli.admin import ask

    body = {} if to is None else {"version": to}
    _show(ask(url, admin_key, "forest", timeout_s=PATIENCE_S, needs=_NEEDS, json=body))


def leaf(
    client: Annotated[str, typer.Option(help="A client that has no leaf.")],
    data: Data,
    split: Split = "",
    labels: Labels = "",
    url: Url = HERE,
    admin_key: AdminKey = "",
) -> None:
    """Let a server tune a leaf on a client's data, such as after one that failed."""
    from silva.cli.admin import ask

    verb = f"forest/clients/{_plain(client)}/leaf"
    body = {"examples": examples_for(url, admin_key, data, split, labels)}
    _show(ask(url, admin_key, verb, timeout_s=PATIENCE_S, needs=_NEEDS, json=body))


def examples_for(
    url: str, admin_key: str, data: str, split: str, labels: str
) -> list[dict[str, str]]:
    """The training data at a path as a server takes them: images or texts, as its forest has them.

    Raises ServingError where it takes none, DataError for too many.
    """
    from silva.cli.admin import ask
    from silva.errors import ServingError

    kind = ask(url, admin_key, "forest", method="GET", needs=_NEEDS).get("examples")
    if kind == "images":
        return _images(data, split, labels)
    if kind == "texts":
        return _texts(data, split, labels)
    raise ServingError(
        "the server takes no examples", where=url, remedy="send what `silva forest probe` makes"
    )


def _texts(data: str, split: str, labels: str) -> list[dict[str, str]]:
    from silva.data.sent_texts import training_texts
    from silva.errors import DataError
    from silva.serving.api.schemas.forest import MAX_EXAMPLES

    if split:
        what = "texts are sent whole: no share of their windows can be kept back"
        remedy = "leave --split out, or lay the folder out as train/ and test/"
        raise DataError(what, where=data, remedy=remedy)
    place = Path(data).expanduser()
    if not place.exists():
        raise DataError("no such file or folder", where=data, remedy="give one client's folder")
    texts = training_texts(place, labels)
    if len(texts) > MAX_EXAMPLES:
        raise DataError(
            f"{len(texts)} texts; a server takes {MAX_EXAMPLES}",
            where=data,
            remedy="send fewer, or use `silva forest probe` and `silva forest add`",
        )
    return [{"text": text} for text in texts]


def _images(data: str, split: str, labels: str) -> list[dict[str, str]]:
    import base64

    import numpy as np

    from silva.data.nouns import TRAIN
    from silva.data.open import open_dataset
    from silva.errors import DataError
    from silva.serving.api.schemas.forest import MAX_EXAMPLES

    dataset = open_dataset(data, split=split, labels=labels)
    every = np.arange(len(dataset))
    rows = every if dataset.split is None else every[dataset.split == TRAIN]
    if len(rows) > MAX_EXAMPLES:
        raise DataError(
            f"{len(rows)} training images; a server takes {MAX_EXAMPLES}",
            where=data,
            remedy="send fewer, or use `silva forest probe` and `silva forest add`",
        )
    return [
        {
            "image": base64.b64encode(dataset.source.file(row)).decode(),
            "label": dataset.class_names[dataset.labels[row]],
        }
        for row in rows.tolist()
    ]


def _plain(client: str) -> str:
    """A client's name, which becomes part of an address. Raises ForestError."""
    from silva.adapters.names import check_client_name

    return check_client_name(client)


def _show(told: dict[str, Any]) -> None:
    typer.echo(
        f"version {told['version']} is answered for: {told['clusters']} clusters, "
        f"{told['clients']} clients"
    )
    for each in told.get("leaves", []):
        why = f": {each['why']}" if each["why"] else ""
        passes = f", pass {each['done']} of {each['passes']}" if each["passes"] else ""
        typer.echo(f"  leaf of {each['client']}: {each['state']}{passes}{why}")
