"""The playground: one static page that asks this server, and nobody else."""

import hashlib
from functools import cache
from importlib import resources
from pathlib import PurePath

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from quicksilver import __version__
from quicksilver.decoding import POLICY_NAMES, SamplingParams, make_policy, resolve_policy
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError
from quicksilver.server.errors import ApiError
from quicksilver.server.routes._shared import ServiceOf
from quicksilver.server.service import Service

router = APIRouter(include_in_schema=False)

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Names stay the same from release to release: browsers ask whether a file has changed.
    "cache-control": "no-cache",
}


class PolicyChoice(BaseModel):
    """A policy that the served checkpoint can follow."""

    name: str
    takes: list[str]
    """Which of ``threshold`` and ``steps`` it reads."""


class Settings(BaseModel):
    """What the page must know of the server."""

    version: str
    model: str
    num_parameters: int
    context_length: int
    default_policy: str
    policies: list[PolicyChoice]


@router.get("/")
async def index(http: Request) -> Response:
    """The page."""
    return _answer(http, "index.html")


@router.get("/playground/settings.json")
async def settings(service: ServiceOf) -> Settings:
    """What can be chosen."""
    model = service.model
    policies = _policies(service)
    return Settings(
        version=__version__,
        model=service.names[0],
        num_parameters=model.num_parameters,
        context_length=model.max_length,
        default_policy=model.spec.decoding.policy if policies else "left to right",
        policies=policies,
    )


@router.get("/playground/{name}")
async def file(name: str, http: Request) -> Response:
    """A file that the page is made of."""
    return _answer(http, name)


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """Content and entity tag of every file by its name."""
    folder = resources.files("quicksilver.server") / "playground"
    found = {each.name: each.read_bytes() for each in folder.iterdir() if PurePath(each.name).suffix in CONTENT_TYPES}
    return {name: (content, f'"{hashlib.sha256(content).hexdigest()[:16]}"') for name, content in found.items()}


def _answer(http: Request, name: str) -> Response:
    if name not in _files():
        raise ApiError(404, f"the playground has no file {name!r}", code="not_found")
    content, tag = _files()[name]
    headers = {**_HEADERS, "etag": tag}
    if http.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=CONTENT_TYPES[PurePath(name).suffix])


def _policies(service: Service) -> list[PolicyChoice]:
    spec = service.model.spec
    if spec.objective is Objective.AUTOREGRESSIVE:
        return []
    choices = []
    for name in POLICY_NAMES:
        policy = make_policy(name, defaults=spec.decoding)
        try:
            resolve_policy(spec, SamplingParams(policy=policy, vocab_size=service.model.tokenizer.vocab_size))
        except ConfigError:
            continue
        choices.append(
            PolicyChoice(name=name, takes=[each for each in ("threshold", "steps") if hasattr(policy, each)])
        )
    return choices
