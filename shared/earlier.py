"""What trainings would write over, kept in <weights>/earlier."""

import contextlib
import logging
import os
import shutil
from pathlib import Path

from shared.config import Config, dump_config
from shared.errors import UserError
from shared.files import flush_folder, write_whole
from shared.training import RESUME, read_checkpoint
from shared.weights import read_description
from shared.work import EARLIER, fingerprint

log = logging.getLogger("train")

LINKED_BYTES = 2**20  # from which a file that is kept is a link


def keep_earlier(weights: Path, models: dict[Path, dict], config: Config) -> None:
    """Before a training writes over what another one left: keeps the weights folder as it is, in <weights>/earlier/<number>.

    models: each model's folder, with what its training depends on; to be called before `finished`, which removes checkpoints, and
    before the config is saved. Another training is one with another config or data that is finished or has a checkpoint. The folder
    that is kept serves as a weights folder itself, and a training that was interrupted goes on in it. Large files are linked, so
    they take no room until the new training replaces its own. Raises UserError where it cannot be kept.
    """
    earlier = weights / EARLIER
    before = [path for path in earlier.glob("*") if path.name.isdecimal()]
    replaced = [folder for folder, depends in models.items() if _is_of_another(folder, depends)]
    saved = weights / "config.yaml"
    if saved.is_file() and saved.read_bytes() == dump_config(config).encode():
        # This training has begun: what it had not come to when it was interrupted, or stage 1 has kept, is kept already.
        replaced = [each for each in replaced if _state(each) not in [_state(path / each.name) for path in before]]
    if not replaced:
        return
    number = 1 + max((int(path.name) for path in before), default=0)
    kept, unfinished = earlier / str(number), earlier / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        earlier.mkdir(exist_ok=True)
        _keep_folder(weights, unfinished, left_out={EARLIER})
        unfinished.rename(kept)
        flush_folder(earlier)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UserError(
            f"{kept}: cannot keep there what another training left in {weights} ({error.strerror}). Make room, name another folder "
            "with --weights, or give --fresh to train over it."
        ) from None
    for folder in replaced:
        shutil.rmtree(folder / RESUME, ignore_errors=True)
        log.info("%s: trained with another config or data before, which is kept in %s", folder, kept / folder.name)


def _is_of_another(folder: Path, depends: dict) -> bool:
    """Whether a model folder holds what a training with other dependencies came to."""
    for path in sorted((folder / RESUME).glob("*.pt"), reverse=True):
        with contextlib.suppress(Exception):  # as in Checkpoint.load: a damaged one is left out for the one before it
            return read_checkpoint(path)[0] != fingerprint(depends)
    try:
        return read_description(folder).get("fingerprint", fingerprint(depends)) != fingerprint(depends)
    except UserError:  # none, or a damaged one
        return False


def _state(folder: Path) -> tuple[bytes, list]:
    """What tells a model folder's weights and checkpoints from those of another time."""
    path = folder / "model.json"
    checkpoints = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted((folder / RESUME).glob("*.pt"))]
    return path.read_bytes() if path.is_file() else b"", checkpoints


def _keep_folder(source: Path, target: Path, left_out: set[str]) -> None:
    target.mkdir()
    for path in source.iterdir():
        if path.name.startswith(".") or path.name in left_out:
            continue
        if path.is_dir():
            _keep_folder(path, target / path.name, left_out={"compiled"})  # compiled models are made again
        else:
            _keep_file(path, target / path.name)
    flush_folder(target)


def _keep_file(source: Path, target: Path) -> None:
    """Links a large file; small ones are copied, since an editor may write in them."""
    if source.stat().st_size >= LINKED_BYTES:
        with contextlib.suppress(OSError):  # not every file system has links
            os.link(source.resolve(), target)
            return
    write_whole(target, lambda beside: shutil.copy2(source, beside))
