"""Results on the Hugging Face hub: a folder goes to a data set's repository, and comes back.

An address is `hf://OWNER/NAME`, with `@REVISION` after the name and a file or folder in it behind:
`hf://OWNER/NAME@main/capitals/circuit.kc.safetensors`; `hf://datasets/OWNER/NAME`, as
huggingface_hub writes it, says the same. Only files that results are made of are sent or fetched,
never code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.base.errors import FileFormatError, KnowledgeCircuitsError, OptionError, StoreError
from circuits.files.reading import STORED
from circuits.model.hub import reachable

SCHEME = "hf://"
PARTS = (
    *(STORED, "*.json", "*.jsonl", "*.csv", "*.md", "*.parquet"),
    *("*.html", "*.svg", "*.pdf", "*.png", "*.graphml"),
)
"""What the folders of this project's commands hold."""
_ADDRESS = re.compile(
    r"hf://(?:datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.*))?"
)


@dataclass(frozen=True)
class Address:
    """A repository, a revision of it (None: its newest), and a path within, empty for all."""

    repo: str
    revision: str | None = None
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """From `hf://OWNER/NAME[@REVISION][/PATH]`; OptionError for anything else."""
        found = _ADDRESS.fullmatch(text.strip())
        path = (found["path"] or "").strip("/") if found else ""
        if found is None or ".." in path.split("/"):
            raise OptionError(f"{text!r:.80} is no address of the form {SCHEME}OWNER/NAME/PATH")
        return cls(found["repo"], found["revision"], path)


def is_address(text: object) -> bool:
    """Whether a text names something on the hub."""
    return isinstance(text, str) and text.startswith(SCHEME)


def push(result: str | Path, repo: str, *, private: bool = False, message: str = "") -> str:
    """Send a stored result, or a folder of one, to a data set's repository, made where absent.

    `repo` is OWNER/NAME, or an address whose path says where in it. Returns the page's address.
    OptionError where there is no stored result, StoreError where the hub does not take it; nothing
    is sent before what is known here is in order.
    """
    source = Path(result)
    files = [source] if source.is_file() else sorted(source.rglob(STORED))
    if not files or not all(each.name.endswith(STORED[1:]) for each in files):
        raise OptionError(f"{result} holds no stored result ({STORED})")
    address = Address.parse(repo if is_address(repo) else f"{SCHEME}{repo}")
    to = f"{SCHEME}{address.repo}"
    with _hub(to, StoreError) as api:
        from huggingface_hub import get_token

        if not get_token():
            raise StoreError(f"{to}: no token; log in with `hf auth login`, or set HF_TOKEN")
        api.create_repo(address.repo, repo_type="dataset", private=private, exist_ok=True)
        told = {"commit_message": message or f"Results: {source.resolve().name}"}
        where = {"repo_id": address.repo, "repo_type": "dataset", "revision": address.revision}
        if source.is_file():
            name = "/".join(part for part in (address.path, source.name) if part)
            api.upload_file(path_or_fileobj=source, path_in_repo=name, **where, **told)
        else:
            inside = address.path or None
            api.upload_folder(
                folder_path=source, path_in_repo=inside, allow_patterns=list(PARTS), **where, **told
            )
        return f"{api.endpoint}/datasets/{address.repo}"


def fetched(text: str) -> Path:
    """The local copy of what an address names, a file or a folder; FileFormatError says why not."""
    address = Address.parse(text)
    wanted = [address.path, *(f"{address.path}/{each}" for each in PARTS)]
    with _hub(text, FileFormatError) as api:
        folder = api.snapshot_download(
            address.repo,
            repo_type="dataset",
            revision=address.revision,
            allow_patterns=wanted if address.path else list(PARTS),
        )
    found = Path(folder) / address.path
    if not found.exists() or (found.is_dir() and not any(found.rglob("*"))):
        raise FileFormatError(text, "the repository has no such result")
    return found


def in_cache(path: Path) -> bool:
    """Whether a path lies in the hub's cache, which is for the hub alone to write in."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).resolve() in path.absolute().parents


@contextmanager
def _hub(name: str, failure: type[FileFormatError] | type[StoreError]) -> Iterator[Any]:
    """The hub's interface; within the block its errors, which are many, become one line."""
    import httpx
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def fail(reason: str) -> KnowledgeCircuitsError:
        if failure is FileFormatError:
            return FileFormatError(name, reason)
        return StoreError(f"{name}: {reason}")

    if constants.HF_HUB_OFFLINE:
        raise fail("offline mode is on (HF_HUB_OFFLINE)")
    if not reachable(constants.ENDPOINT):
        raise fail(f"the hub cannot be reached ({constants.ENDPOINT})")
    try:
        yield HfApi(endpoint=constants.ENDPOINT)
    except HFValidationError as error:
        raise fail(f"no possible name on the hub: {error}"[:200]) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        reasons = {
            401: "the hub has no such repository, or asks for a login (`hf auth login`, HF_TOKEN)",
            403: "the hub refuses: the token may not do that",
            404: "the hub has no such repository or revision",
        }
        raise fail(reasons.get(status or 0, f"the hub answered {status or 'an error'}")) from None
    except (LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise fail(f"the hub broke off: {type(error).__name__}") from None
