"""`link` and `unlink`: a checkout of mdistiller registers this package by itself, and forgets it
again to the byte.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sdkd_plugin.allowed import FolderName
from sdkd_plugin.config import configs_folder
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_object, write_bytes, write_text
from sdkd_plugin.registry import METHODS
from sdkd_plugin.upstream.registration import obstacle

# mdistiller's last commit; the parts of it that the bridge leans on, by SHA-256 of their text
COMMIT = "a08d46f"
KNOWN = dict(
    line.split()[::-1]
    for line in """
96c60811a729512afbe30e9e734b1382b6fc25535ea0a4842998a660a5f0e00e mdistiller/distillers/__init__.py
d11e5938c1032264fa1ece09982e263db02438a21296c68d76d6a23e7094b3e6 mdistiller/distillers/_base.py
c8a27f30112b683100c9d512e0642278862acec5e04f255c086e134c83228d1c mdistiller/engine/__init__.py
0e45e053eb87db381028a6aa1bbac2c160a913f99ee05792d362e7b3054f67db mdistiller/engine/cfg.py
69c45fb0a06724e8f33da53fe4819260ec7e4be299304f677849b3e5623b1878 mdistiller/engine/trainer.py
8de7ef68980fe1dfce0484997692185c98e9c741277c79accddcd7465f196401 mdistiller/engine/utils.py
93fe37a6f3332cc02c089ad961e1b99e272ee336b7090f7b2c002ee318cdc5df mdistiller/models/cifar/__init__.py
ade0506fd51f61154d0c7418ddf7c113415ffcbe95c0036c028d1fe88658fdf3 tools/train.py
""".strip().splitlines()
)
HOOK = "mdistiller/distillers/__init__.py"
RECORD = ".sdkd_plugin_link.json"
BEGIN = "# >>> sdkd_plugin link >>>"
END = "# <<< sdkd_plugin link <<<"
BLOCK = f"""
{BEGIN}
# Added by `python -m sdkd_plugin link`; `python -m sdkd_plugin unlink` takes it away again.
try:
    from sdkd_plugin.upstream import register as _register_sdkd_plugin
except ImportError as _error:
    print(f"warning: sdkd_plugin is linked into this checkout but does not import \
({{_error}}): its methods are missing; install it again, or remove this block from \
{{__file__}} and the files that {RECORD} names")
else:
    _register_sdkd_plugin()
{END}
"""


@dataclass(frozen=True)
class Record:
    """What `link` brought, so that `unlink` takes back just that; paths lie in the checkout."""

    block: str
    files: dict[str, str]  # path -> SHA-256
    folders: list[str]

    @classmethod
    def read(cls, file: Path) -> "Record | None":
        """The record of a link, or None.

        Raises:
            UserError: it is damaged; nothing is taken back by guess.
        """
        try:
            value = read_object(file)
            if value is None:
                return None
            if value.keys() != {field.name for field in fields(cls)}:
                raise UserError(f"{file} has the keys {', '.join(value) or 'none'}")
            record = cls(**value)
            _check_record(record)
        except (UserError, OSError) as error:
            said = str(error).partition(";")[0]
            raise UserError(
                f"the record of the link is damaged ({said}); restore it, or remove by hand what "
                f"stands between the markers in {HOOK}, the configs that are no longer wanted, "
                "and the record"
            ) from error
        return record


def _check_record(record: Record) -> None:
    if not isinstance(record.block, str) or BEGIN not in record.block:
        raise UserError(f"{RECORD} holds no block")
    if not isinstance(record.files, dict) or not isinstance(record.folders, list):
        raise UserError(f"{RECORD} holds no files and folders")
    for path in (*record.files, *record.folders):
        # what it does not lead to, unlink cannot remove
        if not isinstance(path, str) or not FolderName().admits(path):
            raise UserError(f"{RECORD} holds {path!r}, which is no path in the checkout")


def link(checkout: Path, dry_run: bool = False) -> None:
    """Adds one marked block to mdistiller's registry file and the configs of methods that
    mdistiller lacks.

    Raises:
        UserError: no mdistiller there, another version (says which parts match), or already linked.
    """
    hook = checkout / HOOK
    check_checkout(checkout)

    source = hook.read_bytes()
    if BEGIN.encode() in source or (checkout / RECORD).exists():
        raise UserError(
            f"{checkout} is linked already; unlink it first: python -m sdkd_plugin unlink "
            f"{checkout}"
        )

    files, folders = _configs_to_bring(checkout)
    if dry_run:
        print(f"{hook}: {len(BLOCK.splitlines()) - 1} lines at the end{BLOCK}")
    else:
        print(f"{hook}: one marked block at the end; unlink before you uninstall this package")
    for path in files:
        print(f"{checkout / path}: new")
    if dry_run:
        return

    record = Record(BLOCK, {path: _hash(content) for path, content in files.items()}, folders)
    # first: an interrupted link can be undone
    write_text(checkout / RECORD, json.dumps(asdict(record), indent=2) + "\n")
    for path, content in files.items():
        target = checkout / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, content)
    _rewrite(hook, source + BLOCK.encode())


def unlink(checkout: Path, dry_run: bool = False) -> None:
    """Takes back what `link` brought. Files that were changed since are kept and named.

    Raises:
        UserError: not linked, or the block was edited.
    """
    hook = checkout / HOOK
    record_file = checkout / RECORD
    if not hook.is_file():
        raise UserError(f"{checkout} is no checkout of mdistiller: it has no {HOOK}")
    source = hook.read_bytes()
    record = Record.read(record_file)
    if record is None:
        block_there = BEGIN.encode() in source
        found = "its block is there, but not the record" if block_there else "there is no block"
        raise UserError(
            f"{checkout} has no {RECORD}: {found}; remove what stands between the markers in "
            f"{hook} by hand, if anything"
        )

    block = record.block.encode()
    if BEGIN.encode() in source and block not in source:
        raise UserError(
            f"the block between {BEGIN!r} and {END!r} in {hook} was edited; restore or remove it "
            "by hand, then unlink again"
        )
    if block in source:
        print(f"{hook}: the marked block goes")
        if not dry_run:
            _rewrite(hook, source.replace(block, b"", 1))

    for path, digest in record.files.items():
        target = checkout / path
        if target.exists() and _hash(target.read_bytes()) != digest:
            print(f"{target}: kept, it was changed since")
        elif target.exists():
            print(f"{target}: goes")
            if not dry_run:
                target.unlink()
    if dry_run:
        return

    for folder in sorted(record.folders, reverse=True):
        if (checkout / folder).is_dir() and not any((checkout / folder).iterdir()):
            (checkout / folder).rmdir()
    record_file.unlink()


def check_checkout(checkout: Path) -> None:
    """Raises UserError unless the folder is mdistiller at the commit that the bridge was tested
    with.
    """
    if not (checkout / HOOK).is_file():
        raise UserError(f"{checkout} is no checkout of mdistiller: it has no {HOOK}")

    matching: list[str] = []
    other: list[str] = []
    for path, digest in KNOWN.items():
        file = checkout / path
        text = file.read_bytes().replace(b"\r\n", b"\n") if file.is_file() else b""
        text = text.replace(BLOCK.encode(), b"", 1) if path == HOOK else text
        (matching if _hash(text) == digest else other).append(path)
    if other and not (other == [HOOK] and BEGIN.encode() in (checkout / HOOK).read_bytes()):
        raise UserError(
            f"{checkout} is not mdistiller at {COMMIT}: {', '.join(other)} differ or are missing, "
            f"{', '.join(matching) or 'nothing'} matches; check that commit out, or call "
            "sdkd_plugin.upstream.register() yourself"
        )


def _configs_to_bring(checkout: Path) -> tuple[dict[str, bytes], list[str]]:
    """Contents of the yaml files to add, by path, and the folders that are new; nothing that exists
    is overwritten.
    """
    registry = (checkout / HOOK).read_text()
    lacking = [
        entry.name.lower()
        for entry in METHODS
        if obstacle(entry) is None and f'"{entry.name}":' not in registry
    ]

    sources = {
        f"configs/cifar100/{m}/{f.name}": f
        for m in lacking
        for f in (configs_folder() / "cifar100" / m).glob("*.yaml")
    }
    files = {
        path: source.read_bytes()
        for path, source in sorted(sources.items())
        if not (checkout / path).exists()
    }
    folders = {str(Path(path).parent) for path in files}
    return files, sorted(folder for folder in folders if not (checkout / folder).exists())


def _rewrite(path: Path, content: bytes) -> None:
    path = path.resolve()  # a link stays one
    mode = path.stat().st_mode
    write_bytes(path, content)
    path.chmod(mode)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
