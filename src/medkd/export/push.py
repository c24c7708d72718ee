"""Uploads an exported folder to a hub: private, proven, and under licences that are known.

In: a folder of `export`, `hf:OWNER/NAME` or `ms:OWNER/NAME`. Out: one commit on the hub, or with a
dry run the list of what it would hold. The token is that of the hub's own login. Not done here:
exporting, making a repository public.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medkd.core.errors import InputError, StoppedError
from medkd.core.jsonl import write_text
from medkd.models.inspect import explain, read_json

_TARGET = re.compile(r"(hf|ms):(\w[\w.-]*/\w[\w.-]*)")
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
FREE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-3.0")
"""Licences under which what was learnt may be passed on by anybody for any use."""
UNPROVEN = "UNPROVEN"
"""Name of the file that marks a folder that did not prove itself."""
NOT_UPLOADED = ("manifest.json", "lineage.json", "MODELCARD.md", UNPROVEN)
"""What names folders of this machine, or stands in another file too."""


class Target(NamedTuple):
    """Where a model is uploaded to."""

    hub: str
    """`hf` or `ms`."""
    name: str


def read_target(text: str) -> Target:
    """Read `hf:OWNER/NAME` or `ms:OWNER/NAME`; raises InputError for anything else.

    >>> read_target("hf:me/student")
    Target(hub='hf', name='me/student')
    """
    found = _TARGET.fullmatch(text)
    if found is None:
        raise InputError(
            "--push {}: is no place on a hub; write hf:OWNER/NAME or ms:OWNER/NAME", text
        )
    return Target(found[1], found[2])


def find_licence(lineage: Mapping[str, Any], is_accepted: bool) -> str:
    """Return the licence to name on the hub: the one of the base and of all rows, or `other`.

    Raises InputError for a base or rows whose licence is unknown or does not allow every use,
    unless that was accepted.
    """
    rows: dict[str, int] = dict(lineage.get("licences") or {"unknown": 0})
    base = str(lineage.get("base_licence") or "unknown")
    bound = [f"rows {name} {n}" for name, n in rows.items() if name.lower() not in FREE]
    if base.lower() not in FREE:
        bound.append(f"base {lineage.get('base_model') or ''} {base}")
    if bound and not is_accepted:
        raise InputError(
            "--push: a licence is unknown or does not allow every use ({}); read it, and add "
            "--accept-licences where it allows this one",
            ", ".join(bound),
        )
    named = {base.lower(), *map(str.lower, rows)}
    return named.pop() if len(named) == 1 and not bound else "other"


def find_published_name(base: str) -> str:
    """Return the name of a base on a hub; nothing for a folder of this machine."""
    return base if _HUB_NAME.fullmatch(base) and not Path(base).is_dir() else ""


def find_base_licence(folder: Path) -> str:
    """Read the licence out of the head of a model's card, as hubs want it; `unknown` where the
    folder has no card, or its card no licence."""
    path = folder / "README.md"
    card = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = re.match(r"---\n(?:.*\n)*?license:\s*(\S+)\s*\n(?:.*\n)*?---", card[:20_000])
    return found[1].strip("\"'") if found else "unknown"


def list_files(folder: Path) -> list[Path]:
    """List what is uploaded; raises InputError for a folder that did not prove itself."""
    if (folder / UNPROVEN).exists() or not (read_json(folder / "proof.json") or {}).get("passed"):
        raise InputError(
            "{}: did not prove that it thinks and stops, and is not uploaded; see proof.json",
            folder,
        )
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in NOT_UPLOADED and not path.name.startswith(".")
    ]


def push(folder: Path, target: Target, is_accepted: bool, is_dry: bool) -> None:
    """Upload a folder, or say what would be uploaded."""
    lineage = read_json(folder / "lineage.json") or {}
    licence = find_licence(lineage, is_accepted)
    files = list_files(folder)
    n_bytes = sum(path.stat().st_size for path in files)
    verb = "would upload" if is_dry else "uploading"
    print(
        f"export: {verb} {len(files)} files, {n_bytes / 2**20:.1f} MiB, to "
        f"{target.hub}:{target.name} (private, licence {licence})",
        *(f"  {path.name} {path.stat().st_size}" for path in files if is_dry),
        sep="\n",
    )
    if is_dry:
        return
    card = (folder / "MODELCARD.md").read_text(encoding="utf-8")
    write_text(folder / "README.md", card.replace("---\n", f"---\nlicense: {licence}\n", 1))
    names = [path.name for path in files]
    if target.hub == "hf":
        _push_to_hugging_face(folder, target.name, names)
    else:
        _push_to_modelscope(folder, target.name, names)
    print(f"export: uploaded to {target.hub}:{target.name}")


def _push_to_hugging_face(folder: Path, name: str, names: list[str]) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        LocalTokenNotFoundError,
    )

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        api.create_repo(name, private=True, exist_ok=True)  # one that is there stays as it is
        if api.repo_info(name).private is False:  # a mirror may not say
            raise InputError(
                "--push hf:{}: is a public repository; make it private on the hub, or choose "
                "another name",
                name,
            )
        api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=names, commit_message="Upload"
        )
    except LocalTokenNotFoundError as error:
        raise InputError('--push hf:{}: nobody is logged in; run "hf auth login"', name) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise InputError(
                '--push hf:{}: the hub refuses ({}); check the owner, or run "hf auth login" with '
                "a token that may write",
                name,
                status,
            ) from error
        raise _interrupted(f"hf:{name}", error) from error
    except (HTTPError, OSError) as error:
        raise _interrupted(f"hf:{name}", error) from error


def _push_to_modelscope(folder: Path, name: str, names: list[str]) -> None:
    try:
        from modelscope.hub.api import HubApi  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "--push ms:{}: the modelscope package is missing; pip install modelscope", name
        ) from error
    api: Any = HubApi()
    try:
        api.create_repo(repo_id=name, repo_type="model", visibility="private", exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=str(folder), allow_patterns=names, commit_message="Upload"
        )
    except Exception as error:  # its client raises many kinds, without a common one of its own
        raise _interrupted(f"ms:{name}", error) from error


def _interrupted(name: str, error: Exception) -> StoppedError:
    return StoppedError(
        "--push {}: the hub cannot be reached ({}); the folder is whole here, and on the hub "
        "nothing is half there: run the same command again",
        name,
        explain(error),
    )
