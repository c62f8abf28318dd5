"""A data set's files from the Hugging Face hub, or one clear line in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from circuits.base.errors import FileFormatError

TIMEOUT_SECONDS = 4.0


def dataset_directory(name: str, suffixes: Sequence[str]) -> Path:
    """The local directory of a hub data set's files with these suffixes, fetched where absent.

    Only data files are fetched, never code. Raises FileFormatError where the set is neither in
    the local cache nor to be had.
    """
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError:
        raise FileFormatError(
            name, "no such file; to look on the hub, install huggingface-hub"
        ) from None
    patterns = [f"*{suffix}" for suffix in suffixes]
    offline = constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT)
    way_out = (
        "no such file, and as a hub data set it is not in the local cache; give a path, or fetch "
        f"it on a connected machine with `hf download --repo-type dataset {name}`"
    )
    try:
        directory = snapshot_download(
            name, repo_type="dataset", allow_patterns=patterns, local_files_only=offline
        )
    except LocalEntryNotFoundError:
        reason = "offline mode is on" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise FileFormatError(name, f"{way_out} ({reason})") from None
    except HFValidationError:
        raise FileFormatError(name, "no such file, and no possible hub name") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        raise FileFormatError(name, f"no such file, and the hub answered {status}") from None
    return Path(directory)


def reachable(endpoint: str) -> bool:
    """One quick request, so that an absent network costs seconds and not retries."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    request = Request(endpoint, headers={"User-Agent": "knowledge-circuits"}, method="HEAD")
    try:
        urlopen(request, timeout=TIMEOUT_SECONDS).close()
    except HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True
