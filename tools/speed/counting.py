"""Count what a callable does at true sizes, without a device: operations, bytes, launches, waits.

Floating tensors lie on the meta device and stand for the GPU; integers and bools are real, on the
CPU, so that masks, indices and lengths take the branches that they would take. What floats decide
(argmax, isfinite) is 0 or True. The counts are a lower bound of what a GPU does: sort, topk and
nonzero launch more than one kernel.
"""

from __future__ import annotations

import collections
import math
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import CausalBias
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from hadpo.cost import GPUS
from hadpo.vlm import attention

META, CPU = torch.device("meta"), torch.device("cpu")
LAUNCH_SECONDS = 5e-6  # of the host, for a kernel
GPU_NAMES = ("V100", "A100", "H100")

# Attention as one operation each way, however many kernels it has here: a mask keeps no kernel from
# looking everywhere, so only causal attention counts the looks that it takes.
FULL, CAUSAL, MASKED = 0, 1, 2  # CAUSAL: lower right
_library = torch.library.Library("speed_count", "DEF")
_library.define("attend(Tensor q, Tensor k, Tensor v, Tensor? mask, int kind) -> (Tensor, Tensor)")
_library.define(
    "attend_back(Tensor g, Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor o, Tensor sums, "
    "int kind) -> (Tensor, Tensor, Tensor)"
)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kind: int):
    output = q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3]).transpose(1, 2)
    return output, q.new_empty(q.shape[:-1], dtype=torch.float32)


def _attend_back(g: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any):
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


for _place in ("Meta", "CPU"):
    _library.impl("attend", _attend, _place)
    _library.impl("attend_back", _attend_back, _place)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, kind: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        output, sums = torch.ops.speed_count.attend(q, k, v, mask, kind)
        ctx.save_for_backward(q, k, v, mask, output, sums)
        ctx.kind = kind
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        back = torch.ops.speed_count.attend_back(gradient, *ctx.saved_tensors, ctx.kind)
        return *back, None, None


def _sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> Any:
    if isinstance(attn_mask, CausalBias):
        return _Attention.apply(query, key, value, None, CAUSAL)
    if attn_mask is not None:
        return _Attention.apply(query, key, value, attn_mask, MASKED)
    kind = CAUSAL if is_causal and query.shape[-2] > 1 else FULL
    return _Attention.apply(query, key, value, None, kind)


_FREE = {  # neither a view nor a kernel
    *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"),
    *("detach", "detach_", "alias", "lift", "lift_fresh", "_unsafe_view", "_reshape_alias"),
    *("expand", "_local_scalar_dense", "set_", "resize_", "is_same_size"),
}
_GATHERS = {"embedding", "index", "gather", "index_select"}
_SCATTERS = {"index_copy_", "index_fill_", "index_put_", "scatter_", "scatter_add_"}
_FILLS = {"copy_", "fill_", "zero_"}
_A_KERNEL = {"_foreach": 100, "_fused": 150}  # start of a name -> tensors of one launch


def _bytes(tensor: Tensor) -> int:
    """Of what is read or written: a dimension of stride 0 counts once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(size for size, stride in sizes if stride)


class Count(TorchDispatchMode):
    """Sums over all that runs within it.

    Attributes:
        operations: dtype of the matrices -> operations of products, two for each multiplication.
        product_bytes: that products and attention read and write; other_bytes: all else that does.
        launches: of kernels.
        waits: how often the host waits for a number; copies: from host memory that is not pinned.
        live, peak: bytes of floating tensors on the device, without those that `known` named.
        where: a wait or a copy -> how often, by the line of code that asked.
        trace: every launch with shapes and dtypes, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: collections.Counter[str] = collections.Counter()  # whole numbers
        self.names: collections.Counter[str] = collections.Counter()
        self.where: collections.Counter[str] = collections.Counter()
        self.product_bytes = self.other_bytes = self.launches = 0
        self.waits = self.copies = self.live = self.peak = 0
        self.rows: list[tuple[float, str, int]] = []  # operations, dtype, bytes of each launch
        self.trace: list[Any] = []
        self._storages: dict[int, Any] = {}
        self._patches = ExitStack()

    def known(self, *modules: nn.Module) -> None:
        """Leave the weights of these modules out of `live`."""
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                storage = tensor.untyped_storage()
                self._storages[id(storage)] = lambda kept=storage: kept

    def seconds(self, gpu: str) -> tuple[float, float]:
        """Modelled time of a GPU of `cost.GPUS`, and of the host.

        Each launch takes the larger of its operations over the peak of their dtype (float32 without
        TF32) and its bytes over the bandwidth.
        """
        kind = GPUS[gpu]
        device = 0.0
        for operations, dtype, size in self.rows:
            peak = (kind.peaks.float32_tflops if dtype == "float32" else kind.peaks.tflops) * 1e12
            device += max(operations / peak, size / (kind.peaks.gigabytes_a_second * 1e9))
        return device, self.launches * LAUNCH_SECONDS

    # Dispatch: integers are real, floats are not.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation on what stands for its tensors, and count it."""
        kwargs = dict(kwargs or {})
        name = func._overloadpacket.__name__
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if name == "_local_scalar_dense":
            self._wait("item")
            return func(*args, **kwargs) if tensors[0].device == CPU else _decided(tensors[0])
        place = kwargs.get("device")
        place = None if place is None else torch.device(place)
        if place is not None and not tensors:
            return self._make(func, name, args, kwargs, place)
        if name == "_to_copy" and place is not None:
            moved = self._move(args, kwargs, place, tensors[0])
            if moved is not None:
                return moved
        elif place == META and kwargs.get("dtype") and not kwargs["dtype"].is_floating_point:
            kwargs["device"] = CPU
        on_device = any(t.device.type == "meta" for t in tensors)
        args = self._without_bool_indices(name, args, on_device)
        if on_device:
            with _disable_current_modes():
                args, kwargs = tree_map(_onto_meta, (args, kwargs))
        out = func(*args, **kwargs)
        if on_device and not name.endswith("_") and not func.is_view:
            with _disable_current_modes():
                out = tree_map(_made_real, out)
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self._count(func, name, tensors, results, args, kwargs, out)
        for tensor in results:
            self._keep(tensor)
        return out

    def _make(self, func: Any, name: str, args: Any, kwargs: dict[str, Any], place: Any) -> Any:
        """A new tensor out of nothing."""
        out = func(*args, **kwargs)
        if place == META and isinstance(out, Tensor) and not out.is_floating_point():
            out = func(*args, **(kwargs | {"device": CPU}))
        self._count(func, name, [], [out], args, kwargs, out)
        self._keep(out)
        return out

    def _move(self, args: Any, kwargs: dict[str, Any], place: Any, tensor: Tensor) -> Any:
        """A copy between host and device; None: the operation runs, with `kwargs` as they are."""
        dtype = kwargs.get("dtype") or tensor.dtype
        if place == META:
            if tensor.device.type == "cpu":
                self._copy("to the device")
            if not dtype.is_floating_point:
                kwargs["device"] = CPU
                if tensor.device.type == "cpu" and kwargs.get("dtype") is None:
                    return tensor.clone()
        elif place == CPU and tensor.device.type == "meta":
            self._wait("to the CPU")
            kwargs["device"] = META
        return None

    def _without_bool_indices(self, name: str, args: Any, on_device: bool) -> Any:
        """Positions in place of masks, whose number the host must wait for."""
        if name in ("nonzero", "masked_select"):
            self._wait(name)
        if name not in ("index", "index_put", "index_put_"):
            return args
        if not any(i is not None and i.dtype == torch.bool for i in args[1]):
            return args
        self._wait("a mask as an index")
        if not on_device:
            return args
        places: list[Tensor | None] = []
        for index in args[1]:
            if index is not None and index.dtype == torch.bool:
                places += index.nonzero(as_tuple=True)
            else:
                places.append(index)
        return (args[0], places, *args[2:])

    # What is counted.

    def _count(
        self,
        func: Any,
        name: str,
        given: Sequence[Tensor],
        results: Sequence[Tensor],
        args: Any,
        kwargs: dict[str, Any],
        out: Any,
    ) -> None:
        if func.is_view or name in _FREE:
            return
        self.trace.append((name, tuple((tuple(t.shape), str(t.dtype)) for t in given)))
        both = sum(map(_bytes, given)) + sum(map(_bytes, results))
        if name in ("attend", "attend_back"):
            is_back = name == "attend_back"
            q, k = given[is_back], given[is_back + 1]
            operations = (10 if is_back else 4) * q.shape[3] * q.shape[0] * q.shape[1]
            self._add(name, operations * _looks(q.shape[2], k.shape[2], args[-1]), q, both)
            self.launches += is_back  # two kernels
        elif func._overloadpacket in flop_registry:
            operations = flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
            self._add(name, operations, given[name in ("addmm", "addmm_", "baddbmm")], both)
        else:
            many = next((n for start, n in _A_KERNEL.items() if name.startswith(start)), 0)
            self.launches += math.ceil(max(1, len(given)) / many) if many else 1
            size = self._traffic(name, given, results, args, both)
            self.other_bytes += size
            self.names[name] += 1
            self.rows.append((0.0, "", size))

    def _add(self, name: str, operations: int, matrix: Tensor, size: int) -> None:
        dtype = str(matrix.dtype).removeprefix("torch.")
        self.operations[dtype] += operations
        self.product_bytes += size
        self.launches += 1
        self.names[f"{name} {dtype}"] += 1
        self.rows.append((operations, dtype, size))

    def _traffic(
        self, name: str, given: Sequence[Tensor], results: Sequence[Tensor], args: Any, both: int
    ) -> int:
        if name in _GATHERS and given:
            indices = [t for t in given[1:] if not t.is_floating_point()]
            return 2 * sum(map(_bytes, results)) + sum(map(_bytes, indices))
        if name in _SCATTERS:
            return 2 * sum(map(_bytes, given[1:]))
        if name in _FILLS:
            return sum(map(_bytes, given))
        if name.startswith("_foreach") and not results:
            return both + sum(map(_bytes, args[0]))
        return both

    def _keep(self, tensor: Any) -> None:
        """Follow the storage of a tensor of the device until it is freed."""
        if not isinstance(tensor, Tensor) or tensor.device.type != "meta":
            return
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        known = self._storages.get(key)
        if known is not None and known() is storage:
            return

        def forget(reference: Any) -> None:
            self.live -= size
            if self._storages.get(key) is reference:
                del self._storages[key]

        self._storages[key] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _wait(self, what: str) -> None:
        self.waits += 1
        self.where[f"wait: {what}, {_caller()}"] += 1

    def _copy(self, what: str) -> None:
        self.copies += 1
        self.where[f"copy: {what}, {_caller()}"] += 1

    def __enter__(self) -> Count:
        """Patch what is not dispatched: attention, `torch.tensor` and `tolist`."""
        make, tolist = torch.tensor, Tensor.tolist

        def tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            if device is None or torch.device(device) != META:
                return make(data, *args, device=device, **kwargs)
            self._copy("torch.tensor")
            made = make(data, *args, **kwargs)
            return made.to(META) if made.is_floating_point() else made

        def counted(one: Tensor) -> Any:
            self._wait("tolist")
            return tolist(one)

        def lower_right(queries: int, keys: int) -> Any:  # a subclass that no mode can make
            with _disable_current_modes():
                return make_bias(queries, keys)

        make_bias = attention.causal_lower_right
        for owner, name, new in (
            (attention, "causal_lower_right", lower_right),
            (F, "scaled_dot_product_attention", _sdpa),
            (torch, "tensor", tensor),
            (Tensor, "tolist", counted),
        ):
            self._patches.enter_context(mock.patch.object(owner, name, new))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Take the patches back."""
        super().__exit__(*error)
        self._patches.close()


def _looks(queries: int, keys: int, kind: int) -> int:
    """Pairs of positions of one row and head."""
    if kind != CAUSAL:
        return queries * keys
    return queries * (keys - queries) + queries * (queries + 1) // 2


def _decided(tensor: Tensor) -> float | int:
    return 1.0 if tensor.is_floating_point() else 1


def _onto_meta(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.device.type != "cpu":
        return value
    return value.to(META) if value.dim() > 0 or value.is_floating_point() else value


def _made_real(value: Any) -> Any:
    """An integer or truth that floats decided: 0, or True."""
    if not isinstance(value, Tensor) or value.device.type != "meta" or value.is_floating_point():
        return value
    fill = torch.ones if value.dtype == torch.bool else torch.zeros
    return fill(value.shape, dtype=value.dtype, device=CPU)


def _caller() -> str:
    """The line of hadpo, or of a peer, that made the host wait."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        is_theirs = any(p in path for p in ("/hadpo/", "/trl/", "/transformers/", "/liger"))
        if is_theirs and not path.endswith("counting.py"):
            return f"{'/'.join(path.split('/')[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


@contextmanager
def one_kernel_each() -> Iterator[None]:
    """Norm, rotary and SwiGLU as one launch each way, as Liger's kernels are; only to count."""
    from transformers.models.llama import modeling_llama as llama

    def mlp(self: Any, x: Tensor) -> Tensor:
        return self.down_proj(_Gate.apply(self.gate_proj(x), self.up_proj(x)))

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, **_: Any) -> Any:
        return _Rotary.apply(q, k, cos, sin)

    def norm(self: Any, x: Tensor) -> Any:
        return _Norm.apply(x, self.weight)

    with (
        mock.patch.object(llama.LlamaRMSNorm, "forward", norm),
        mock.patch.object(llama.LlamaMLP, "forward", mlp),
        mock.patch.object(llama, "apply_rotary_pos_emb", rotate),
    ):
        yield


_KERNELS = {
    "gate(Tensor g, Tensor u) -> Tensor": lambda g, u: torch.empty_like(g),
    "gate_back(Tensor d, Tensor g, Tensor u) -> (Tensor, Tensor)": lambda d, g, u: (
        torch.empty_like(g),
        torch.empty_like(u),
    ),
    "rotary(Tensor q, Tensor k, Tensor c, Tensor s) -> (Tensor, Tensor)": lambda q, k, c, s: (
        torch.empty_like(q),
        torch.empty_like(k),
    ),
    "norm(Tensor x, Tensor w) -> (Tensor, Tensor)": lambda x, w: (
        torch.empty_like(x),
        x.new_empty(x.shape[:-1], dtype=torch.float32),
    ),
    "norm_back(Tensor d, Tensor x, Tensor w, Tensor r) -> Tensor": lambda d, x, w, r: (
        torch.empty_like(x)
    ),
}
for _signature, _function in _KERNELS.items():
    _library.define(_signature)
    _library.impl(_signature.partition("(")[0], _function, "Meta")


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, u: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(g, u)
        return torch.ops.speed_count.gate(g, u)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.ops.speed_count.gate_back(gradient, *ctx.saved_tensors)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(cos, sin)
        return torch.ops.speed_count.rotary(q, k, cos, sin)

    @staticmethod
    def backward(ctx: Any, of_q: Tensor, of_k: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return *torch.ops.speed_count.rotary(of_q, of_k, *ctx.saved_tensors), None, None


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        y, roots = torch.ops.speed_count.norm(x, w)
        ctx.save_for_backward(x, w, roots)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.ops.speed_count.norm_back(gradient, *ctx.saved_tensors), None


class Autocast(TorchFunctionMode):
    """What `torch.autocast` in bfloat16 does to the functions that these models call.

    `torch.autocast` itself knows no meta device. Within it a backward pass runs with the mode on,
    so that what is recomputed is cast, too.
    """

    LOW = frozenset(
        (
            *("linear", "matmul", "__matmul__", "bmm", "mm", "addmm", "baddbmm", "conv2d"),
            *("scaled_dot_product_attention", "_sdpa"),
        )
    )
    HIGH = frozenset(
        (
            *("pow", "__pow__", "rsqrt", "softmax", "log_softmax", "layer_norm", "exp", "log"),
            *("sum", "cumsum", "norm", "logsigmoid"),
        )
    )

    def __init__(self) -> None:
        super().__init__()
        self._casts: dict[int, tuple[Tensor, bool]] = {}  # of weights that learn, as autocast keeps
        self._patches = ExitStack()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function on inputs in the dtype that autocast gives them."""
        name = getattr(func, "__name__", "")
        if name == "backward":
            one = torch.empty((), dtype=args[0].dtype, device=META)
            run: Any = torch.autograd.graph._engine_run_backward  # `backward` would come here again
            with self:
                run((args[0],), (one,), False, False, (), True, accumulate_grad=True)
            return None
        is_low = name in self.LOW
        if is_low or name in self.HIGH:
            dtype = torch.bfloat16 if is_low else torch.float32
            cast = partial(self._cast, dtype=dtype, is_low=is_low)
            args, kwargs = tree_map(cast, (args, kwargs or {}))
        return func(*args, **kwargs or {})

    def _cast(self, value: Any, *, dtype: torch.dtype, is_low: bool) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not (is_low and value.is_leaf and value.requires_grad):
            return value.to(dtype)
        is_graph = torch.is_grad_enabled()
        if id(value) not in self._casts or self._casts[id(value)][1] != is_graph:
            self._casts[id(value)] = value.to(dtype), is_graph
        return self._casts[id(value)][0]

    def __enter__(self) -> Any:
        """Say of the meta device that autocast is on."""
        is_enabled, dtype_of = torch.is_autocast_enabled, torch.get_autocast_dtype

        def enabled(device: str | None = None) -> bool:
            return True if device == "meta" else is_enabled(device) if device else is_enabled()

        def dtype(device: str) -> torch.dtype:
            return torch.bfloat16 if device == "meta" else dtype_of(device)

        self._patches.enter_context(mock.patch.object(torch, "is_autocast_enabled", enabled))
        self._patches.enter_context(mock.patch.object(torch, "get_autocast_dtype", dtype))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Take the patches back."""
        super().__exit__(*error)
        self._patches.close()
