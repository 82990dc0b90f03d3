"""Errors as JSON with the right status: what, expected, got, fix."""

from __future__ import annotations

from typing import Any

from hybrid.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    EncoderError,
    FewShotError,
    GateError,
    HybridError,
    InUseError,
    MissingExtraError,
    StoreError,
)

RETRY_SECONDS = 2
# What a request may be wrong about; all else is the server's or the run's.
_ASKED_WRONGLY = (ConfigError, DataError, EncoderError, FewShotError, GateError, MissingExtraError)


class ServeError(HybridError):
    """A request is refused, with an HTTP status of its own."""

    def __init__(
        self,
        status: int,
        what: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        fix: str | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(what, expected=expected, got=got, fix=fix)
        self.status, self.more = status, more or {}


def status_of(error: HybridError) -> int:
    """HTTP status of a named error."""
    if isinstance(error, ServeError):
        return error.status
    if isinstance(error, InUseError):
        return 503
    if isinstance(error, ArtifactError | StoreError) and error.what.startswith("there is no "):
        return 404  # a run without an index, or none at all: the classes are named, and that is all
    return 422 if isinstance(error, _ASKED_WRONGLY) else 500


def body_of(error: HybridError) -> dict[str, Any]:
    """JSON of a named error."""
    said = {"what": error.what, "expected": error.expected, "got": error.got, "fix": error.fix}
    more = error.more if isinstance(error, ServeError) else {}
    return {"error": {**said, "type": type(error).__name__}, **more}


def headers_of(status: int) -> dict[str, str]:
    """Headers that belong to a status."""
    if status == 503:
        return {"Retry-After": str(RETRY_SECONDS)}
    return {"WWW-Authenticate": "Bearer"} if status == 401 else {}


def busy(what: str, got: str | None = None) -> ServeError:
    """Make the error for work that cannot be taken on now."""
    return ServeError(503, what, got=got, fix=f"ask again in {RETRY_SECONDS} seconds")
