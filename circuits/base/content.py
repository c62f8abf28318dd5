"""A hash over what files hold, by which a stored unit knows that they are others now."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import file_digest, sha256
from pathlib import Path


def content_sha256(path: Path, beside: Iterable[Path] = ()) -> str:
    """One hash of a file, or of every file of a folder with its name in it.

    Files `beside` it that are read too count with their names.
    """
    whole = sha256()

    def add(file: Path, name: str) -> None:
        with file.open("rb") as content:
            whole.update(f"{name}\0".encode() + file_digest(content, "sha256").digest())

    if path.is_dir():
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            add(file, str(file.relative_to(path)))
    else:
        add(path, "")
    for file in sorted(beside):
        add(file, file.name)
    return whole.hexdigest()
