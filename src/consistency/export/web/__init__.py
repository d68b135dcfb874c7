"""A page that makes images in a browser: a static folder without a server, which also opens from a disk.

The network travels as ONNX and is run by onnxruntime-web; everything around it is in `page/`.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from consistency.codec.pixels import pixels_of
from consistency.errors import UserError
from consistency.export.model import Outgoing, Written, check_plain
from consistency.export.onnx import run_onnx, save
from consistency.export.parts import NETWORK, optional_library, programs
from consistency.export.web.beside import expected_samples, read_back
from consistency.export.web.description import PIXELS, describe_model, offered
from consistency.export.web.packing import packed, script
from consistency.export.web.runtime import PINNED, Release
from consistency.model.maps import Consistency, Denoiser
from consistency.sampling.samplers import Sampler

TOLERANCE = 1e-3  # of images in [-1, 1]: an eighth of a grey level
LARGEST = 15e6  # bytes that people wait for


@dataclass(frozen=True)
class Web:
    """`index.html` and all it needs; `index.html#check` holds the browser's images against Python's.

    Args:
        cache: folder where what is downloaded is kept.
        runtime: a tarball of onnxruntime-web, or the folder it was unpacked to; None to download it.
        release: which.
    """

    cache: str | Path
    runtime: str | None = None
    release: Release = PINNED

    def __call__(self, model: Outgoing, folder: Path) -> Written:
        """See `Format`. The files are the page's, three scripts that hold data, and a licence."""
        check_showable(model)
        for name in ("onnx", "onnxscript", "onnxruntime"):
            optional_library(name)
        content = onnx(model)
        check_page_size(content)
        runtime = self.release.find(self.runtime, Path(self.cache))
        data = folder / "model.data.js"
        made = [
            script(data, MODEL=describe_model(model, len(content)), PACKED=packed(content)),
            script(folder / "runtime.data.js", RUNTIME={k: packed(v) for k, v in runtime._asdict().items()}),
            script(folder / "check.data.js", CHECK=expected_samples(model)),
        ]
        for source in files(__name__).joinpath("page").iterdir():
            made.append(folder / source.name)
            made[-1].write_bytes(source.read_bytes())
        network, runs = read_back(data, run_onnx)
        ways = {each.title: each for each in offered(model).values()}
        own = {name: run for name, run in runs.items() if is_own(model, name, ways[name])}
        return Written(made, own, TOLERANCE, network)


def is_own(model: Outgoing, name: str, way: Sampler) -> bool:
    """Whether the model has a sampler of this name that the page has too; Karras's lists are none."""
    own = model.samplers.get(name)
    return own is not None and way.role is own.role and own.sigmas == way.sigmas


def check_showable(model: Outgoing) -> None:
    """Refuse what the page cannot show.

    Raises:
        UserError: the model makes no images, sees other than pixels, or is a teacher.
    """
    shape = model.codec.decoded(model.shape)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(
            f"export=web shows images of 1 or 3 channels, and samples of this model are {list(shape)}: "
            "choose another format, such as export=onnx"
        )
    pixels_of(model.codec, *PIXELS)
    check_plain(model, "web")
    if isinstance(model.f, Denoiser):
        raise UserError(
            "export=web makes images by a few calls of a consistency function or of a flow map, not of a "
            f"{model.f.role}: choose export=onnx, or distil a denoiser first, as experiment=cd_digits does"
        )
    if not model.sigmas and isinstance(model.f, Consistency):
        raise UserError("export=web needs a sampler of one step or more: name one with task.samplers")


def check_page_size(network: bytes) -> None:
    """Refuse a network that makes the page too large.

    Raises:
        UserError: it does.
    """
    # base64 of what gzip leaves of weights; the runtime and the images of #check
    size = 4 / 3 * 0.93 * len(network) + 6e6
    if size > LARGEST:
        raise UserError(
            f"export=web: a network of {len(network) / 1e6:.0f} MB makes a page of {size / 1e6:.0f} MB, "
            f"more than {LARGEST / 1e6:.0f}: train a smaller one (net.width or net.channels)"
        )


def onnx(model: Outgoing) -> bytes:
    """The bare network, for any batch."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        save(programs(model)[NETWORK], path, {})
        return path.read_bytes()
