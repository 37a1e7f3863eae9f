"""Checkpoint files in: lazy, safe, and every key accounted for; `export` writes them.

A key table is data: `{"model.mm_projector.0.{}": "connector.0.{}"}`, where `{}` stands for any end
of the key. The first row that fits wins. A table of ignored keys says for each why nobody needs it.
"""

import dataclasses
import importlib.util
import logging
import math
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict, TypeVar, Unpack

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaForCausalLM

from hadpo import config, plugins, records
from hadpo.records import BadInput

log = logging.getLogger(__name__)

Sizes = TypeVar("Sizes")
Value = TypeVar("Value")

_INDEX = ".index.json"
WEIGHT_NAMES = (  # transformers' own order: the first that a folder has is read
    *("model.safetensors", "model.safetensors" + _INDEX),
    *("pytorch_model.bin", "pytorch_model.bin" + _INDEX),
)
SUFFIXES = (".pth", ".safetensors", ".bin", ".pt")  # of files of weights
_WRAPPERS = ("model", "state_dict", "module", "model_state_dict")  # what may hold the weights
_PREFIXES = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile add
_SHOWN = 8  # keys that an error message spells out
_HUB_FILES = ["*.json", "*.jinja", "*.model", "*.safetensors", "*.bin", "*.pth", "*.txt"]
_UNREADABLE = (  # what torch.load raises on files that are cut off, or no checkpoints at all
    *(RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError),
    *(pickle.UnpicklingError, struct.error),
)
_OUTLIERS = 6.0  # LLM.int8(): input columns with a larger value stay in 16 bits

# The import of bitsandbytes, which peft's brings about, warns on some CPUs that an optional kernel
# is absent.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


Files = Mapping[str, str | Path]  # part of a model -> its file or folder, or a hub id


class Placement(TypedDict):
    """How frozen weights are kept; `from_original` of each family is given it."""

    dtype: torch.dtype
    device: torch.device


def locate_parts(name: str, files: Files, parts: Mapping[str, str]) -> dict[str, Path]:
    """The folder or file of each of `parts` (its name -> what it is) of the backbone `name`.

    Raises:
        BadInput: `files` lack parts (all are listed), or one of them is not at its place.
    """
    missing = [f"{part}: {meaning}" for part, meaning in parts.items() if part not in files]
    if missing:
        raise BadInput(f"{name}: files need " + "; ".join(missing))
    return {part: locate(files[part], what=part) for part in parts}


def locate(place: str | Path, *, what: str) -> Path:
    """The folder or file `place`; a hub id (owner/name) is fetched once and cached.

    Raises:
        BadInput: no such path, and no hub id either, or the hub does not give it.
    """
    path = Path(place).expanduser()
    if path.exists():
        return path
    if not config.HUB_ID.fullmatch(str(place)):
        raise BadInput(f"{what}: no file or folder {path}; download it, or fix the path in files")
    # Imported here: only who names a hub id needs the client, and its import takes a while.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(place), allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"{what}: no folder {path} here, and the hub gives no {str(place)!r} ({reason}); "
            "fix the path, or fetch it where there is a network"
        ) from error


def weight_files(folder: Path, *, what: str) -> list[Path]:
    """Files that hold the weights of a checkpoint folder: one, or the shards its index names.

    Of several sets of weights the one that transformers would read; the others are logged.

    Raises:
        BadInput: no such folder, no weights in it, or a shard of the index is missing.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise BadInput(f"{what}: no folder {folder}; download it, or fix the path")
    chosen = next((folder / name for name in WEIGHT_NAMES if (folder / name).is_file()), None)
    if chosen is None:
        names = ", ".join(sorted(p.name for p in folder.iterdir())[:_SHOWN]) or "nothing"
        expected = ", ".join(WEIGHT_NAMES)
        raise BadInput(
            f"{what}: no weights in {folder} (found {names}; expected one of {expected})"
        )
    indices = [folder / name for name in WEIGHT_NAMES if name.endswith(_INDEX)]
    shards = {path: _shards(path) for path in indices if path.is_file()}
    files = shards.get(chosen, [chosen])
    if lost := [path.name for path in files if not path.is_file()]:
        raise BadInput(
            f"{what}: {chosen}: {len(lost)} of {len(files)} shards are missing: "
            f"{', '.join(lost[:_SHOWN])}; download the folder again"
        )
    others = {path for path in folder.iterdir() if path.suffix in SUFFIXES} - set(files)
    others |= {folder / name for name in WEIGHT_NAMES if (folder / name).is_file()} - {chosen}
    if others := sorted(path.name for path in others - set(files)):
        log.warning("%s: %s is read, as transformers does; left out: %s", what, chosen, others)
    return files


def _shards(index: Path) -> list[Path]:
    """The shards that an index names."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, Mapping) or not places:
        raise BadInput(f"{index}: weight_map: found {places!r}, expected key -> file")
    for name in places.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise BadInput(f"{index}: weight_map: found {name!r}, expected a file of this folder")
    return sorted({index.with_name(name) for name in places.values()})


def find_weights(place: Path, *, what: str) -> Path:
    """The file of weights: `place` itself, or the only one in that folder.

    Raises:
        BadInput: a folder with no file of weights, or with several.
    """
    if place.is_file():
        return place
    paths = sorted(path for path in place.iterdir() if path.suffix in SUFFIXES)
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise BadInput(f"{what}: {place} has {len(paths)} files of weights ({names}); name one")
    return paths[0]


def read_json(path: Path) -> dict:
    """A JSON object from a file; BadInput if it is missing or something else."""
    if not path.is_file():
        raise BadInput(f"no file {path}; a checkpoint folder needs it")
    return records.read_json(path, dict, expected="expected a JSON object; download it again")


def read_sizes(path: Path, kind: type[Sizes]) -> Sizes:
    """Sizes of the weights `path`, which no config states: the published ones.

    They are the defaults of `kind`; a JSON file beside the weights, of the same name, has others.

    Raises:
        BadInput: the JSON file has another key, or a value that is no positive whole number.
    """
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return kind()
    values = read_json(beside)
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in known:
            raise BadInput(f"{beside}: unknown size {key!r}; {plugins.choices(key, known)}")
        if type(value) is not int or value < 1:
            raise BadInput(f"{beside}: {key}: found {value!r}, expected a whole number above 0")
    return kind(**values)


def read_tensors(path: Path, *, below: str | tuple[str, ...] = "") -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of all weights in a file whose name starts with `below`, on the CPU.

    `.safetensors` and zip-format `.bin` / `.pth` files are mapped, not read whole; nothing in them
    is ever executed. Weights under "model", "state_dict" and the like are read there; a prefix that
    DistributedDataParallel or torch.compile put before all names is taken off.

    Raises:
        BadInput: the file is missing, truncated, a Git LFS pointer, a web page, or no checkpoint.
    """
    _check_start(path)
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                for name, key in _unwrapped(file.keys()).items():
                    if name.startswith(below):
                        yield name, file.get_tensor(key)
        except SafetensorError as error:
            raise _broken(path, error) from error
        return
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except _UNREADABLE as error:
        raise _broken(path, error) from error
    while isinstance(values, Mapping) and not any(isinstance(v, Tensor) for v in values.values()):
        inner = [values[name] for name in _WRAPPERS if isinstance(values.get(name), Mapping)]
        if not inner:
            break
        values = inner[0]
    if not isinstance(values, Mapping):
        raise BadInput(f"{path}: expected a table of tensors, found {type(values).__name__}")
    tensors = {str(key): value for key, value in values.items() if isinstance(value, Tensor)}
    if values and not tensors:
        raise BadInput(f"{path}: no tensors in it; it holds {', '.join(map(str, values))[:200]}")
    for name, key in _unwrapped(tensors).items():
        if name.startswith(below):
            yield name, tensors[key]


def _unwrapped(keys: Iterable[str]) -> dict[str, str]:
    """Names without a prefix that all keys share because their model was wrapped -> keys."""
    names = {key: key for key in keys}
    for prefix in _PREFIXES * 2:
        if names and all(name.startswith(prefix) for name in names):
            names = {name.removeprefix(prefix): key for name, key in names.items()}
    return names


def _check_start(path: Path) -> None:
    """Tell a downloaded web page or an LFS pointer from weights."""
    if not path.is_file():
        raise BadInput(f"no file {path}; download it, or fix the path")
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(b"version https://git-lfs"):
        raise BadInput(f"{path}: a Git LFS pointer, not weights; run `git lfs pull` in its folder")
    if start[:14].lower().startswith((b"<!doctype", b"<html")):
        raise BadInput(f"{path}: a web page, not weights; download the file itself")
    if not start:
        raise BadInput(f"{path}: an empty file; download it again")


def _broken(path: Path, error: Exception) -> BadInput:
    names_code = re.search(r"GLOBAL (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and names_code:
        return BadInput(
            f"{path}: a pickle with code in it ({names_code[1]}), not tensors; refused, as loading "
            "it would run that code: get the weights as .safetensors, or from the authors"
        )
    size = path.stat().st_size
    reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    return BadInput(
        f"{path}: truncated or no checkpoint ({size} bytes: {reason}); download it again"
    )


def translate(key: str, table: Mapping[str, str]) -> str | None:
    """What the first fitting row of `table` makes of `key`; None if no row fits."""
    for pattern, target in table.items():
        start, hole, end = pattern.partition("{}")
        if not hole:
            if key == pattern:
                return target
        elif key.startswith(start) and key.endswith(end) and len(key) > len(start) + len(end):
            return target.replace("{}", key[len(start) : len(key) - len(end)])
    return None


def translate_back(name: str, table: Mapping[str, str]) -> str | None:
    """The key that the first fitting row of `table` turns into `name`; None if none does."""
    keys = (translate(name, {target: pattern}) for pattern, target in table.items())
    return next(filter(None, keys), None)


def by_original_key(values: Mapping[str, Value], table: Mapping[str, str]) -> dict[str, Value]:
    """Values by the checkpoint's keys instead of ours; what `table` does not name is left out."""
    keys = {name: translate_back(name, table) for name in values}
    return {key: values[name] for name, key in keys.items() if key is not None}


def layer_keys(source: str, target: str, names: Mapping[str, str]) -> dict[str, str]:
    """Rows of a key table: weight and bias of the modules `names` (theirs -> ours) in each layer.

    `source` and `target` are the starts of the keys, with `{}` for the layer's number.
    """
    return {
        f"{source}{old}.{end}": f"{target}{new}.{end}"
        for old, new in names.items()
        for end in ("weight", "bias")
    }


def copy_weights(
    weights: Mapping[str, Tensor], into: Mapping[str, Tensor], *, where: str, model: str
) -> None:
    """Copy weights of the file `where` into a model's tensors of the same keys; all, or none.

    Raises:
        BadInput: lists keys that are empty, missing, unexpected, or of another shape.
    """
    missing = [f"missing {key!r}" for key in into if key not in weights]
    unexpected = [f"unexpected {key!r}" for key in weights if key not in into]
    both = zip_longest(missing, unexpected)  # a found key beside one that is wanted
    shared = [(repr(key), value, into[key]) for key, value in weights.items() if key in into]
    wrong = [_misfit(label, value, own.shape, own.dtype) for label, value, own in shared]
    problems = [problem for problem in (*wrong, *(p for pair in both for p in pair)) if problem]
    if problems:
        raise BadInput(f"{where}: {len(problems)} keys do not fit {model}:{listed(problems)}")
    for key, value in weights.items():
        into[key].copy_(value)


def _misfit(label: str, value: Tensor, shape: torch.Size, dtype: torch.dtype) -> str | None:
    """Why a tensor cannot take the place of one of `shape` and `dtype`; None if it can."""
    found = list(value.shape)
    if not value.numel():
        return f"{label} is empty, shape {found} (as saved under ZeRO-3 before it was gathered)"
    if value.shape != shape:
        return f"{label} has shape {found}, the model needs {list(shape)}"
    what = fault(value, dtype)
    return f"{label} {what}" if what else None


def fault(value: Tensor, dtype: torch.dtype) -> str | None:
    """What is wrong with the numbers of a tensor that is to be read as `dtype`; None if nothing."""
    if not value.is_floating_point() or value.dtype.itemsize < 2:
        name = str(value.dtype).removeprefix("torch.")
        return f"is of {name}, without the scales that would make numbers of it; expected floats"
    if not value.numel():
        return None
    most = max(abs(float(end)) for end in value.aminmax())  # NaN if one is; makes no copy
    if not math.isfinite(most):
        return "holds NaN or infinite numbers; all must be finite"
    if most > torch.finfo(dtype).max:
        return f"holds numbers beyond {dtype}; choose another dtype"
    return None


def compare_part(
    sources: Iterable[Path],
    own: Mapping[str, Tensor],
    *,
    keys: Mapping[str, str],
    part: str,
    named: Path,
) -> int:
    """How many tensors of a checkpoint repeat a part that lies in files of its own.

    `keys` translates those of `sources` to those of `own`, the weights of the part in `named`.

    Raises:
        BadInput: one differs by more than its rounding; which one is meant, nobody knows.
    """
    count = 0
    starts = tuple({pattern.partition("{}")[0] for pattern in keys})
    for path in sources:
        for key, value in read_tensors(path, below=starts):
            mine = own.get(translate(key, keys) or "")
            if mine is None:
                continue
            count += 1
            coarse = min(value.dtype, mine.dtype, key=lambda kind: kind.itemsize)
            pair = (value.to(coarse).double(), mine.to(coarse).double())
            eps = torch.finfo(coarse).eps
            if value.shape != mine.shape or not torch.allclose(*pair, rtol=eps, atol=1e-7):
                raise BadInput(
                    f"{path}: {key} differs from {named}: this checkpoint was trained with its own "
                    f"part {part}; name files with the checkpoint's {part} as {part}"
                )
    return count


def listed(problems: list[str]) -> str:
    """The first problems of a list, one a line, and how many more there are."""
    more = len(problems) - _SHOWN
    lines = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
    return lines + (f"\n  and {more} more" if more > 0 else "")


def fill(
    module: nn.Module,
    files: Iterable[Path],
    *,
    keys: Mapping[str, str],
    ignored: Mapping[str, str],
    changes: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({}),
    **to: Unpack[Placement],
) -> None:
    """Fill a module that was built on the meta device; each tensor goes straight to its place.

    Args:
        module: its empty parameters become frozen ones.
        files: files of the checkpoint, in any order.
        keys: table of the checkpoint's keys -> the module's parameter names.
        ignored: table of keys that are left out -> why.
        changes: parameter name -> what the file's tensor becomes before it is read.
        to: dtype and device of the parameters.

    Raises:
        BadInput: lists all keys that are missing, unexpected, of another shape, empty, or no
            finite floating-point numbers.
    """
    empty = dict(module.named_parameters())
    filled: dict[str, nn.Parameter] = {}
    problems: dict[str, str] = {}  # key -> what is wrong with it
    sources = list(files)
    # disable=None: shown in a terminal, never in a file or a notebook's output
    bar = tqdm(total=len(empty), desc="weights", unit=" tensors", disable=None, leave=False)
    for path in sources:
        for key, value in read_tensors(path):
            name = translate(key, keys)
            if name is None or name not in empty:
                if translate(key, dict.fromkeys(ignored, "")) is None:
                    problems[key] = f"unexpected key {key!r} in {path.name}"
                continue
            if name in changes and value.numel():
                value = changes[name](value)
            label = f"{key!r} in {path.name}"
            if wrong := _misfit(label, value, empty[name].shape, to["dtype"]):
                problems[key] = wrong
                continue
            filled[name] = _placed(empty[name], value, **to)
            bar.update()
    bar.close()
    for name in empty:
        if name not in filled:
            key = translate_back(name, keys) or name
            problems.setdefault(key, f"missing key {key!r} (for {name})")
    if problems:
        places = ", ".join(str(path) for path in sources[:3])
        lines = listed(list(problems.values()))
        raise BadInput(f"{places}: {len(problems)} keys do not fit the model:{lines}")
    for name, parameter in filled.items():
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, parameter)


def _placed(
    empty: nn.Parameter, value: Tensor, *, dtype: torch.dtype, device: torch.device
) -> nn.Parameter:
    """The frozen parameter that takes the place of `empty`; quantised if that is."""
    if type(empty) is nn.Parameter:
        return frozen(value.to(device=device, dtype=dtype, copy=True))
    kind: Any = type(empty)  # of bitsandbytes: it quantises when it is moved to its device
    if hasattr(empty, "quant_type"):
        names = ("quant_type", "compress_statistics", "module")
        fields = {name: getattr(empty, name) for name in names}
    else:
        fields = {"has_fp16_weights": False}
    return kind(value.to(dtype), requires_grad=False, **fields).to(device)


def frozen(value: Tensor) -> nn.Parameter:
    """A parameter that is not trained."""
    return nn.Parameter(value, requires_grad=False)


def quantise(model: LlamaForCausalLM, quantization: str, *, dtype: torch.dtype) -> None:
    """Put layers of 4 or 8 bits, still empty, in place of the linear ones; `fill` fills them.

    The linear layers between embedding and head change, by bitsandbytes, and nothing else. They
    compute in `dtype`.

    Raises:
        BadInput: bitsandbytes is not installed.
    """
    if quantization == "none":
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadInput(
            f"quantization: {quantization} needs bitsandbytes; pip install -e '.[qlora]'"
        )
    for name, layer in list(model.model.layers.named_modules()):
        if isinstance(layer, nn.Linear):
            parent, _, last = name.rpartition(".")
            owner = model.model.layers.get_submodule(parent)
            setattr(owner, last, _empty_quantised(layer, quantization, dtype))
    # How peft learns which kind of layer it wraps.
    setattr(model, "is_loaded_in_8bit" if quantization == "int8" else "is_loaded_in_4bit", True)


def is_quantised(model: nn.Module) -> bool:
    """Whether `quantise` has changed it."""
    flags = ("is_loaded_in_4bit", "is_loaded_in_8bit")
    return any(getattr(model, flag, False) for flag in flags)


def _empty_quantised(layer: nn.Linear, quantization: str, dtype: torch.dtype) -> nn.Module:
    # Imported here: most models are not quantised, and its import takes a while.
    from bitsandbytes.nn import modules  # pyright: ignore[reportMissingImports]

    sizes = (layer.in_features, layer.out_features, layer.bias is not None)
    if quantization == "int8":
        return modules.Linear8bitLt(
            *sizes, has_fp16_weights=False, threshold=_OUTLIERS, device="meta"
        )
    packed = modules.Linear4bit(*sizes, compute_dtype=dtype, quant_type=quantization, device="meta")
    # On some CPUs a forward without gradient would repack the weights, and training fails after it.
    packed.support_avx512bf16_for_cpu = False
    return packed
