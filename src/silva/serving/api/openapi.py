"""The bodies in `/openapi.json`: endpoints read them themselves, so FastAPI does not know them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_PLACE = "#/components/schemas/{model}"
_known: dict[str, type[BaseModel]] = {}


def takes(body: type[BaseModel], form: type[BaseModel] | None = None) -> dict[str, Any]:
    """Arguments of a route that takes this body, or this form instead."""
    content = {"application/json": {"schema": _named(body)}}
    if form is not None:
        content["multipart/form-data"] = {"schema": _named(form)}
    return {"openapi_extra": {"requestBody": {"required": True, "content": content}}}


def _named(body: type[BaseModel]) -> dict[str, str]:
    _known[body.__name__] = body
    return {"$ref": _PLACE.format(model=body.__name__)}


def install(app: FastAPI) -> None:
    """Let the app's description hold the bodies' schemas. It is made when it is first asked for."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, routes=app.routes)
            models = [(model, "validation") for model in _known.values()]
            _, schemas = models_json_schema(models, ref_template=_PLACE)  # type: ignore[arg-type]
            components = found.setdefault("components", {}).setdefault("schemas", {})
            components.update(schemas["$defs"])
            _without_422(found)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # as FastAPI's documentation has it


def _without_422(described: dict[str, Any]) -> None:
    """FastAPI promises an error of its own for every path with a variable; here it is a 400."""
    for path in described["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(name, None)
