"""The kernels of a decode step one by one on a GPU: `python -m benchmarks.gpu_kernels`.

For each product of Code Llama's shapes and each kind of weights it prints the time, the bandwidth and its
share of the bandwidth of a copy, by configuration, after a check against float32; then the same of attention.
It writes nothing. A case that fails prints why, and the others go on. `--only WORD` picks cases by name.
"""

import argparse
import itertools
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from benchmarks.gpu_models import Shape, cache_of, ids_of, random_model, shapes
from torch import Tensor, nn

from codellama.runtime.cache import CacheKind
from codellama.runtime.fused_step import ONE, Attention, FusedStep, Matrix, Product, Reading, Tile
from codellama.runtime.graphs import GraphedModel
from codellama.runtime.int4 import unpack_words
from codellama.runtime.layers import RMSNorm
from codellama.runtime.linear import Fp8Linear, Int4Linear, Int8Linear, Quantisation
from codellama.runtime.triton_attention import FIELDS

# Outputs, inputs, whether a norm stands before, whether gated.
SHAPES = {
    "7b qkv": (12288, 4096, True, False),
    "7b o": (4096, 4096, False, False),
    "7b gate-up": (22016, 4096, True, True),
    "7b down": (4096, 11008, False, False),
    "7b head": (32000, 4096, True, False),
}
KINDS = ("float", "int8", "fp8", "int4")
TILES = {
    "float": [
        (4, 256, 1, 1, True),
        (4, 256, 1, 1, False),
        (4, 512, 1, 1, True),
        (2, 512, 1, 1, True),
        (8, 256, 1, 1, True),
        (8, 512, 4, 4, False),
    ],
    "int8": [
        (4, 512, 1, 1, True),
        (4, 512, 1, 1, False),
        (2, 512, 1, 1, True),
        (2, 1024, 1, 1, True),
        (8, 1024, 4, 1, True),
        (8, 1024, 4, 3, False),
    ],
    "fp8": [(4, 512, 1, 1, True), (2, 1024, 1, 1, True), (4, 512, 1, 1, False)],
    "int4": [
        (4, 128, 1, 1, True),
        (4, 128, 1, 1, False),
        (2, 128, 1, 1, True),
        (2, 256, 1, 1, True),
        (8, 128, 1, 1, False),
    ],
}
READINGS = [(32, 4, 1), (32, 4, 3), (64, 4, 1), (64, 4, 2), (64, 8, 1)]
# Positions that a cache holds.
LENGTHS = (1000, 8000, 100_000)
# What a measurement repeats within a graph: enough that starting it does not count.
REPEATS = 20
DEVICE = torch.device("cuda")


def seconds(launch: Callable[[int], object]) -> float:
    """The time of one launch inside a CUDA graph of several; `launch` gets the number of the repeat."""
    launch(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for n in range(REPEATS):
            launch(n)
    times = []
    for _ in range(3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000 / REPEATS)
    return min(times)


def copy_bandwidth() -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.empty(2**31, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda _: target.copy_(source))


def layer_of(kind: str, weight: Tensor) -> tuple[Matrix, Callable[[], Tensor]]:
    """A matrix of a kind, and what it computes with in float32."""
    if kind == "int8":
        eight = Int8Linear(weight)
        return Matrix.of(eight), eight.dequantised
    if kind == "fp8":
        floats = Fp8Linear(weight)
        return Matrix.of(floats), lambda: floats.weight.float() * floats.scale.T
    if kind == "int4":
        four = Int4Linear(weight)
        return Matrix.of(four), lambda: unpack_words(four.packed, four.scales, four.group).float()
    plain = nn.Linear(1, 1, bias=False)
    plain.weight = nn.Parameter(weight.bfloat16(), requires_grad=False)
    return Matrix.of(plain), plain.weight.float


def expected(product: Product, x: Tensor, before: Tensor, weight: Tensor) -> Tensor:
    """The same by torch in float32."""
    if product.norm:
        x = (
            x
            * torch.rsqrt(x.square().mean(-1, keepdim=True) + product.norm.eps)
            * product.norm.weight.float()
        )
    y = x @ weight.T
    if product.gated:
        gate, up = y.chunk(2, -1)
        y = nn.functional.silu(gate) * up
    return y + before if product.add else y


def off(found: Tensor, wanted: Tensor) -> float:
    """Relative error."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def figures(nbytes: int, took: float, bandwidth: float) -> str:
    """Time, bandwidth, and what share of a copy's that is."""
    return f"{took * 1e6:.1f} us, {nbytes / took / 1e9:.0f} GB/s, {nbytes / took / bandwidth:.2f}"


def product_case(name: str, kind: str, bandwidth: float, batches: tuple[int, ...]) -> Iterator[str]:
    """Every configuration of one product; the weights stand more than once, so that none stays in L2."""
    outputs, inputs, normed, gated = SHAPES[name]
    weight = torch.empty(outputs, inputs, device=DEVICE).normal_(0, 0.02)
    matrix, whole = layer_of(kind, weight)
    norm = RMSNorm(inputs, 1e-5).to(DEVICE, torch.bfloat16) if normed else None
    nbytes = matrix.weight.nbytes + (matrix.scale.nbytes if matrix.scale is not None else 0)
    copies = [
        replace(
            matrix, weight=matrix.weight.clone(), scale=None if matrix.scale is None else matrix.scale.clone()
        )
        for _ in range(min(-(-(200 << 20) // nbytes), REPEATS))
    ]
    x = torch.randn(16, inputs, device=DEVICE)
    out = torch.zeros(16, outputs // (2 if gated else 1), device=DEVICE)
    wide = whole()
    for rows in batches:
        tiles = [Tile(*numbers) for numbers in TILES[kind]] if rows == 1 else MANY_TILES[kind]
        for tile, magic in itertools.product(
            tiles, (False, True) if kind == "int8" and rows == 1 else (True,)
        ):
            base = Product(matrix, norm, gated, not normed, tile, magic)
            flags = [word for word, on in (("ahead", tile.ahead), ("magic", base.magic)) if on]
            words = f"{name} {kind} batch {rows} {tile.outputs}x{tile.inputs} warps {tile.warps} "
            words += f"stages {tile.stages} {' '.join(flags)}"
            try:
                before = out[:rows].clone()
                base.launch(x, out, rows)
                error = off(out[:rows], expected(base, x[:rows], before, wide))

                def launch(n: int, base: Product = base, rows: int = rows) -> None:
                    replace(base, matrix=copies[n % len(copies)]).launch(x, out, rows)

                took = seconds(launch)
            except Exception:  # noqa: BLE001 - whatever a kernel dies of, the others are to be measured
                yield f"FAILED {words}: " + " | ".join(traceback.format_exc().splitlines()[-3:])
                continue
            yield f"{words}: {figures(nbytes, took, bandwidth)}, error {error:.1e}"


MANY_TILES = {
    kind: [Tile(*numbers) for numbers in rows]
    for kind, rows in {
        "float": [(32, 128, 4, 3), (32, 256, 4, 3), (16, 256, 4, 4)],
        "int8": [(32, 128, 4, 3), (32, 256, 4, 3)],
        "fp8": [(32, 128, 4, 3), (32, 256, 4, 3)],
        "int4": [(32, 32, 4, 2), (32, 64, 4, 2)],
    }.items()
}


def attention_case(shape: tuple[int, int], kind: torch.dtype, bandwidth: float) -> Iterator[str]:
    """Attention at several lengths, its cache's two layers in turn."""
    heads, shared, d, room = *shape, 128, LENGTHS[-1] + 352
    attention = Attention(heads, shared, d, False, DEVICE)
    parts = [torch.zeros(2, shared, room, d, device=DEVICE, dtype=kind) for _ in range(2)]
    parts += [torch.full((2, shared, room), 0.02, device=DEVICE) for _ in range(2)]
    for part in parts[:2]:
        for layer in part:
            noise = torch.randn(shared, room, d, device=DEVICE, dtype=torch.bfloat16)
            layer.copy_((noise * 40).round().clamp(-127, 127) if kind == torch.int8 else noise)
            del noise
    if kind == torch.bfloat16:
        for part in parts[2:]:
            part.fill_(1.0)
    cos, sin = torch.ones(room, d // 2, device=DEVICE), torch.zeros(room, d // 2, device=DEVICE)
    qkv = torch.randn(16, (heads + 2 * shared) * d, device=DEVICE)
    out = torch.zeros(16, heads * d, device=DEVICE)
    for length in LENGTHS:
        entry = [*(part.data_ptr() for part in parts), room, length, cos.data_ptr(), sin.data_ptr()]
        table = torch.tensor([entry] * 16, device=DEVICE)
        assert table.shape[1] == FIELDS
        nbytes = 2 * shared * length * (d * kind.itemsize + (4 if kind.itemsize == 1 else 0))
        for reading in (Reading(*numbers) for numbers in READINGS):
            words = (
                f"attention {heads}/{shared} {kind} at {length} block {reading.block} warps {reading.warps} "
            )
            words += f"stages {reading.stages}"
            try:
                attention.launch(qkv, table, out, 1, 1, kind, reading)
                k, v = (
                    torch.cat(
                        (
                            parts[n][1, :, :length].float() * parts[n + 2][1, :, :length, None],
                            _new(qkv, heads, shared, d, n),
                        ),
                        1,
                    )
                    for n in range(2)
                )
                q = qkv[0, : heads * d].view(shared, heads // shared, d)
                wanted = torch.softmax(q @ k.transpose(1, 2) * d**-0.5, -1) @ v
                error = off(out[0], wanted.flatten())
                del k, v

                def launch(n: int, reading: Reading = reading, table: Tensor = table) -> None:
                    attention.launch(qkv, table, out, n % 2, 1, kind, reading)

                took = seconds(launch)
            except Exception:  # noqa: BLE001
                yield f"FAILED {words}: " + " | ".join(traceback.format_exc().splitlines()[-3:])
                continue
            yield f"{words}: {figures(nbytes, took, bandwidth)}, error {error:.1e}"


def _new(qkv: Tensor, heads: int, shared: int, d: int, part: int) -> Tensor:
    return qkv[0, (heads + part * shared) * d :][: shared * d].view(shared, 1, d)


def step_case(
    size: str, quantize: Quantisation | None, cache: CacheKind | None, bandwidth: float
) -> Iterator[str]:
    """Four layers of a model: steps as captured, of one sequence and of four, against torch's kernels."""
    shape = Shape(replace(shapes()[size].config, n_layers=4))
    model, nbytes = random_model(shape, DEVICE, torch.bfloat16, quantize)
    assert isinstance(model, GraphedModel)
    plain = model._model
    words = f"step {size} {quantize or 'bf16'} cache {cache or 'bf16'}"
    if model._fused is None:
        yield f"FAILED {words}: torch's kernels step"
        return
    caches, others = ([cache_of(model, 256, 0, cache) for _ in range(4)] for _ in range(2))
    for n, one in enumerate(caches + others):
        plain(torch.tensor([ids_of(20 + 30 * (n % 4))], device=DEVICE), one)
    ids = torch.tensor([5, 6, 7, 8], device=DEVICE)
    errors = []
    for _ in range(3):
        errors.append(off(model(ids[None, :1], caches[0]), plain(ids[None, :1], others[0])))
        found = model.together(ids, caches)
        errors.append(
            off(found, torch.cat([plain(i.view(1, 1), c)[0] for i, c in zip(ids, others, strict=True)]))
        )
    kept = [
        off(a.keys[..., : a.length, :], b.keys[..., : a.length, :])
        for a, b in zip(caches, others, strict=True)
    ]
    yield f"{words}: errors {' '.join(f'{error:.1e}' for error in errors)}, keys {max(kept):.1e}"
    step = FusedStep(plain)
    for batch in (1, 4):
        step.set(ids[:batch], caches[:batch])
        kind = caches[0].keys.dtype
        try:
            again = step.compute(batch, kind).clone()
            took = seconds(partial(_step, step, batch, kind))
            error = off(step.compute(batch, kind), again)
        except Exception:  # noqa: BLE001
            yield f"FAILED {words}: " + " | ".join(traceback.format_exc().splitlines()[-3:])
            continue
        yield f"{words} batch {batch}: {figures(nbytes, took, bandwidth)}, again {error:.1e}"


def _step(step: FusedStep, batch: int, kind: torch.dtype, _: int) -> Tensor:
    return step.compute(batch, kind)


def main() -> None:
    """Runs the cases until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--batches", default="1")
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    began = time.perf_counter()
    bandwidth = copy_bandwidth()
    print(torch.cuda.get_device_name(), f"copy {bandwidth / 1e9:.0f} GB/s", flush=True)
    batches = tuple(int(word) for word in arguments.batches.split(","))
    cases: list[tuple[str, Callable[[], Iterator[str]]]] = []
    steps: list[tuple[str, Quantisation | None, CacheKind | None]] = [
        ("7b", None, None),
        ("7b", "int8", None),
        ("7b", "fp8", None),
        ("7b", "int4", None),
        ("7b", None, "int8"),
        ("7b", None, "fp8"),
        ("34b", None, None),
        ("34b", None, "int8"),
    ]
    for size, quantize, cache in steps:
        cases.append(
            (f"step {size} {quantize} {cache}", partial(step_case, size, quantize, cache, bandwidth))
        )
    for name, kind in itertools.product(("7b o", "7b gate-up", "7b down", "7b qkv"), KINDS):
        case = partial(product_case, name, kind, bandwidth, batches)
        cases.append((f"{name} {kind}", case))
    for shape, kind in itertools.product(
        ((32, 32), (64, 8)), (torch.bfloat16, torch.int8, torch.float8_e4m3fn)
    ):
        case = partial(attention_case, shape, kind, bandwidth)
        cases.append((f"attention {shape[0]}/{shape[1]} {kind}", case))
    with torch.inference_mode():
        for name, case in cases:
            if arguments.only not in name:
                continue
            if time.perf_counter() - began > arguments.seconds:
                print("out of time before", name)
                continue
            try:
                for line in case():
                    print(line, flush=True)
            except Exception:  # noqa: BLE001
                print("FAILED", name, " | ".join(traceback.format_exc().splitlines()[-3:]), flush=True)
            torch.cuda.empty_cache()
    print(f"{time.perf_counter() - began:.0f} s", ONE)


if __name__ == "__main__":
    main()
