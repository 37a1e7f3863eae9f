"""Checkpoint files in, checkpoint files out: lazy, safe, and every key accounted for.

A key table is data: `{"model.mm_projector.0.{}": "connector.0.{}"}`, where `{}` stands for any end
of the key. The first row that fits wins. A table of ignored keys says for each why nobody needs it.
"""

import dataclasses
import importlib.util
import json
import logging
import pickle
import re
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaForCausalLM

from hadpo import plugins
from hadpo.records import BadInput, replacing, write_text
from hadpo.vlm import decoder
from hadpo.vlm.prompt import LlamaTokenizer

INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_NAMES = ("model.safetensors", "pytorch_model.bin")
SHARD_BYTES = 5 * 10**9
_UNREADABLE = (  # what torch.load raises on files that are cut off, or no checkpoints at all
    *(RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError),
    *(pickle.UnpicklingError, struct.error),
)
_SHOWN = 8  # keys that an error message spells out


def weight_files(folder: Path, *, what: str) -> list[Path]:
    """Files that hold the weights of a checkpoint folder: one, or the shards its index names.

    Raises:
        BadInput: no such folder, no weights in it, or a shard of the index is missing.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise BadInput(f"{what}: no folder {folder}; download it, or mend the path")
    for name in INDEX_NAMES:
        if (folder / name).is_file():
            index = read_json(folder / name)
            shards = sorted({folder / shard for shard in index.get("weight_map", {}).values()})
            lost = [shard.name for shard in shards if not shard.is_file()]
            if lost or not shards:
                found = (
                    f"{len(lost)} of {len(shards)} shards are missing: {', '.join(lost[:_SHOWN])}"
                )
                raise BadInput(f"{what}: {folder / name}: {found}; download the folder again")
            return shards
    for name in SINGLE_NAMES:
        if (folder / name).is_file():
            return [folder / name]
    names = ", ".join(sorted(p.name for p in folder.iterdir())[:_SHOWN]) or "nothing"
    expected = ", ".join(SINGLE_NAMES + INDEX_NAMES)
    raise BadInput(f"{what}: no weights in {folder} (found {names}; expected one of {expected})")


def read_json(path: Path) -> dict:
    """A JSON object from a file; BadInput if it is missing or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"no file {path}; a checkpoint folder needs it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of all weights in one file, one after the other, on the CPU.

    `.safetensors` and zip-format `.bin` / `.pth` files are mapped, not read whole; nothing in them
    is ever executed. A `.pth` that keeps its weights under "model" is read there.

    Raises:
        BadInput: the file is missing, truncated, a Git LFS pointer, a web page, or no checkpoint.
    """
    _check_start(path)
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    yield key, file.get_tensor(key)
        except SafetensorError as error:
            raise _broken(path, error) from error
        return
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except _UNREADABLE as error:
        raise _broken(path, error) from error
    if isinstance(values, Mapping) and isinstance(values.get("model"), Mapping):
        values = values["model"]
    if not isinstance(values, Mapping):
        raise BadInput(f"{path}: expected a table of tensors, found {type(values).__name__}")
    for key, value in values.items():
        if isinstance(value, Tensor):
            yield key, value


def fill(
    module: nn.Module,
    files: Iterable[Path],
    *,
    keys: Mapping[str, str],
    ignored: Mapping[str, str],
    dtype: torch.dtype,
    device: torch.device,
    rows: Mapping[str, int] | None = None,
) -> None:
    """Fill a module that was built on the meta device; each tensor goes straight to its place.

    Args:
        module: parameters on the meta device; they become frozen parameters of `dtype` on `device`.
        files: files of the checkpoint, in any order.
        keys: table of the checkpoint's keys -> the module's parameter names.
        ignored: table of keys that are left out -> why.
        dtype: of the parameters.
        device: of the parameters.
        rows: parameter name -> rows to keep; a checkpoint may have rows that no text uses.

    Raises:
        BadInput: lists all keys that are missing, unexpected, of another shape, or empty.
    """
    wanted = dict(module.named_parameters())
    expected = {name: tuple(p.shape) for name, p in wanted.items()}
    problems: list[str] = []
    seen: dict[str, nn.Parameter] = {}
    sources = list(files)
    # disable=None: shown in a terminal, never in a file or a notebook's output
    bar = tqdm(total=len(expected), desc="weights", unit=" tensors", disable=None, leave=False)
    for path in sources:
        for key, value in read_tensors(path):
            name = translate(key, keys)
            if name is None or name not in expected:
                if translate(key, dict.fromkeys(ignored, "")) is None:
                    problems.append(f"unexpected key {key!r} in {path.name}")
                continue
            if value.numel() == 0:
                problems.append(f"{key!r} in {path.name} is empty, shape {list(value.shape)}")
                continue
            if rows and name in rows:
                value = value[: rows[name]]
            if tuple(value.shape) != expected[name]:
                problems.append(
                    f"{key!r} in {path.name} has shape {list(value.shape)}, "
                    f"the model needs {list(expected[name])}"
                )
                continue
            seen[name] = read_onto(wanted[name], value, dtype=dtype, device=device)
            bar.update()
    bar.close()
    wrong = {problem.split("'")[1] for problem in problems}
    for name in expected:
        if name not in seen:
            fitting = [k for k in keys if translate_back(name, k, keys[k])]
            source = translate_back(name, fitting[0], keys[fitting[0]]) if fitting else name
            if source not in wrong:
                problems.append(f"missing key {source!r} (for {name})")
    if problems:
        rest = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        places = ", ".join(str(path) for path in sources[:3])
        lines = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
        raise BadInput(f"{places}: {len(problems)} keys do not fit the model:{lines}{rest}")
    for name, parameter in seen.items():
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, parameter)


def translate(key: str, table: Mapping[str, str]) -> str | None:
    """What the first fitting row of `table` makes of `key`; None where no row fits."""
    for pattern, target in table.items():
        start, hole, end = pattern.partition("{}")
        if not hole:
            if key == pattern:
                return target
        elif key.startswith(start) and key.endswith(end) and len(key) > len(start) + len(end):
            return target.replace("{}", key[len(start) : len(key) - len(end)])
    return None


def translate_back(name: str, pattern: str, target: str) -> str | None:
    """The key that the row `pattern -> target` turns into `name`; None where it cannot."""
    return translate(name, {target: pattern})


def write_tensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    shard_bytes: int,
    dtype: torch.dtype | None = None,
) -> None:
    """Write weights as safetensors: one file, or shards and their index, atomically per file.

    Args:
        folder: loses the weights that it had.
        tensors: on any device.
        shard_bytes: largest file.
        dtype: of the files; one shard at a time is cast. None: as the tensors are.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for key, value in tensors.items():
        n_bytes = value.numel() * (dtype or value.dtype).itemsize
        if size and size + n_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += n_bytes
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for old in [*folder.glob("model*.safetensors"), folder / INDEX_NAMES[0]]:
        if old.name not in names:  # an index of earlier weights would win over the new file
            old.unlink(missing_ok=True)
    for name, keys in zip(names, shards, strict=True):
        shard = {key: tensors[key].detach().to("cpu", dtype).contiguous() for key in keys}
        with replacing(folder / name) as part:
            save_file(shard, part, metadata={"format": "pt"})
    if len(shards) > 1:
        places = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        index = {"metadata": {}, "weight_map": places}
        write_text(folder / INDEX_NAMES[0], json.dumps(index, indent=1))


def _check_start(path: Path) -> None:
    """Tell a downloaded web page or an LFS pointer from weights."""
    if not path.is_file():
        raise BadInput(f"no file {path}; download it, or mend the path")
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(b"version https://git-lfs"):
        raise BadInput(f"{path}: a Git LFS pointer, not weights; run `git lfs pull` in its folder")
    if start[:14].lower().startswith((b"<!doctype", b"<html")):
        raise BadInput(f"{path}: a web page, not weights; download the file itself")
    if not start:
        raise BadInput(f"{path}: an empty file; download it again")


def _broken(path: Path, error: Exception) -> BadInput:
    size = path.stat().st_size
    names_code = re.search(r"GLOBAL (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and names_code:
        return BadInput(
            f"{path}: a pickle with code in it ({names_code[1]}), not tensors; refused, as loading "
            "it would run that code: get the weights as .safetensors, or from the authors"
        )
    reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    return BadInput(
        f"{path}: truncated or no checkpoint ({size} bytes: {reason}); download it again"
    )


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


# Where a part of a backbone lies: a path, or a repository of the model hub.

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


# Files of bare tensors, whose sizes no config states: the published ones, or those of a JSON
# file.

Sizes = TypeVar("Sizes")
_SUFFIXES = (".pth", ".safetensors", ".bin")


def find_weights(place: Path, *, what: str) -> Path:
    """The file of weights: `place` itself, or the only one in that folder.

    Raises:
        BadInput: a folder with no file of weights, or with several.
    """
    if place.is_file():
        return place
    found = sorted(path for path in place.iterdir() if path.suffix in _SUFFIXES)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise BadInput(f"{what}: {place} has {len(found)} files of weights ({names}); name one")
    return found[0]


def read_sizes(path: Path, kind: type[Sizes]) -> Sizes:
    """Sizes of the weights `path`; a JSON file of the same name may change the published ones.

    Args:
        path: a file of weights.
        kind: a dataclass of whole numbers whose defaults are the published sizes.

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


# A LLaMA folder, as Meta's and Vicuna's weights are passed around: config, tokenizer, weights.

PUBLISHED_WIDTHS = {4096: "7b", 5120: "13b"}
_LEAST_NORM = 0.05  # mean of the last norm's weights: around 1 in a LLaMA, nearly 0 in a difference
LLAMA_KEYS = {"model.{}": "model.{}", "lm_head.weight": "lm_head.weight"}


@dataclass(frozen=True, kw_only=True)
class LlamaFolder:
    """What a folder holds beside its weights; `model` is still empty, on the meta device."""

    path: Path
    config: dict[str, Any]
    tokenizer: LlamaTokenizer
    model: LlamaForCausalLM

    @staticmethod
    def open(path: Path) -> "LlamaFolder":
        """Read config and tokenizer.

        Raises:
            BadInput: a file is missing or broken, or they are of different models.
        """
        config = read_json(path / "config.json")
        return LlamaFolder.of(path, config)

    @staticmethod
    def of(path: Path, config: Mapping[str, Any]) -> "LlamaFolder":
        """The folder with a config that was read elsewhere; errors as in `open`."""
        where = str(path / "config.json")
        kind = config.get("model_type", "llama")
        if kind != "llama":
            raise BadInput(f"{where}: model_type {kind!r}; expected a plain LLaMA folder")
        tokenizer = LlamaTokenizer(path)
        model = decoder.build_llama(config, where=where)
        tokenizer.check_rows(model.config.vocab_size, where=str(where))
        return LlamaFolder(path=path, config=dict(config), tokenizer=tokenizer, model=model)

    def check_width(self, wanted: int, *, name: str) -> None:
        """Refuse the published size of another variant; sizes that were never published pass.

        Raises:
            BadInput: for example a 13B folder for a 7B variant.
        """
        width = self.model.config.hidden_size
        check_width(self.path / "config.json", width, wanted, name=name)


def check_width(path: Path, width: int, wanted: int, *, name: str) -> None:
    """As `LlamaFolder.check_width`, of the `config.json` at `path`."""
    if width != wanted and width in PUBLISHED_WIDTHS:
        raise BadInput(
            f"{path}: hidden_size {width}, a {PUBLISHED_WIDTHS[width].upper()} model; {name} is "
            f"made for {wanted}: choose the other variant, or the folder of this one"
        )


def fill_llama(
    model: LlamaForCausalLM, folder: Path, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Read the weights, shard by shard.

    Raises:
        BadInput: keys do not fit, or these are differences of weights (Vicuna's "delta").
    """
    fill(
        model,
        weight_files(folder, what="language_model"),
        keys=LLAMA_KEYS,
        ignored=decoder.STORED_TABLES,
        dtype=dtype,
        device=device,
    )
    norm = float(model.model.norm.weight.abs().float().mean())
    if norm < _LEAST_NORM:
        raise BadInput(
            f"{folder}: these look like delta weights (the last norm's are {norm:.3f} on average); "
            "add them to LLaMA's first, with FastChat's apply_delta, and name the merged folder"
        )


def save_llama(
    folder: Path,
    model: LlamaForCausalLM,
    *,
    config: Mapping[str, Any],
    tokenizer: LlamaTokenizer,
    dtype: torch.dtype,
) -> None:
    """Write a LLaMA folder; rows of the vocabulary beyond the config's are left out."""
    rows = config["vocab_size"]
    weights = {}
    for name, value in model.state_dict().items():
        key = translate(name, LLAMA_KEYS)
        if key is None:
            continue
        if key in ("model.embed_tokens.weight", "lm_head.weight"):
            value = value[:rows]
        weights[key] = value.detach().to(device="cpu", dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, weights, shard_bytes=SHARD_BYTES)
    written = {**config, "torch_dtype": str(dtype).removeprefix("torch.")}
    write_text(folder / "config.json", json.dumps(written, indent=1))
    for path in tokenizer.path.parent.glob("*token*"):
        if path.suffix in (".model", ".json") and path.parent != folder:
            shutil.copyfile(path, folder / path.name)


# Language models in 4 or 8 bits, by bitsandbytes: the linear layers between embedding and head.

# Its import, which peft's brings about, warns on some CPUs that an optional kernel is absent.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_OUTLIERS = 6.0  # LLM.int8(): input columns with a larger value stay in 16 bits


def quantise(model: LlamaForCausalLM, quantization: str, *, dtype: torch.dtype) -> None:
    """Put quantised layers, still empty, in place of the linear ones; `placed` fills them.

    Args:
        model: on the meta device.
        quantization: "none" leaves it as it is; or "nf4", "fp4", "int8".
        dtype: that the layers compute in.

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
            setattr(
                model.model.layers.get_submodule(parent),
                last,
                _empty_quantised(layer, quantization, dtype),
            )
    # How peft learns which kind of layer it wraps.
    setattr(model, "is_loaded_in_8bit" if quantization == "int8" else "is_loaded_in_4bit", True)


def is_quantised(model: nn.Module) -> bool:
    """Whether `replace` has changed it."""
    flags = ("is_loaded_in_4bit", "is_loaded_in_8bit")
    return any(getattr(model, flag, False) for flag in flags)


def read_onto(
    wanted: nn.Parameter, value: Tensor, *, dtype: torch.dtype, device: torch.device
) -> nn.Parameter:
    """The frozen parameter that takes the place of the empty `wanted`; quantised where that is."""
    if type(wanted) is nn.Parameter:
        copied = value.to(device=device, dtype=dtype, copy=True)
        return nn.Parameter(copied, requires_grad=False)
    kind: Any = type(wanted)  # of bitsandbytes: it quantises when it is moved to its device
    if hasattr(wanted, "quant_type"):
        names = ("quant_type", "compress_statistics", "module")
        fields = {name: getattr(wanted, name) for name in names}
    else:
        fields = {"has_fp16_weights": False}
    return kind(value.to(dtype), requires_grad=False, **fields).to(device)


def _empty_quantised(layer: nn.Linear, quantization: str, dtype: torch.dtype) -> nn.Module:
    # Imported here: most models are not quantised, and its import takes a while.
    from bitsandbytes.nn import modules  # pyright: ignore[reportMissingImports]

    sizes = (layer.in_features, layer.out_features, layer.bias is not None)
    if quantization == "int8":
        return modules.Linear8bitLt(
            *sizes, has_fp16_weights=False, threshold=_OUTLIERS, device="meta"
        )
    made = modules.Linear4bit(*sizes, compute_dtype=dtype, quant_type=quantization, device="meta")
    # On some CPUs a forward without gradient would repack the weights, and training fails after it.
    made.support_avx512bf16_for_cpu = False
    return made
