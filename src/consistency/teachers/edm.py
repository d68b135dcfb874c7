"""Networks of EDM (2206.00364) and of ECT (2406.14548), read from `.pkl` without executing them."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.files.paths import printable_path
from consistency.files.pickles import DAMAGE
from consistency.model.coefficients import Precond
from consistency.model.coordinates import DDPM, VP, Nearest
from consistency.model.maps import Consistency, Denoiser
from consistency.model.precond import EDM, VE, Boundary, Epsilon
from consistency.nets.adm import ADM
from consistency.nets.resampling import Down, Resample, Up
from consistency.nets.unet import UNet
from consistency.teachers.unpickle import ModuleRecord, read_pkl
from consistency.teachers.untold import by_width, check_groups, check_records
from consistency.teachers.weights import REMEDY, damaged_weights, load_into, rename_tensors, spelled

Pairs = Iterator[tuple[str, str]]  # modules: our name, the file's

MAPPING = {
    "embedding": "noise",
    "label": "label",
    "augment": "augment",
    "layer0": "layer0",
    "layer1": "layer1",
}
BLOCK = {name: name for name in ("norm0", "conv0", "affine", "norm1", "conv1", "skip")}
BLOCK |= {"attention.norm": "norm2", "attention.qkv": "qkv", "attention.proj": "proj"}
FILTER = ".resample_filter"
LABEL = "conditioning.label.weight"
LEVELS = "u"  # noise levels of iDDPM, falling, with a 0 at the end


def edm(path: str | Path, net: nn.Module) -> Denoiser | Consistency:
    """The averaged network of a file of EDM or ECT, frozen, in evaluation mode, with the role of its class.

    Args:
        path: a `.pkl` with DDPM++, NCSN++ (SongUNet) or ADM (DhariwalUNet), in one of `PRECONDS`.
        net: the network it belongs to, whose weights are replaced.

    Raises:
        UserError: the file is missing, damaged, holds anything else, or belongs to another network.
    """
    try:
        ema = averaged(read_pkl(path), path)
        role, precond_of = PRECONDS[known(ema.name, PRECONDS, path)]
        precond = precond_of(ema.state)
        pairs = pairs_of(net, ema, path)
        names = spelled(net, pairs, {"frequencies": "freqs"})
        check_records(net, ema, pairs.items(), path)
        file = dict(ema.tensors())
        check_filters(net, file, path)
        check_levels(precond, file, path)
    except UserError:
        raise
    except DAMAGE as error:
        raise damaged_weights(path) from error
    state = rename_tensors(
        {name: tensor for name, tensor in file.items() if not name.endswith(FILTER)}, names
    )
    if isinstance(net, ADM):
        fit_adm(net, state, ema.name)
    load_into(net, state, path, names)
    check_groups(net, by_width, path, "leave net.groups out")
    return role(net, precond).requires_grad_(False).eval()


def fit_adm(net: ADM, state: dict[str, Tensor], precond: str) -> None:
    """Tensors of a DhariwalUNet as ours has them, changed in place.

    Args:
        net: ours.
        state: by our names.
        precond: class of its preconditioner; iDDPM's networks also predict a variance, which nothing reads.
    """
    if LABEL in state:
        state[LABEL] = state[LABEL].mT  # theirs is a linear layer on one-hot rows
    if precond == "iDDPMPrecond":
        channels = net.stem.in_channels
        for name in ("head.2.weight", "head.2.bias"):
            if name in state and len(state[name]) == 2 * channels:
                state[name] = state[name][:channels]


def averaged(content: Any, path: str | Path) -> ModuleRecord:
    """The network under `ema` of a file's content."""
    ema = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(ema, ModuleRecord):
        raise UserError(
            f"teacher.path={path} has no network under 'ema'; use a network-snapshot or published file of EDM"
        )
    return ema


def known(name: str, table: Iterable[str], path: str | Path) -> str:
    """The name of a class of EDM's, if it is one of the table."""
    if name not in table:
        raise UserError(
            f"teacher.path={path} holds a {printable_path(name)}, which is not read here; use a "
            "file with one of: "
            f"{', '.join(table)}"
        )
    return name


def edm_precond(state: dict[str, Any]) -> Precond:
    """EDMPrecond."""
    return EDM(float(state["sigma_data"]))


def vp_precond(state: dict[str, Any]) -> Precond:
    """VPPrecond: the network sees (M - 1) τ, 999 τ in all published files."""
    return Epsilon(VP(float(state["beta_d"]), float(state["beta_min"])), time_scale=float(state["M"]) - 1)


def ve_precond(state: dict[str, Any]) -> Precond:
    """VEPrecond."""
    return VE(float(state["sigma_min"]))


def iddpm_precond(state: dict[str, Any]) -> Precond:
    """iDDPMPrecond: the chain of 2102.09672 with β up to 1 - C_1, whose networks see whole indices."""
    chain = DDPM.cosine(int(state["M"]), float(state["C_2"]), 1 - float(state["C_1"]))
    return Epsilon(Nearest(chain))


def ecm_precond(state: dict[str, Any]) -> Precond:
    """ECMPrecond in evaluation mode: f(x, ε) = x. Its training has ε = 0."""
    return Boundary(float(state["sigma_data"]), float(state["sigma_min"]))


PRECONDS: dict[str, tuple[type[Denoiser | Consistency], Callable[[dict[str, Any]], Precond]]] = {
    "EDMPrecond": (Denoiser, edm_precond),
    "VPPrecond": (Denoiser, vp_precond),
    "VEPrecond": (Denoiser, ve_precond),
    "iDDPMPrecond": (Denoiser, iddpm_precond),
    "ECMPrecond": (Consistency, ecm_precond),
}


def pairs_of(net: nn.Module, ema: ModuleRecord, path: str | Path) -> dict[str, str]:
    """{our name: the file's name} of each module of `net` that holds tensors."""
    model = ema.state["_modules"]["model"]
    kind, modules = NETS[known(model.name, NETS, path)]
    if not isinstance(net, kind):
        raise UserError(
            f"teacher.path={path} holds a {model.name} and net is a {type(net).__name__}; {REMEDY}"
        )
    return {ours: f"model.{its}" for ours, its in modules(net, int(ema.state["img_resolution"]))}


def song(net: UNet, resolution: int) -> Pairs:
    """SongUNet's names of our modules, for images of this resolution."""
    top = f"{resolution}x{resolution}"
    yield from mapping()
    yield "encoder.stem", f"enc.{top}_conv"
    down = list(blocks(net.encoder.blocks, "encoder.blocks", "enc", resolution))
    up = blocks(net.decoder.blocks, "decoder.blocks", "dec", coarsest(down, resolution), middle=2)
    yield from inside([*down, *up])
    for i in net.encoder.pyramid:
        yield f"encoder.pyramid.{i}.0", down[int(i)][1].replace("_down", "_aux_residual")
    yield from (("head.0", f"dec.{top}_aux_norm"), ("head.2", f"dec.{top}_aux_conv"))


def dhariwal(net: ADM, resolution: int) -> Pairs:
    """DhariwalUNet's names of our modules, likewise."""
    yield from mapping()
    yield "stem", f"enc.{resolution}x{resolution}_conv"
    down = list(blocks(net.encoder, "encoder", "enc", resolution))
    yield from inside([*down, *blocks(net.decoder, "decoder", "dec", coarsest(down, resolution), middle=2)])
    yield from (("head.0", "out_norm"), ("head.2", "out_conv"))


NETS: dict[str, tuple[type[nn.Module], Callable[..., Pairs]]] = {
    "SongUNet": (UNet, song),
    "DhariwalUNet": (ADM, dhariwal),
}


def mapping() -> Pairs:
    """What makes the conditioning vector."""
    return ((f"conditioning.{ours}", f"map_{its}") for ours, its in MAPPING.items())


def blocks(found: Iterable[Any], ours: str, its: str, resolution: int, middle: int = 0) -> Pairs:
    """Residual blocks in order: in0 … of the middle, down or up at each new resolution, block0 … at each."""
    k = -middle
    for i, block in enumerate(found):
        kind = f"block{k}" if k >= 0 else f"in{k + middle}"
        if isinstance(block.resample, Down):
            kind, resolution, k = "down", resolution // 2, -1
        elif isinstance(block.resample, Up):
            kind, resolution, k = "up", resolution * 2, -1
        yield f"{ours}.{i}", f"{its}.{resolution}x{resolution}_{kind}"
        k += 1


def coarsest(down: list[tuple[str, str]], resolution: int) -> int:
    """The resolution after those blocks of the encoder."""
    return resolution >> sum(its.endswith("_down") for _, its in down)


def inside(found: Iterable[tuple[str, str]]) -> Pairs:
    """The layers of residual blocks."""
    return ((f"{ours}.{a}", f"{its}.{b}") for ours, its in found for a, b in BLOCK.items())


def check_filters(net: nn.Module, file: dict[str, Tensor], path: str | Path) -> None:
    """Refuse a network that resamples by another filter: no tensor that is learned would tell."""
    kernels = [m.kernel for m in net.modules() if isinstance(m, Resample)]
    for name, kernel in file.items():
        if name.endswith(FILTER) and not all(same(kernel[0, 0], k) for k in kernels):
            raise UserError(
                f"teacher.path={path} is of another network: {printable_path(name)} is not that of "
                f"net.taps; {REMEDY}"
            )


def check_levels(precond: Precond, file: dict[str, Tensor], path: str | Path) -> None:
    """Refuse noise levels of iDDPM other than those that its settings make.

    Args:
        precond: by its settings.
        file: tensors, from which u [M + 1] is taken.
        path: of the file.
    """
    coordinate = precond.coordinate if isinstance(precond, Epsilon) else None
    if not isinstance(coordinate, Nearest):
        return
    levels = file.pop(LEVELS, None)
    # theirs are a recursion in float32: off by 5e-4 at the lowest
    ours = torch.cat([coordinate.chain.levels.flip(0), torch.zeros(1, dtype=torch.float64)])
    if levels is None or levels.shape != ours.shape or not torch.allclose(levels.double(), ours, rtol=2e-3):
        raise UserError(
            f"teacher.path={path}: its noise levels, u, are not those of its settings M, C_1 and C_2; use a "
            "file as its authors published it"
        )


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two filters are equal."""
    return a.shape == b.shape and torch.allclose(a.to(b), b, atol=1e-6)
