"""Trained models from wherever they lie: a run's folder, one file, the Hugging Face hub, or weights of authors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medlip.data.overlap import Fingerprints
from medlip.errors import MedLIPError
from medlip.files import write_atomic
from medlip.methods import Method, load_exported, load_method, load_released, save_method
from medlip.methods.base import Origin, read_metadata
from medlip.nn.device import resolve_device
from medlip.training.fit import CHECKPOINT, MANIFEST, MODEL, SEEN, model_file

EXPORTED = (".onnx", ".pt2")
"""How files that `medlip export` wrote are called."""
CALIBRATION = "calibration.json"
"""What `medlip calibrate` keeps beside the weights, and goes where they go."""
RELEASED = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
"""How files of released weights are called."""
_HUB = re.compile(r"(?P<hf>hf://)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def load_run(
    source: str | Path,
    device: str = "auto",
    *,
    text_bank: str | Path | None = None,
    text_encoder: str | None = None,
) -> Method:
    """Load a trained method, with its `origin`, and what it has `seen` and was `made_by` where that is known.

    Args:
        source: a run's folder; its model.safetensors alone; a file that `medlip export` wrote; a model of the Hugging Face
            hub, "org/name" or "hf://org/name@revision", taken from the local cache where the hub can't be reached; or a file
            of weights that the authors of MeDSLIP or MedKLIP released.
        device: where it is to compute, see `medlip.nn.device.resolve_device`.
        text_bank: of released weights alone: the embeddings that they come without, see
            `medlip.methods.released.read_text_bank`.
        text_encoder: of released weights alone: what computes these embeddings, and those of open questions: hub name or
            folder; None for the published one.

    Raises:
        MedLIPError: there is no trained model, or no such device.
    """
    where, path, name, revision = resolve_device(device), Path(source), Path(source).resolve().name, ""
    hub = None if path.exists() else _HUB.fullmatch(str(source))
    # `runs/mine` in a folder `runs` that there is, is a run that is missing, and no model of an organization "runs".
    if hub is not None and (hub["hf"] or not path.parent.is_dir()):
        name = hub["name"]
        path = _download(name, hub["revision"])
        revision = path.name
    file = _find_weights(path) if path.is_dir() else path
    if file.suffix == ".safetensors" and "medlip" in read_metadata(file):
        if text_bank is not None or text_encoder is not None:
            raise MedLIPError(f"{source}: this model brings its text bank along. Leave out text bank and text encoder.")
        method = load_method(file)
        about = json.loads(read_metadata(file)["medlip"])
        manifest = _manifest(file, about)
        method.made_by = _made_by(manifest)
        if (file.parent / SEEN).exists() and path.is_dir():
            method.seen = Fingerprints.load(file.parent / SEEN)
        if "origin" in about and not revision:  # a copy: it stays the model that it was
            name, version = about["origin"]["name"], about["origin"]["version"]
        else:
            version = revision or (manifest or {}).get("versions", {}).get("medlip", "")
    elif file.suffix in EXPORTED:
        method = load_exported(file)
        method.origin = method.origin or Origin(name, revision)
        return method.to(where)
    elif file.suffix in RELEASED:
        method = load_released(file, text_bank=Path(text_bank) if text_bank else None, text_encoder=text_encoder)
        version = revision or "released"
    else:
        raise MedLIPError(_missing(source, file))
    method.origin = Origin(name, version)
    method.folder = path if path.is_dir() else None
    return method.to(where)


def save_run(method: Method, out: Path, *, with_seen: bool = True) -> None:
    """Write a trained method as a run's folder, with what made it, its calibration, and where it came from.

    Nothing of this machine is written.

    Args:
        method: what is saved.
        out: the folder.
        with_seen: also write the fingerprints of what it was trained on.

    Raises:
        MedLIPError: the folder holds a run, or there are no weights to save.
    """
    if (out / CHECKPOINT).exists() or (out / MODEL).exists():
        raise MedLIPError(f"{out} holds a run already: give another folder.")
    if next(method.parameters(), None) is None:
        raise MedLIPError(f"method {method.name!r} has no weights that could be saved. Give the run that it was made of.")
    out.mkdir(parents=True, exist_ok=True)
    extra: dict[str, Any] = {"origin": asdict(method.origin)} if method.origin else {}
    if method.made_by is not None:
        extra["run"] = {key: value for key, value in method.made_by.items() if key != "seed"}
        write_atomic(out / MANIFEST, json.dumps(extra["run"], indent=1).encode())
    if with_seen and method.seen is not None:
        method.seen.save(out / SEEN)
    if method.folder is not None and (method.folder / CALIBRATION).exists():
        write_atomic(out / CALIBRATION, (method.folder / CALIBRATION).read_bytes())
    save_method(method, out / MODEL, **extra)


def _missing(source: str | Path, file: Path) -> str:
    if file.exists():
        return (
            f"{source}: is no model: files of models are called {', '.join(RELEASED + EXPORTED)}. Give the folder of "
            "a run, or the file of a model."
        )
    return (
        f"{source}: there is no such folder or file. Give the folder that medlip pretrain wrote, the file of a model, or a "
        "model of the hub as hf://org/name."
    )


def _find_weights(folder: Path) -> Path:
    """Return the file of a folder's model: that of a run, or the only file of released weights."""
    if (folder / MODEL).exists():
        return folder / MODEL
    released = sorted(file for file in folder.iterdir() if file.suffix in RELEASED and file.name != CHECKPOINT)
    if len(released) == 1:
        return released[0]
    if released and not (folder / CHECKPOINT).exists():
        named = ", ".join(file.name for file in released)
        raise MedLIPError(f"{folder}: no {MODEL} in this folder: name one of its files of weights: {named}.")
    return model_file(folder)


def _download(name: str, revision: str | None) -> Path:
    """Return the local folder of a model of the hub, which is called as its revision is: the hash of a commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    wanted = [MODEL, MANIFEST, SEEN, "*.pth", "*.json"]
    pinned = revision is not None and _COMMIT.fullmatch(revision) is not None
    try:
        if pinned:  # a commit never changes: what is there need not be asked for
            cached = _cached(name, revision)
            if cached is not None:
                return cached
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except GatedRepoError as error:
        raise MedLIPError(
            f"{name}: this model of the hub wants its terms accepted. Do so on its page, then log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise MedLIPError(
            f"{name}: there is no such file or folder, and no such model on the Hugging Face hub. Check the name; a private "
            "one needs `hf auth login`."
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        asked = f"{name}@{revision}" if revision else name
        reason = str(error).strip().split("\n")[0]
        raise MedLIPError(
            f"{asked}: there is no such file or folder, and the hub's model can't be had ({reason}). Check name, revision "
            "and connection: without one, only what was downloaded before can be used."
        ) from error


def _cached(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if (folder / MODEL).exists() or any(folder.glob("*.pth")) else None


def _manifest(file: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what made a model: from its run's folder, else from what the model says about itself."""
    beside = file.parent / MANIFEST
    if file.name == MODEL and beside.exists():
        content: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
        return content
    return about.get("run")


def _made_by(manifest: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if manifest is None:
        return None
    data = {key: manifest["data"][key] for key in ("hash", "images", "sources") if key in manifest["data"]}
    seed = manifest["recipe"]["training"]["seed"]
    return {"recipe": manifest["recipe"], "seed": seed, "data": data, "versions": manifest["versions"]}
