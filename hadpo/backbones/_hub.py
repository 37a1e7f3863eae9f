"""Where a part of a backbone lies: a path, or a repository of the model hub."""

import re
from pathlib import Path

from hadpo.records import BadInput

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_WANTED = ["*.json", "*.model", "*.safetensors", "*.bin", "*.pth", "*.txt"]


def locate(place: str | Path, *, what: str) -> Path:
    """The folder or file `place`; a hub id (owner/name) is fetched once and cached.

    Raises:
        BadInput: no such path, and no hub id either, or the hub does not give it.
    """
    path = Path(place).expanduser()
    if path.exists():
        return path
    if not _HUB_ID.fullmatch(str(place)):
        raise BadInput(f"{what}: no file or folder {path}; download it, or mend the path in files")
    # Imported here: only who names a hub id needs the client, and its import takes a while.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(place), allow_patterns=_WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"{what}: no folder {path} here, and the hub gives no {str(place)!r} ({reason}); "
            "mend the path, or fetch it where there is a network"
        ) from error
