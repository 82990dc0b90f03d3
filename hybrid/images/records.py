"""`ImageRecord`: where one image lies and what is known of it before it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a source.

    Attributes
    ----------
    path : str
        The image's unique name: its absolute path, or ``/abs/shard.tar/KEY.jpg`` for a member of a shard.
    source : str
        Absolute path of the folder, manifest or shard given by the user.
    label : str or None
        Class name, None where the source has none.
    split : str or None
        ``"train"``, ``"val"``, ``"test"``, or None where the source does not say.
    size : int
        Bytes of the encoded image.
    mtime_ns : int
        Modification time of the file (of the shard, for a member) in nanoseconds.
    container : str or None
        Absolute path of the tar shard that holds the image, None for a plain file.
    offset : int
        Where the image's bytes start in `container`; 0 for a plain file.
    """

    path: str
    source: str
    label: str | None
    split: str | None
    size: int
    mtime_ns: int
    container: str | None = None
    offset: int = 0

    def read_bytes(self) -> bytes:
        """Read the encoded image.

        Raises
        ------
        OSError
            If the file or shard cannot be read.
        """
        if self.container is None:
            return Path(self.path).read_bytes()
        with Path(self.container).open("rb") as shard:
            shard.seek(self.offset)
            return shard.read(self.size)
