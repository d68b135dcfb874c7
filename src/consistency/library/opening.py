"""Opens a file of this project as a model: its map, codec and samplers are built, and no training module.

The config of a file is untrusted. `consistency.files.config` has checked it, and only its sections model,
data.codec and module.samplers are built here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from consistency.codec.codec import Codec
from consistency.codec.identity import codec_digest
from consistency.codec.pixels import Pixels, codec_name
from consistency.codec.points import Points
from consistency.errors import UserError, strip_controls
from consistency.files.config import FileConfig
from consistency.files.configs import TARGET
from consistency.library.model import Model, Provenance
from consistency.process.notices import notice
from consistency.sampling.families import samplers_of_lists
from consistency.sampling.samplers import Sampler, check_samplers
from consistency.schedule.sigma import Sigma
from consistency.teachers.checkpoint import map_of, read_named, weights_of
from consistency.tensor import weights_sha256


def load(
    path: str | Path,
    *,
    weights: str | None = None,
    trust: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> Model:
    """Open a checkpoint, a file of exported weights, or the newest checkpoint of a run directory.

    Neither the data nor Lightning is needed.

    Args:
        path: of the file or directory.
        weights: name of an average, `raw`, or None for the average that validations used.
        trust: packages whose classes the config of the file may name, beside this one.
        device: of the network.

    Raises:
        UserError: there is no file, it is damaged, or its config names code of another package.
    """
    file, kept = read_named(path, "path", trust)
    with torch.random.fork_rng(devices=[]):  # building a network draws initial weights
        return build_model(file, kept, weights=weights, key="path").to(device)


def build_model(
    file: Path,
    kept: dict[str, Any],
    config: FileConfig | None = None,
    weights: str | None = None,
    key: str = "ckpt_path",
) -> Model:
    """Build the model that the content of a file describes.

    Args:
        file: its path.
        kept: its content, as returned by `read_named`.
        config: that of the file with overrides of the user; None for that of the file.
        weights: see `load`.
        key: of the config that names the file, for messages.

    Raises:
        UserError: the content describes no model.
    """
    used = config or kept["config"]
    shape, classes = network_of(used)
    name, f = map_of(used, kept, weights, file, key)
    codec = codec_of(kept, shape, f"{key}={file}")
    own, sigma = samplers_of(used), sigma_of(used)
    check_samplers(own, f)
    brought = samplers_of_lists(kept.get("sigmas", {}), own, sigma.min)
    where = Provenance(
        path=file,
        step=kept["global_step"],
        experiment=kept.get("experiment"),
        weights=name,
        weights_sha256=weights_sha256(weights_of(kept, weights)[1]),
        config=used.to_plain(),
        classes=class_names_of(kept, classes),
    )
    samplers = replace_sigmas(own, own, brought, str(file))
    return Model(f, shape, classes, samplers, codec, sigma, where, brought)


def network_of(config: FileConfig) -> tuple[tuple[int, ...], int]:
    """The shape of an encoded sample, and the number of classes.

    Raises:
        UserError: the config lacks them, or contradicts itself.
    """
    net = config.section("net")
    shape, classes = net.get("shape"), net.get("classes")
    if any(config.section("model", "net").get(key) != net.get(key) for key in ("shape", "classes")):
        raise UserError(
            f"{config.source}: net and model.net are for other data; use the checkpoint as it was written"
        )
    if shape is None or not is_shape(shape) or type(classes) is not int or classes < 0:
        raise UserError(
            f"{config.source}: net.shape and net.classes are no shape and no number of classes; "
            "use the checkpoint as it was written"
        )
    return shape, classes


def is_shape(shape: Any) -> bool:
    """Whether a value is the shape of an image or of a point."""
    return (
        isinstance(shape, tuple)
        and len(shape) in (1, 3)
        and all(type(length) is int and length > 0 for length in shape)
    )


def codec_of(kept: Mapping[str, Any], shape: tuple[int, ...], source: str) -> Codec:
    """The codec that a network was trained with, according to the config of its file.

    Data sets of other packages may set their codec in code: such a data set is built, without loading data.

    Args:
        kept: content of the file; files of older versions lack the hash of the codec.
        shape: of an encoded sample.
        source: the file with its key, for messages.

    Raises:
        UserError: the config describes no codec, or one with another hash.
    """
    config: FileConfig = kept["config"]
    data, recorded = config.section("data"), kept.get("data", {}).get("codec")
    codec = config.build("data", "codec") if data.get("codec") else default_codec(data, shape)
    ours = recorded is None and str(data.get(TARGET)).startswith("consistency.")
    if not (data.get("codec") or ours or recorded == codec_digest(codec)):
        codec = codec_of_data(config, shape)
    if recorded not in (None, codec_digest(codec)):
        raise UserError(
            f"{source} was trained with another codec than the one that its config describes, "
            f"{codec_name(codec)}: use the version of this codec that it was trained with"
        )
    return codec


def codec_of_data(config: FileConfig, shape: tuple[int, ...]) -> Codec:
    """The codec that the class of a data set defines; no data are loaded.

    Raises:
        UserError: the class is no `DataModule`, or its codec does not encode to this shape.
    """
    data = config.build("data")
    if not (hasattr(data, "expect") and hasattr(data, "codec")):
        raise UserError(f"{config.source}: data in its config is no DataModule; use it as it was written")
    data.expect(shape, 0)
    return data.codec


def default_codec(data: Mapping[str, Any], shape: tuple[int, ...]) -> Codec:
    """The codec of a config that names none: `Pixels` for images, `Points` for points."""
    return Pixels(data.get("offset", 127.5), data.get("scale", 127.5)) if len(shape) == 3 else Points()


def sigma_of(config: FileConfig) -> Sigma:
    """The noise levels of a run.

    Raises:
        UserError: a value is no number, or out of range.
    """
    node = config.section("sigma")
    known = {name: node[name] for name in ("min", "max", "rho", "data") if name in node}
    if not all(type(value) in (int, float) for value in known.values()):
        raise UserError(f"{config.source}: sigma in its config has a value that is no number")
    return Sigma(**known)


def samplers_of(config: FileConfig) -> dict[str, Sampler]:
    """The samplers of a run, by name.

    Raises:
        UserError: one of them cannot be built.
    """
    place = ("module", "samplers") if config.names("module", "samplers") else ("samplers",)
    made = config.build(*place) if config.names(*place) else {}
    return {name: each for name, each in made.items() if each is not None}


def class_names_of(kept: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """Names of the classes; None where a file does not have one for each."""
    names = kept.get("data", {}).get("names")
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(n, str) for n in names):
        return None
    return tuple(strip_controls(name) for name in names) or None


def replace_sigmas(
    own: Mapping[str, Sampler],
    before: Mapping[str, Sampler],
    found: Mapping[str, Sampler],
    source: str,
    remedy: str = "",
) -> dict[str, Sampler]:
    """Replace samplers of a run by those of `found` with the same names; a notice lists the σ that change.

    A sampler of `found` with the σ of the run's config is not used.

    Args:
        own: samplers in the config of the run.
        before: samplers used so far.
        found: samplers at other σ, by name; those that the run does not have are ignored.
        source: the file with `found`, for the notice.
        remedy: end of the notice, on how to use those of the run.
    """
    changed = select_changed(own, found)
    after = {name: changed.get(name, own[name]) if name in found else before[name] for name in own}
    lines = [
        f"{name} {sigma_text(after[name])} in place of {sigma_text(before[name])}"
        for name in select_changed(before, after)
    ]
    if lines:
        notice(f"samplers use the σ lists of {source}: {'; '.join(lines)}{remedy}")
    return after


def select_changed(samplers: Mapping[str, Sampler], others: Mapping[str, Sampler]) -> dict[str, Sampler]:
    """Those of `others` that have no namesake in `samplers`, or one with different σ."""
    return {
        name: other
        for name, other in others.items()
        if name not in samplers or samplers[name].sigmas != other.sigmas
    }


def sigma_text(sampler: Sampler) -> str:
    """The σ of a sampler as text, with four digits."""
    return ", ".join(f"{sigma:.4g}" for sigma in sampler.sigmas)
