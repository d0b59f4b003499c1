"""A model on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from medlip.errors import MedLIPError
from medlip.methods import Method
from medlip.training import save_run

CARD = "README.md"


def check_name(name: str) -> None:
    """Refuse what is no name of a model on the hub.

    Raises:
        MedLIPError: it is not an organization and a name.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise MedLIPError(f"{name!r} is no model of the hub. Give organization and name: org/name.")


@contextmanager
def prepared(method: Method, card: str, out: Path | None) -> Iterator[Path]:
    """Write what is uploaded, and yield its folder: `out`, or one that is removed afterwards.

    Raises:
        MedLIPError: `out` holds a run already.
    """
    with TemporaryDirectory(prefix="medlip-") as temporary:
        folder = out or Path(temporary)
        save_run(method, folder, with_seen=False)
        (folder / CARD).write_text(card, encoding="utf-8")
        yield folder


def upload(folder: Path, name: str, private: bool) -> str:
    """Upload a folder as a model, made if need be, and return its address.

    Raises:
        MedLIPError: there is no login or no connection, or the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi(library_name="medlip")
    try:
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload with medlip push")
    except LocalTokenNotFoundError as error:
        raise MedLIPError(f"{name}: not logged in to the hub. Run `hf auth login` first, or set HF_TOKEN.") from error
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise MedLIPError(f"{name}: {_reason(error)}. Check name, login (`hf auth whoami`) and connection.") from error
    except Exception as error:  # the hub's client passes its transport's own errors on
        if type(error).__module__.split(".")[0] not in ("httpx", "httpcore", "requests", "urllib3"):
            raise
        raise MedLIPError(f"{name}: the hub can't be reached ({_reason(error)}). Check the connection.") from error
    return str(url)


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
