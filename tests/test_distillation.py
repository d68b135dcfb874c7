"""Distillation: the teacher's flow, where the student starts, and where the teacher is not."""

import copy
import gc
import json
import signal
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from consistency.codec.points import Points
from consistency.errors import UserError
from consistency.lit.distillation import ConsistencyDistillation
from consistency.model import solvers
from consistency.model.condition import NONE
from consistency.model.coordinates import DDPM, Linear
from consistency.model.maps import Consistency, Denoiser
from consistency.model.precond import EDM, Boundary, Epsilon, Jump, Velocity
from consistency.nets.mlp import MLP
from consistency.objectives.discrete import Discrete
from consistency.objectives.distance import SquaredL2
from consistency.objectives.flow import DataFlow, TeacherFlow
from consistency.objectives.target import EMATarget, StopGradient
from consistency.objectives.weighting import InverseGap, Uniform
from consistency.schedule import decay
from consistency.schedule.curriculum import Constant
from consistency.schedule.draws import StepDraws
from consistency.schedule.noise import UniformCells
from consistency.schedule.pairs import GridPairs, TimePairs
from consistency.schedule.rate import Flat
from consistency.schedule.sigma import karras_grid
from consistency.tensor import expand, perturb
from consistency.truth.oracle import Mixture
from tests.conftest import CD_MOONS, run, start
from tests.reference import golden
from tests.waits import ended, until


def net(width=16):
    torch.manual_seed(0)
    made = MLP((2,), width=width, blocks=1)
    for p in made.parameters():
        nn.init.normal_(p, std=0.3)
    return made


def distillation(teacher, student, target=StopGradient, flow=TeacherFlow, **options):
    module = ConsistencyDistillation(
        teacher=lambda: teacher,
        flow=flow,
        objective=Discrete(
            GridPairs(Constant(18), UniformCells(), student.precond.lowest or 0.002), SquaredL2(), Uniform()
        ),
        target=target,
        model=student,
        optimizer=lambda parameters: torch.optim.RAdam(parameters, lr=1e-3),
        rate=Flat(),
        samplers={},
        seed=0,
        **options,
    )
    module._trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")), datamodule=SimpleNamespace(codec=Points())
    )
    return module


# --- the flow ---------------------------------------------------------------------------------------------


def test_one_step_of_the_golden_pair():
    """One step of the grid of 18 for N(0, .5²), by both solvers, and how far f moves along it."""
    density, grid = Mixture.gaussian(0.5, (1,)), karras_grid(18)
    x, t, r = torch.tensor([[golden.PAIR_START]], dtype=torch.float64), grid[9:10], grid[8:9]
    for solver, (end, residual) in {
        solvers.euler: golden.PAIR_EULER,
        solvers.heun: golden.PAIR_HEUN,
    }.items():
        x_r = TeacherFlow(density, solver).step(x, t, r, x, x, None)
        assert x_r.item() == pytest.approx(end, abs=1e-8)
        moved = density.consistency(x_r, r) - density.consistency(x, t)
        assert moved.item() == pytest.approx(residual, abs=1e-6)


def pair_error(solver, N, substeps=1):
    """RMS distance of a step of the exact teacher to the exact trajectory of the ring, over all cells."""
    ring, generator = Mixture.ring(), torch.Generator().manual_seed(0)
    grid, i = karras_grid(N), torch.arange(9600) % (N - 1)
    t, r = grid[i + 1], grid[i]
    x = ring.sample(9600, generator)
    x_t = perturb(x, torch.randn(x.shape, generator=generator, dtype=torch.float64), t)
    error = TeacherFlow(ring, solver, substeps).step(x_t, t, r, x, x, None) - ring.solve(x_t, t, r, steps=20)
    return error.square().mean().sqrt().item()


@pytest.mark.parametrize(("solver", "factor"), [(solvers.euler, 4), (solvers.heun, 8)])
def test_the_error_of_a_pair_falls_with_the_order_of_the_solver(solver, factor):
    errors = [pair_error(solver, N) for N in (81, 161, 321)]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(factor, rel=0.07)


@pytest.mark.parametrize(("solver", "factor"), [(solvers.euler, 2), (solvers.heun, 4)])
def test_two_steps_between_grid_points_pay_off_with_the_order(solver, factor):
    assert pair_error(solver, 81) / pair_error(solver, 81, substeps=2) == pytest.approx(factor, rel=0.07)


def test_steps_between_grid_points_are_those_of_a_finer_grid():
    ring, grid = Mixture.ring(), karras_grid(35)
    x = perturb(ring.sample(8), torch.randn(8, 2).double(), grid[20].expand(8))
    one = TeacherFlow(ring, solvers.heun, 2).step(x, grid[20].expand(8), grid[18].expand(8), x, x, None)
    for i in (20, 19):
        x = TeacherFlow(ring).step(x, grid[i].expand(8), grid[i - 1].expand(8), x, x, None)
    assert torch.allclose(one, x, atol=1e-12)


def test_heun_is_eulers_method_where_the_step_ends_in_the_data():
    ring = Mixture.ring()
    x, t, r = torch.randn(4, 2).double(), torch.ones(4).double(), torch.tensor([0, 0.5, 0, 0.5]).double()
    euler, heun = (solver(ring, x, t, r) for solver in (solvers.euler, solvers.heun))
    assert torch.equal(heun[::2], euler[::2])
    assert torch.allclose(euler[::2], ring(x, t)[::2])
    assert not torch.allclose(heun[1::2], euler[1::2])


def test_eulers_step_with_the_data_for_a_teacher_is_consistency_training():
    """x̂ = x_0 + r z is the step of the teacher D := x_0 (2303.01469, algorithm 3)."""
    x, z = torch.randn(8, 2).double(), torch.randn(8, 2).double()
    t, r = torch.rand(8).double() + 1, torch.rand(8).double()
    x_t = perturb(x, z, t)
    step = solvers.euler(lambda *_: x, x_t, t, r)
    assert torch.allclose(step, DataFlow().step(x_t, t, r, x, z, NONE), atol=1e-12)


def test_fewer_than_one_substep_is_refused():
    with pytest.raises(UserError, match=r"flow\.substeps=0"):
        TeacherFlow(Mixture.ring(), substeps=0)


# --- where the student starts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher", "student", "tolerance"),
    [
        (EDM(), Boundary(), 0.03),
        (Epsilon(DDPM.linear(), 0.004), Jump(Epsilon(DDPM.linear(), 0.004), 0.0100005), 1e-5),
        (Velocity(Linear(), 4.0), Jump(Velocity(Linear(), 4.0)), 1e-5),
    ],
)
def test_a_student_starts_as_its_teachers_jump_to_the_lowest_level(teacher, student, tolerance):
    D, f = Denoiser(net(), teacher), Consistency(MLP((2,), width=16, blocks=1), student)
    module = distillation(D, f)
    module.setup("fit")
    for sigma in (0.5, 5.0, 80.0):
        t = torch.full((64,), sigma, dtype=torch.float64)
        x = sigma * torch.randn(64, 2)
        low = torch.full_like(t, module.objective.pairs.sigma_min)
        jump = solvers.euler(D, x, t, low)
        assert torch.allclose(f(x, t), jump, atol=tolerance * sigma, rtol=1e-4)


def test_the_moving_target_starts_from_the_teacher_too():
    D, f = Denoiser(net(), EDM()), Consistency(MLP((2,), width=16, blocks=1), Boundary())
    module = distillation(D, f, target=lambda f: EMATarget(f, decay.Constant(0.95)))
    module.setup("fit")
    for name, weight in D.state_dict().items():
        assert torch.equal(module.target.shadow.state_dict()[name], weight)


def test_a_student_may_start_afresh():
    D, f = Denoiser(net(), EDM()), Consistency(MLP((2,), width=8, blocks=1), Boundary())
    before = copy.deepcopy(f.state_dict())
    distillation(D, f, initialise=False).setup("fit")
    assert all(torch.equal(before[name], weight) for name, weight in f.state_dict().items())


def test_nothing_is_distilled_from_a_consistency_function():
    """Whose x - f(x, σ) leads to the end of a trajectory, and not along it."""
    f = Consistency(net(), Boundary())
    with pytest.raises(UserError, match=r"^teacher\.path is a consistency function.* start=teacher"):
        distillation(f, Consistency(net(), Boundary())).setup("fit")


def test_evaluation_does_not_call_the_teacher():
    module = distillation(None, Consistency(net(), Boundary()))
    module.teacher = lambda: pytest.fail("called")
    module.setup("validate")


@pytest.mark.parametrize(
    ("teacher", "student", "width", "match"),
    [
        (EDM(), Boundary(), 24, r"stem\.weight is \[16, 2\] there and \[24, 2\] here"),
        (Velocity(Linear()), Boundary(), 16, r"choose the teacher's kind"),
        (Epsilon(DDPM.linear()), Jump(Epsilon(DDPM.linear(), 0.004), 0.0100005), 16, r"initialise=false"),
        (Epsilon(DDPM.linear()), Boundary(), 16, r"sigma\.min=0\.002 lies below 0\.0100005"),
    ],
)
def test_a_student_of_another_kind_is_refused(teacher, student, width, match):
    module = distillation(Denoiser(net(), teacher), Consistency(MLP((2,), width=width, blocks=1), student))
    with pytest.raises(UserError, match=match):
        module.setup("fit")


# --- where the teacher is not -----------------------------------------------------------------------------


def test_the_teacher_is_no_part_of_the_module():
    D, f = Denoiser(net(), EDM()), Consistency(net(), Boundary())
    module = distillation(D, f)
    module.setup("fit")
    theirs = {id(t) for t in [*D.parameters(), *D.buffers()]}
    groups = module.configure_optimizers().param_groups
    assert not theirs & {id(p) for group in groups for p in group["params"]}  # nor in the optimiser
    assert not theirs & {id(p) for p in module.parameters()}  # what DDP puts into buckets
    assert not theirs & {id(b) for b in module.buffers()}  # what DDP broadcasts
    assert all(name.startswith("model.") for name in module.state_dict())  # what a checkpoint holds
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in f.parameters())


def test_the_teacher_is_frozen_and_in_evaluation_mode():  # trap 7
    D = Denoiser(MLP((2,), width=16, blocks=1, dropout=0.5), EDM()).train()
    module = distillation(D, Consistency(MLP((2,), width=16, blocks=1, dropout=0.5), Boundary()))
    module.setup("fit")
    module.train()
    assert not D.training
    assert not any(p.requires_grad for p in D.parameters())
    module.terms(torch.randn(8, 2), NONE, 0, StepDraws(0)).loss.mean().backward()
    assert all(p.grad is None for p in D.parameters())
    assert any(p.grad is not None for p in module.model.parameters())


class Stack(nn.Module):
    """Layers whose activations are easily counted: two tensors [B, width] each, for Linear and for SiLU."""

    def __init__(self, width, layers):
        super().__init__()
        inner = [part for _ in range(layers) for part in (nn.SiLU(), nn.Linear(width, width))]
        self.layers = nn.Sequential(nn.Linear(2, width), *inner, nn.SiLU(), nn.Linear(width, 2))

    def forward(self, x, noise, c=NONE):
        return self.layers(x)


def peak_bytes(work):
    """The most memory that tensors made by `work` took at once."""
    gc.collect()
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as seen:
        kept = work()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    del kept
    return most


def test_peak_memory_is_what_paper_says():
    """Student with two moments, teacher, activations of one forward: no second teacher, no graph of it."""
    width, layers, batch = 512, 6, 3072

    def work():
        D = Denoiser(Stack(width, layers), EDM())
        module = distillation(D, Consistency(Stack(width, layers), Boundary()))
        module.setup("fit")
        optimizer = module.configure_optimizers()
        for k in range(2):
            optimizer.zero_grad()
            module.terms(torch.randn(batch, 2), NONE, k, StepDraws(0, k)).loss.mean().backward()
            optimizer.step()
        return module, D, optimizer

    weights = 4 * sum(p.numel() for p in Stack(width, layers).parameters())
    row = 4 * batch * width
    activations = 2 * (layers + 1) * row
    target = 2 * row  # its forward keeps nothing but a layer's input and output
    paper = weights + 2 * weights + weights + activations + target
    assert weights > 0.05 * paper  # a second teacher would be seen
    assert peak_bytes(work) == pytest.approx(paper, rel=0.05)


# --- the user's view --------------------------------------------------------------------------------------

TINY = ["net.width=32", "data.samples=64", "trainer=cpu", "trainer.max_steps=4"]


WORDS = [
    *CD_MOONS,
    *TINY,
]
WORDS += ['teacher_run.overrides=["trainer.max_steps=150","trainer.val_check_interval=150"]']


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A teacher and its student, in one command."""
    return run("train.py", tmp_path_factory.mktemp("both") / "cd", *WORDS)


def test_one_command_trains_a_teacher_and_its_student(both, tmp_path):
    assert both.status == 0, both.err
    for row in ("teacher heun35", "teacher euler18", "teacher ddim18", "1step", "2step", "4step"):
        assert row in both.out
    assert {"teacher/SW2/heun35", "SW2/4step"} <= both.result["metrics"].keys()
    assert both.result["steps"] == 4
    kept = torch.load(both.directory / "checkpoints/last.ckpt", weights_only=True)
    assert all(name.startswith("model.") for name in kept["state_dict"])
    averaged = kept["callbacks"]["EMA"]["averages"]["ema"]
    assert sum(t.numel() for t in averaged.values()) == both.result["parameters"]
    path = f"teacher.path={both.directory}/teacher"
    assert run("train.py", tmp_path / "again", *WORDS, path).raw == both.raw  # the same teacher, by path


def test_a_student_is_evaluated_without_its_teacher(both, tmp_path):
    teacher, elsewhere = both.directory / "teacher", both.directory / "elsewhere"
    teacher.rename(elsewhere)
    checkpoint = f"ckpt_path={both.directory}/checkpoints/last.ckpt"
    alone = run("eval.py", tmp_path / "eval", "task=sample", "task.count=4", checkpoint)
    elsewhere.rename(teacher)
    assert alone.status == 0, alone.err


def test_a_run_that_is_stopped_while_its_teacher_learns_goes_on_with_it(both, tmp_path):
    process = start("train.py", tmp_path / "cut", *WORDS)
    config = tmp_path / "cut/teacher/config.yaml"  # written when training begins
    until(config.exists, "the training of the teacher", process)
    process.send_signal(signal.SIGTERM)
    _, err = ended(process)
    assert process.returncode == 143
    assert f"run_dir={tmp_path}/cut and ckpt_path=last" in err
    resumed = run("train.py", tmp_path / "cut", *WORDS, "ckpt_path=last")
    assert resumed.status == 0, resumed.err
    assert resumed.raw == both.raw
    teachers = [
        json.loads((d / "teacher/result.json").read_text()) for d in (both.directory, tmp_path / "cut")
    ]
    assert teachers[0]["weights_sha256"] == teachers[1]["weights_sha256"]


# --- training in isolation --------------------------------------------------------------------------------


def least_squares(coefficient, t, r, v):
    """The a that makes f(x_t) = a x_t best in the objective's own loss, for a target coefficient · x_r.

    The four points (±v, ±1) have the second moments of data N(0, v²) and noise N(0, 1), so the mean is exact.
    """
    x = torch.tensor([v, v, -v, -v], dtype=torch.float64)[:, None]
    z = torch.tensor([1, -1, 1, -1], dtype=torch.float64)[:, None]
    a = torch.zeros((), dtype=torch.float64, requires_grad=True)

    class Pairs:
        sigma_min = 0.0

        def __call__(self, n, k, draws, device):
            return torch.full((n,), t, dtype=torch.float64), torch.full((n,), r, dtype=torch.float64)

    class Draws:
        def normal(self, like):
            return z

    def f(x, sigma, c=NONE):
        return x * torch.where(expand(sigma, x) == t, a, coefficient)

    loss = Discrete(Pairs(), SquaredL2(), Uniform())(
        f, StopGradient(f), DataFlow(), x, NONE, 0, Draws()
    ).loss.mean()
    (slope,) = torch.autograd.grad(loss, a, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, a)
    return (-slope / curvature).item()  # the loss is quadratic: one Newton step from 0 ends at its minimum


def isolation_errors(N, v=0.5, top=20.0):
    """The largest error of one step from the exact function, and the error after all steps."""
    times = torch.linspace(0, Linear().time(torch.tensor(top)).item(), N, dtype=torch.float64)
    sigmas = Linear().sigma(times).tolist()

    def exact(sigma):
        return v / (v**2 + sigma**2) ** 0.5

    def scale(sigma):  # of x_σ: errors are of typical points
        return (v**2 + sigma**2) ** 0.5

    steps, a = [], 1.0
    for r, t in pairwise(sigmas):
        steps.append(abs(least_squares(exact(r), t, r, v) - exact(t)) * scale(t))
        a = least_squares(a, t, r, v)
    return max(steps), abs(a - exact(sigmas[-1])) * scale(sigmas[-1])


def test_isolation_has_a_step_error_of_second_and_a_whole_error_of_first_order():
    """On Gaussian data, as the linear interpolant's theory says: O(Δu²) a step, O(Δu) in all."""
    errors = [isolation_errors(N) for N in (81, 161, 321)]
    for (step, whole), (finer_step, finer_whole) in pairwise(errors):
        assert step / finer_step == pytest.approx(4, rel=0.12)
        assert whole / finer_whole == pytest.approx(2, rel=0.06)


def test_isolation_pairs_are_equally_long_in_the_linear_coordinate():
    pairs = TimePairs(Constant(11), Linear())
    t, r = pairs(4096, 0, StepDraws(0), torch.device("cpu"))
    whole = 80 / 81
    gap = Linear().time(t) - Linear().time(r)
    assert torch.allclose(gap, torch.full_like(gap, whole / 10))
    assert r.min() >= 0
    assert t.max() <= 80 * (1 + 1e-9)
    assert Linear().time(r).mean().item() == pytest.approx(0.45 * whole, abs=0.01)
    edges = torch.tensor([0.05, 0.2, 1, 5, 80.1]).double()
    drawn = torch.histogram(t.clamp(0.051, 80), edges).hist / len(t)
    assert torch.allclose(drawn, pairs.mass(edges, 0), atol=0.03)


def test_isolation_pairs_lie_on_one_straight_line():
    """(x_u+Δu, x_u) of the linear interpolant, in σ: the same clean image and the same noise."""
    x, z = torch.randn(16, 2).double(), torch.randn(16, 2).double()
    t, r = TimePairs(Constant(11), Linear())(16, 0, StepDraws(0), torch.device("cpu"))
    x_r = DataFlow().step(perturb(x, z, t), t, r, x, z, NONE)
    u = Linear().time(r)[:, None]
    assert torch.allclose(x_r * (1 - u), (1 - u) * x + u * z)


# --- improved distillation is a config --------------------------------------------------------------------


@pytest.mark.parametrize("weight", [Uniform(), InverseGap()])
def test_the_exact_function_leaves_a_loss_of_the_solvers_error_only(weight):
    """Distilling the exact teacher with ever finer grids, the exact f becomes its minimum."""
    ring = Mixture.ring(std=0.2)
    losses = []
    for N in (21, 81):
        objective = Discrete(GridPairs(Constant(N), UniformCells()), SquaredL2(), weight)

        def f(x, sigma, c=NONE):
            return ring.consistency(x, sigma)

        x = ring.sample(256, torch.Generator().manual_seed(0))
        losses.append(objective(f, StopGradient(f), TeacherFlow(ring), x, NONE, 0, StepDraws(0)).loss.mean())
    assert losses[1] < losses[0] / 100


@pytest.mark.parametrize(("solver", "left"), [(solvers.euler, 0.038), (solvers.heun, 0.016)])
def test_what_eighteen_levels_leave_of_the_ring(solver, left):
    """The error at σ = 80 of the best student of the exact teacher: all steps of the solver in a row."""
    ring, grid = Mixture.ring(), karras_grid(18)
    x = 80 * torch.randn(4096, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x + ring.sample(4096, torch.Generator().manual_seed(1))
    exact, flow = ring.consistency(x, grid[-1].expand(4096)), TeacherFlow(ring, solver)
    for i in range(17, 0, -1):
        x = flow.step(x, grid[i].expand(4096), grid[i - 1].expand(4096), x, x, None)
    assert (x - exact).square().mean().sqrt().item() == pytest.approx(left, rel=0.05)


def test_distillation_without_a_teachers_flow_is_refused():
    with pytest.raises(UserError, match="flow=teacher"):
        distillation(Denoiser(net(), EDM()), Consistency(net(), Boundary()), flow=DataFlow())
