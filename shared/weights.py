"""A trained model's folder: weights.safetensors and model.json, which together rebuild it without the YAML."""

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from shared.errors import UserError
from shared.files import write_json, write_whole
from shared.machine import PROJECT, made_with
from shared.parse import parse_json

log = logging.getLogger("weights")


def save_weights(folder: Path, model: torch.nn.Module, description: dict) -> None:
    """Writes the model's state and its description (architecture, preprocessing, metrics), the weights' sha256 added.

    model.json is written last: a folder that has it is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    # save_file would write into a file with a name of its own, which a kill leaves for ever, and for its owner's eyes alone.
    write_whole(folder / "weights.safetensors", lambda beside: beside.write_bytes(save(state)))
    write_json(folder / "model.json", {**description, "sha256": file_sha256(folder / "weights.safetensors"), "made_with": made_with()})


def read_description(folder: Path) -> dict:
    """model.json of a trained model. Raises UserError where there is none, or one without a sha256 and an architecture."""
    path = folder / "model.json"
    try:
        description = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no trained model here (no model.json). Run `bash run.sh train` first, or name the folder with --weights."
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}). Train again or restore the file.") from None
    if not isinstance(description, dict):
        raise UserError(f"{path}: expected an object, found a {type(description).__name__}. Train again or restore the file.")
    for key, kind in (("sha256", str), ("architecture", dict)):
        if not isinstance(description.get(key), kind):
            raise UserError(f"{path}: {key}: expected a {kind.__name__}, found {description.get(key)!r:.80}. Train again or restore the file.")
    return description


def load_weights(folder: Path, model: torch.nn.Module) -> None:
    """Fills the model strictly: every weight of the file, every weight of the model, the hash of model.json.

    Raises UserError where one does not fit.
    """
    path = folder / "weights.safetensors"
    description = read_description(folder)
    expected = description.get("sha256")
    if not is_whole(folder):
        raise UserError(
            f"{path}: expected the file with sha256 {expected} that model.json names, found another or none. Train again or restore it."
        )
    if "fingerprint" not in description:
        log.warning("%s: its training is not finished; these are the best weights so far", folder)
    try:
        model.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path}: does not fit the architecture in model.json: {error}") from None


def refuse_other_shapes(folder: Path, build: Callable[[], torch.nn.Module]) -> None:
    """Raises UserError where the network that `build` makes has other weights than the file, before any memory is taken for
    it: model.json may ask for a network of any size, the file holds those that are there."""
    path = folder / "weights.safetensors"
    try:
        with torch.device("meta"):
            wanted = {name: list(value.shape) for name, value in build().state_dict().items()}
    except UserError as error:
        raise UserError(f"{folder / 'model.json'}: {error}") from None
    except Exception as error:  # torch and timm raise whatever sizes without sense made them stumble over
        raise UserError(
            f"{folder / 'model.json'}: tells of a network that cannot be built ({type(error).__name__}: {error!s:.200}). Train again."
        ) from None
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Train again or restore it.") from None
    if wanted != found:
        name = min(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        raise UserError(
            f"{path}: does not fit the architecture in model.json: {name} is {found.get(name, 'not there')}, expected "
            f"{wanted.get(name, 'none of that name')}. Train again or restore it."
        )


def is_whole(folder: Path) -> bool:
    """Whether the weights are those that model.json was written for."""
    path = folder / "weights.safetensors"
    return path.is_file() and file_sha256(path) == read_description(folder).get("sha256")


def refuse_other_architecture(folder: Path, trained: dict, configured: dict, free: set[str]) -> None:
    """Raises UserError where config and model.json differ in a key that is not in `free` (what inference may choose)."""
    unlike = sorted(set(trained) ^ set(configured))
    if unlike:
        raise UserError(
            f"{folder}: made by another version of vid2shop, with other keys ({', '.join(unlike)}). Train again."
        )
    differing = [key for key in trained if key not in free and trained[key] != configured.get(key)]
    if differing:
        found = ", ".join(f"{key} {trained[key]!r} (config: {configured.get(key)!r})" for key in differing)
        raise UserError(
            f"{folder}: trained with {found}. Use the config that it was trained with ({folder.parent / 'config.yaml'}), "
            "or train again."
        )


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from a file that someone else made: .safetensors, or .pt / .pth read without running pickled code.

    Looks into `model` or `state_dict` where the file nests it. Raises UserError where it is missing, holds no tensors, or such
    as would take more memory than the file has bytes (compressed ones, or one number spread over a large shape).
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file. Put it there, or name another.")
    try:
        if path.suffix != ".safetensors":
            _refuse_compressed(path)
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            # Not the file itself where torch takes it for a bare pickle: a length in it would have so much memory taken before a
            # byte is read.
            else torch.load(
                path if _begins_as_archive(path) else io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True
            )
        )
    except Exception as error:  # torch.load raises many kinds; each means the file is not a plain state dict
        raise UserError(f"{path}: not a plain file of weights ({type(error).__name__}: {error}).") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: expected a mapping of names to tensors, found {type(state).__name__}.")
    for name, value in state.items():
        if not isinstance(name, str) or not _is_plain(value, path.stat().st_size):
            raise UserError(f"{path}: {name!r:.80}: expected a name and its numbers, found a tensor {value.layout} of shape {tuple(value.shape)}.")
    return state


ARCHIVE = b"PK\x03\x04"  # how a zip file begins


def _begins_as_archive(path: Path) -> bool:
    """What torch goes by, where zipfile also takes a file that ends as an archive for one."""
    with path.open("rb") as file:
        return file.read(len(ARCHIVE)) == ARCHIVE


def _refuse_compressed(path: Path) -> None:
    """Raises ValueError for an archive whose members are larger than they stand there, as torch.save writes none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if packed := [member.filename for member in archive.infolist() if member.file_size > member.compress_size]:
                raise ValueError(f"{packed[0]!r:.80} is compressed")


# float8 and its like are left out: torch does no arithmetic with them.
NUMBERS = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}


def _is_plain(value: torch.Tensor, n_bytes: int) -> bool:
    """Whether a tensor is dense, of real numbers, and all its numbers stand in a file of so many bytes."""
    return (
        value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in NUMBERS
        and value.numel() * value.element_size() <= n_bytes
    )


def fill_backbone(
    body: torch.nn.Module,
    name: str,
    pretrained: bool | str,
    key: str,
    place: str,
    rename: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
) -> None:
    """Fills a headless timm model `name` as the config's `key` says: False nothing, True timm's own weights, a path a file.

    `rename` brings a file's names to timm's. A classifier's weights in the file are left out; all else must fit, or UserError.
    Where timm cannot fetch its weights, the error names the file, and `place`, a folder of the project, to put it in.
    """
    if pretrained is False:
        return
    if pretrained is True:
        source = f"timm's weights of {name}"
        try:
            state = timm.create_model(name, pretrained=True).state_dict()
        except Exception as error:  # from no network to no such file, the hub raises many kinds
            raise UserError(
                f"{key}: {source} cannot be fetched ({type(error).__name__}: {error}). {_how_to_fetch(name, key, place)} Or set "
                f"{key} to false to begin without."
            ) from None
        state = rename(state)
    else:
        source = f"{key}: {pretrained}"
        state = rename(read_state(pretrained_path(pretrained)))
    own = body.state_dict()
    head = tuple(f"{part}." for part in ("head", "classifier", "fc", *_classifiers_of(name)))
    surplus = sorted(key for key in set(state) - set(own) if not key.startswith(head))
    missing = sorted(key for key in set(own) - set(state) if not key.endswith("num_batches_tracked"))
    if missing or surplus:
        raise UserError(
            f"{source}: not the weights of {name}: {len(missing)} missing {missing[:3]}, {len(surplus)} unknown {surplus[:3]}."
        )
    try:
        body.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)
    except RuntimeError as error:
        raise UserError(f"{source}: not the weights of {name}: {error}") from None


def _classifiers_of(name: str) -> list[str]:
    """How timm calls the classifier of a model, or of one with several each."""
    try:
        said = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a model of a tag that timm does not know
        said = None
    named = said.classifier if said else None
    return [named] if isinstance(named, str) else list(named or [])


def _how_to_fetch(name: str, key: str, place: str) -> str:
    """How to bring timm's weights of `name` by hand, as a sentence."""
    try:
        said = timm.get_pretrained_cfg(name)
    except RuntimeError:  # timm knows the architecture, but no weights of that tag
        said = None
    if said is None or not (said.hf_hub_id or said.url):
        return f"timm knows no weights of that name: set {key} to the path of a file that fits."
    file = f"model.safetensors of {said.hf_hub_id} on the Hugging Face hub" if said.hf_hub_id else said.url
    path = f"{place}/{name}{'.safetensors' if said.hf_hub_id else Path(said.url).suffix}"
    return f"Fetch {file} on a machine with a network, put it at {path} and set {key} to that path."


def pretrained_sha256(pretrained: bool | str) -> str | None:
    """The SHA-256 of the file that a config's `pretrained` names; None where it names none, or one that is not there."""
    path = pretrained_path(pretrained) if isinstance(pretrained, str) else None
    return file_sha256(path) if path and path.is_file() else None


def pretrained_path(pretrained: str) -> Path:
    """A path as it stands where that exists, else from the project's folder."""
    return Path(pretrained) if Path(pretrained).exists() else PROJECT / pretrained


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
