"""`/` and `/console/...`: the page, which asks the API for all that it shows."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from silva.serving.api.errors import ApiError
from silva.serving.api.server import Server
from silva.serving.api.stream import json_response
from silva.serving.console.about import Answers, told
from silva.serving.console.files import INDEX, etag_of, page_files
from silva.serving.console.samples import Sample, sample_pictures

POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob:",  # blob: pictures that are shown before they are sent
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Even the page's own script can make no markup out of a text.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # may be kept, and is asked for again by its etag
}


def console(server: Server, answers: Answers) -> APIRouter:
    """The page of a server. Raises ServingError where its files were not installed."""
    router = APIRouter(include_in_schema=False)
    files = page_files()

    def file(request: Request, name: str) -> Response:
        found = files.get(name)
        if found is None:
            raise ApiError(404, f"the page has no file {name[:80]!r}")
        return _sent(request, found.content, found.media_type, found.etag)

    async def samples() -> tuple[Sample, ...]:
        return await asyncio.to_thread(sample_pictures, answers.labels)

    @router.get("/")
    async def index(request: Request) -> Response:
        """The page."""
        return file(request, INDEX)

    @router.get("/console/about")
    async def about() -> Response:
        """What kind of model is served, and which keys are wanted."""
        found = [sample.label for sample in await samples()]
        response = json_response(told(server, answers, found))
        response.headers.update(HEADERS | {"cache-control": "no-store"})
        return response

    @router.get("/console/sample/{number}")
    async def sample(request: Request, number: str) -> Response:
        """One of the pictures to try the models with."""
        found = await samples()
        by_number = {str(n): each for n, each in enumerate(found)}
        if number not in by_number:
            raise ApiError(404, "there is no such picture")
        png = by_number[number].png
        return _sent(request, png, "image/png", etag_of(png))

    @router.get("/console/{name}")
    async def part(request: Request, name: str) -> Response:
        """A file that the page is made of."""
        return file(request, name)

    return router


def _sent(request: Request, content: bytes, media_type: str, etag: str) -> Response:
    """The content, or 304 to a browser that has it."""
    headers = HEADERS | {"etag": etag}
    known = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
    if etag in known:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)
