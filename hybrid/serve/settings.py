"""What a server allows: limits, times, who may ask."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

MIB = 2**20
# Names of this machine that a browser may call it by.
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServeSettings:
    """How a server behaves.

    Attributes
    ----------
    host, port : str, int
    token : str or None
        What every request must carry; None: nothing, which is for this machine alone.
    read_only : bool
        Refuse whatever would change the run.
    photo_bytes, photos, body_bytes : int
        Limits of a request: of one photo, how many, of all of its body.
    bodies_bytes : int
        What the bodies of all requests that are under way may take in memory; more is answered 503.
    body_seconds : float
        How long a body may take to arrive.
    answer_seconds : float
        How long a request may wait for its answer.
    waiting : int
        Photos that may wait at once; one more is answered 503.
    wait_ms : float
        How long the first photo of a batch waits for others.
    kept_photos, kept_bytes : int
        Uploads that are found again by their hash, and how much memory they may take.
    variants : int
        Answers by other prompts or another operating point that are kept ready.
    texts : int
        Text vectors of typed names that are kept.
    check_seconds : float
        How often it is looked whether another process changed the run.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    read_only: bool = False
    photo_bytes: int = 20 * MIB
    photos: int = 32
    body_bytes: int = 64 * MIB
    bodies_bytes: int = 512 * MIB
    body_seconds: float = 60.0
    answer_seconds: float = 120.0
    waiting: int = 256
    wait_ms: float = 5.0
    kept_photos: int = 2000
    kept_bytes: int = 256 * MIB
    variants: int = 32
    texts: int = 4096
    check_seconds: float = 1.0

    @property
    def limits(self) -> dict[str, int]:
        """The limits that a client may want to know."""
        return {"photo_bytes": self.photo_bytes, "photos": self.photos, "body_bytes": self.body_bytes}


def new_token() -> str:
    """Make a token that nobody guesses."""
    return secrets.token_urlsafe(24)
