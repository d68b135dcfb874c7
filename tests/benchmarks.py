"""What a training step costs: python -m tests.benchmarks [net] [batch] [repeats], such as ncsnpp 2 5.

Prints medians of interleaved repeats, each also as a multiple of the iCT step of the same run: machines
differ, and so do their hours, but ratios within one run can be compared.

python -m tests.benchmarks onestep [net]: what a sample in one call costs beside the call of the bare
network, the least it could.

python -m tests.benchmarks loading [repeats]: seconds of `import consistency`, and of loading the shipped
weights, beyond `import torch`, in processes of their own.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from consistency.build import make
from consistency.model.condition import NONE
from consistency.model.maps import Denoiser
from consistency.objectives.derivative import CentralDifferences, ForwardMode
from consistency.objectives.reference import ReferenceFlow
from consistency.sampling.samplers import OneStep
from consistency.schedule.draws import StepDraws
from consistency.tensor import expand
from tests.conftest import ROOT
from tests.test_configs import CONFIGS

SHAPE = [3, 32, 32]
Turn = tuple[float, float, float]
ONESTEP = {  # network: shape of a sample, batches
    "mlp": ((1, 8, 8), (1, 64)),
    "unet_small": ((1, 28, 28), (1, 64)),
    "ncsnpp_ict": ((3, 32, 32), (1, 2)),
}


def main(net: str = "ncsnpp", batch: str = "2", repeats: str = "5") -> None:
    """Measure and print."""
    torch.manual_seed(0)
    x = torch.randn(int(batch), *SHAPE) / 2
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        work = pieces(denoiser(net), x) | steps(net, x)
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(int(repeats)):
        for name, run in work.items():
            seconds[name].append(timed(run))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{net}, batch {batch}, {torch.get_num_threads()} threads, median of {repeats}")
    for name, value in median.items():
        print(f"{name:<44}{value:9.3f} s {value / median['iCT step']:7.2f} iCT steps")


def pieces(f: Denoiser, x: Tensor) -> dict[str, Callable[[], object]]:
    """What steps are made of."""
    sigma, z = torch.full((len(x),), 0.7, dtype=torch.float64), torch.randn_like(x)
    along = (f, x + 0.7 * z, sigma, None, expand(sigma, x) * z, sigma)
    reference = ReferenceFlow(torch.randn(4096, *SHAPE), None)

    def backward() -> None:
        f(x, sigma).square().mean().backward()

    return {
        "forward": torch.no_grad()(lambda: f(x, sigma)),
        "forward and backward": backward,
        "derivative, forward mode": torch.no_grad()(lambda: ForwardMode()(*along)),
        "derivative, central differences": torch.no_grad()(lambda: CentralDifferences()(*along)),
        "velocity over a reference of 4,096": lambda: reference.velocity(x, sigma, x, z, NONE),
    }


def steps(net: str, x: Tensor) -> dict[str, Callable[[], object]]:
    """Loss and gradient of whole steps, without the optimiser's part."""
    return {
        "iCT step": step(net, x, "ict"),
        "ECT step": step(net, x, "ect"),
        "sCT step": step(net, x, "sct"),
        "sCT step, central differences": step(net, x, "sct", "derivative=central_differences"),
    }


def step(net: str, x: Tensor, *words: str) -> Callable[[], object]:
    """One step of a method."""
    c = compose("train", [f"experiment={words[0]}_cifar10", f"net={net}", *words[1:]])
    c.net.shape, c.net.classes = SHAPE, 0
    f, objective, flow = make(c.model), make(c.objective), make(c.flow)
    target = make(c.target)(f)
    return lambda: objective(f, target, flow, x, NONE, 10**6, StepDraws(0)).loss.mean().backward()


def denoiser(net: str, shape: Sequence[int] = SHAPE, experiment: str = "edm_cifar10") -> Denoiser:
    """An untrained one."""
    c = compose("train", [f"experiment={experiment}", f"net={net}"])
    c.net.shape, c.net.classes = list(shape), 0
    return make(c.model)


def overhead(*nets: str) -> None:
    """A sample in one call beside the bare network, turn by turn: medians, also of each turn's ratio."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"), torch.no_grad():
        for name in nets or ONESTEP:
            shape, batches = ONESTEP[name]
            f = denoiser(name, shape, "ict_cifar10").eval()
            for batch in batches:
                z = torch.randn(batch, *shape)
                noise = f.precond(torch.full((batch,), 80.0, dtype=torch.float64)).noise.float()
                pair = partial(OneStep([80.0]), f, z), partial(f.net, z, noise)
                ours, bare, ratio = map(statistics.median, zip(*turns(*pair), strict=True))
                print(
                    f"{name}, batch {batch}: {1e3 * ours:.3f} ms, network {1e3 * bare:.3f}, ratio {ratio:.3f}"
                )


def loading(repeats: str = "5") -> None:
    """Measure and print what the library costs beyond torch."""
    lines = ["import consistency as cm", f"cm.load({str(ROOT / 'data/weights/digits.safetensors')!r})"]
    code = ["import time", "import torch", "t = time.perf_counter()", "print(time.perf_counter() - t)"]
    for last in range(1, len(lines) + 1):
        program = "\n".join([*code[:3], *lines[:last], code[3]])
        seconds = [
            float(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
            for _ in range(int(repeats))
        ]
        print(f"{lines[last - 1].partition('(')[0]:<28}{statistics.median(seconds):7.3f} s beyond torch")


def turns(a: Callable[[], object], b: Callable[[], object], at_most: float = 20.0) -> list[Turn]:
    """Seconds of a and of b, and their ratio, turn by turn, at least five after one to warm up."""
    a(), b()
    found: list[Turn] = []
    since = time.perf_counter()
    while len(found) < 5 or time.perf_counter() - since < at_most:
        x, y = (timed(a), timed(b)) if len(found) % 2 else (timed(b), timed(a))[::-1]
        found.append((x, y, x / y))
    return found


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    since = time.perf_counter()
    run()
    return time.perf_counter() - since


if __name__ == "__main__":
    first, *rest = sys.argv[1:] or ["ncsnpp"]
    ways = {"onestep": overhead, "loading": loading}
    ways[first](*rest) if first in ways else main(first, *rest)
