"""Folders of diffusers: the library's own pipeline makes our samples, and what goes out comes back as it was.

The library takes seconds to import, so it is asked for by the tests that need it, and not by this file.
"""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from consistency.codec.pixels import Pixels
from consistency.codec.points import Points
from consistency.errors import UserError
from consistency.export import parts
from consistency.export.diffusers import Diffusers, pipeline_denoise
from consistency.export.grid import grid_of
from consistency.export.model import frozen
from consistency.model.condition import given_label
from consistency.model.maps import Denoiser
from consistency.model.precond import Boundary
from consistency.nets.adm import ADM
from consistency.nets.ddpm import DDPMUNet
from consistency.sampling.samplers import MultiStep
from consistency.teachers import unet2d, unet2d_tensors
from consistency.teachers.diffusers import described, diffusers
from tests.conftest import run
from tests.lists import multisteps
from tests.sessions import checkpoint, outgoing

SIGMAS = {"1step": [80.0], "2step": [80.0, 0.821], "4step": [80.0, 24.4, 5.84, 0.661]}
BOUNDARY = {"_target_": "consistency.model.precond.Boundary", "sigma_data": 0.5, "sigma_min": 0.002}
NATIVE = {**BOUNDARY, "time_scale": 250.0}
TRIGFLOW = {
    "_target_": "consistency.model.precond.Velocity",
    "coordinate": {"_target_": "consistency.model.coordinates.Trigonometric", "unit": 0.5},
}
JUMP = {
    "_target_": "consistency.model.precond.Jump",
    "precond": {
        "_target_": "consistency.model.precond.Velocity",
        "coordinate": {"_target_": "consistency.model.coordinates.Linear"},
    },
}
MLP = {"_target_": "consistency.nets.mlp.MLP", "shape": [1, 8, 8], "classes": 10, "width": 32, "blocks": 1}
UNET = {
    **{"_target_": "consistency.nets.unet.UNet", "shape": [3, 8, 8], "channels": 16, "multipliers": [1, 2]},
    **{"blocks": 1, "attention": [4], "taps": [1, 3, 3, 1], "input_pyramid": True},
    "embedding": {"_target_": "consistency.nets.layers.FourierEmbedding", "channels": 16, "scale": 0.02},
}
DDPM = {
    **{"_target_": "consistency.nets.ddpm.DDPMUNet", "shape": [3, 8, 8], "channels": 16, "groups": 8},
    **{"multipliers": [1, 2], "blocks": 1, "attention": [4], "classes": 4, "head_channels": 8, "padding": 1},
}
WIDE = {  # the least for which all normalisations have 32 groups
    **{"_target_": "consistency.nets.adm.ADM", "shape": [3, 8, 8], "channels": 128, "multipliers": [1, 1]},
    **{"blocks": 1, "attention": [4]},
}
COMPONENTS = {
    "mlp": (MLP, BOUNDARY),
    "ncsnpp": (UNET, BOUNDARY),
    "trigflow": (UNET, TRIGFLOW),
    "flow": (MLP, JUMP),
    "ddpm elsewhere": (DDPM, BOUNDARY),
}
PURE = {
    "ddpm": (DDPM, NATIVE),
    "adm": (WIDE, NATIVE),
    "adm added": ({**WIDE, "scale_shift": False, "classes": 4}, NATIVE),
}
SLOW = {"flow", "ddpm elsewhere", "adm added"}  # which teach little beside the others


def every(cases):
    """Each of the cases; some only when slow tests are asked for."""
    marks = {name: [pytest.mark.slow] if name in SLOW else [] for name in cases}
    params = [pytest.param(*case, id=name, marks=marks[name]) for name, case in cases.items()]
    return pytest.mark.parametrize(("net", "precond"), params)


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("diffusers")


def shaken(net):
    """Weights under which every layer matters."""
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.2
        noise = scale * torch.randn(p.shape, generator=generator)
        p.data = noise if p.ndim > 1 else p.data + noise
    return net


def model(net=MLP, precond=BOUNDARY, sigmas=SIGMAS, pixels=(127.5, 127.5)):
    config = {"_target_": "consistency.model.maps.Consistency", "net": net, "precond": precond}
    f = frozen(shaken(described("test", "model", config)))
    about = {"config": {"model": config}, "experiment": "ict_digits", "step": 7, "weights": "raw"}
    codec = Pixels(*pixels) if len(net["shape"]) == 3 else Points()
    return outgoing(f, net["shape"], net.get("classes", 0), multisteps(sigmas), codec, **about)


def sampled(pipe, m, **words):
    """x as the pipeline makes it, with the first labels; by its own loop."""
    found, labels = [], list(range(3)) if m.classes else None
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    pipe(3, labels, generator=generator, callback=lambda i, t, x: found.append(x), output_type="np", **words)
    return found[-1]


class OneGenerator:
    def __init__(self):
        self.generator = torch.Generator().manual_seed(5)

    def normal(self, x):
        return torch.randn(x.shape, generator=self.generator)


def expected(m, sigmas):
    draws, labels = OneGenerator(), torch.arange(3) if m.classes else None
    return MultiStep(sigmas)(m.f, draws.normal(torch.empty(3, *m.shape)), given_label(labels), draws)


def index(folder):
    return json.loads((folder / "model_index.json").read_text())


class TestOut:
    @every({**COMPONENTS, **PURE})
    def test_the_pipeline_makes_our_samples(self, theirs, tmp_path, net, precond):
        m = model(net, precond)
        made = Diffusers()(m, tmp_path)
        pipe = theirs.ConsistencyModelPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
        one = sampled(pipe, m, num_inference_steps=1)
        assert one.std() > 0.05
        torch.testing.assert_close(one, expected(m, [80.0]), rtol=0, atol=1e-5)
        three = sampled(pipe, m, num_inference_steps=3)
        levels = pipe.scheduler.sigmas[:-1].tolist()
        assert levels[0] == 80 > levels[1] > levels[2] > 0.002
        torch.testing.assert_close(three, expected(m, levels), rtol=0, atol=1e-5)
        for name, program in m.programs().items():  # σ of our own, which the scheduler may not know
            inputs = m.inputs(program, 5, seed=1)
            torch.testing.assert_close(made.runs[name](*inputs), program(*inputs), rtol=0, atol=1e-5)

    def test_timesteps_of_the_page_are_our_sampler(self, theirs, tmp_path):
        m = model()
        Diffusers()(m, tmp_path)
        steps = grid_of(m.sigmas, 0.002).timesteps["4step"]
        assert f"timesteps={steps}" in (tmp_path / "README.md").read_text()
        pipe = theirs.ConsistencyModelPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
        x = sampled(pipe, m, num_inference_steps=None, timesteps=steps)
        assert (x - expected(m, SIGMAS["4step"])).abs().max() < 5e-3  # levels within a part in a thousand
        assert (x - expected(m, SIGMAS["2step"])).abs().max() > 0.1

    def test_a_component_says_whose_it_is_and_why(self, theirs, tmp_path):
        made = Diffusers()(model(UNET, NATIVE), tmp_path)
        assert index(tmp_path)["unet"] == ["consistency.export.diffusers_network", "Network"]
        page = (tmp_path / "README.md").read_text()
        assert "`consistency`" in page
        assert "UNet is none" in page
        assert {p.suffix for p in made.files} == {".md", ".json", ".safetensors"}  # no code

    @pytest.mark.parametrize("net", [UNET, DDPM], ids=["component", "pure"])
    def test_images_of_eight_bits(self, theirs, tmp_path, net):
        m = model(net, NATIVE)
        Diffusers()(m, tmp_path)
        assert "contrast" not in (tmp_path / "README.md").read_text()
        pipe = theirs.ConsistencyModelPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
        pipe.set_progress_bar_config(disable=True)
        labels, generator = [0, 1, 2] if m.classes else None, torch.Generator().manual_seed(5)
        v = torch.from_numpy(pipe(3, labels, generator=generator, output_type="np").images)
        u = (127.5 * expected(m, [80.0]) + 127.5).clamp(0, 255)
        torch.testing.assert_close(255 * v.permute(0, 3, 1, 2), u, rtol=0, atol=1e-2)

    def test_the_page_undoes_the_wrong_contrast(self, theirs, tmp_path):
        """The lines under "raw" on the page make our pixels of 8x8 grey digits."""
        m = model(pixels=(77.85, 191.7))
        Diffusers()(m, tmp_path)
        page = (tmp_path / "README.md").read_text()
        lines = page[page.index("raw = []") :].split("```")[0].replace("pipe(batch_size=4", "pipe(**words")
        pipe = theirs.ConsistencyModelPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
        pipe.set_progress_bar_config(disable=True)
        words = {"batch_size": 3, "class_labels": [0, 1, 2], "generator": torch.Generator().manual_seed(5)}
        scope = {"pipe": pipe, "words": words}
        exec(lines, scope)
        u = 191.7 * expected(m, [80.0]) + 77.85
        assert (scope["pixels"].float() - u.clamp(0, 255)).abs().max() < 0.51

    def test_half_precision(self, theirs, tmp_path):
        """Frequencies, of which a rounded one would be another function, stay what they are."""
        m = model(UNET)
        Diffusers()(m, tmp_path)
        load = theirs.ConsistencyModelPipeline.from_pretrained
        pipe = load(tmp_path, dtype=torch.bfloat16, low_cpu_mem_usage=False)
        assert pipe.unet.dtype == torch.bfloat16
        kept = pipe.unet.net.conditioning.embedding.frequencies
        assert torch.equal(kept, m.f.net.conditioning.embedding.frequencies)
        x, sigma = 80 * torch.randn(3, *m.shape), torch.full((3,), 80.0)
        scaled = (x / (80**2 + 0.25) ** 0.5).bfloat16()
        there = pipe.unet(scaled, 250 * sigma.log(), return_dict=False)[0]
        torch.testing.assert_close(0.5 * there.float(), m.f(x, sigma), rtol=0, atol=0.02)

    def test_another_sampler_is_refused(self, theirs, tmp_path, monkeypatch):
        """A version of the library whose c_out differs must not pass for ours."""
        cls = theirs.CMStochasticIterativeScheduler
        monkeypatch.setattr(cls, "get_scalings_for_boundary_condition", cls.get_scalings)
        with pytest.raises(UserError, match=r"^export=diffusers: diffusers .* samples otherwise"):
            Diffusers(1e-6)(model(), tmp_path)

    @pytest.mark.parametrize(
        ("m", "message"),
        [
            (lambda: model({**MLP, "shape": [2]}), "square images, not data of shape \\(2,\\)"),
            (lambda: model({**MLP, "shape": [1, 8, 4]}), "square images, not data of shape \\(1, 8, 4\\)"),
            (lambda: model(sigmas={}), "needs a sampler of one step"),
            (
                lambda: model().with_map(Denoiser(model().f.net, BOUNDARY)),
                "consistency function, and this is a denoiser",
            ),
            (lambda: model(UNET, TRIGFLOW, {"low": [80.0, 0.002]}), "^export=diffusers: low has a level"),
        ],
        ids=["points", "oblong", "no sampler", "teacher", "level"],
    )
    def test_what_no_pipeline_can_sample(self, theirs, tmp_path, m, message):
        with pytest.raises(UserError, match=message):
            Diffusers()(m(), tmp_path)
        assert not list(tmp_path.iterdir())

    def test_a_level_at_the_end_changes_nothing_under_boundary(self, theirs, tmp_path):
        m = model(sigmas={"low": [80.0, 0.002]})
        made, (program,) = Diffusers()(m, tmp_path), m.programs().values()
        inputs = m.inputs(program, 2)
        torch.testing.assert_close(made.runs["low"](*inputs), program(*inputs), rtol=0, atol=1e-5)

    def test_at_the_end_the_image_stays(self, theirs, tmp_path):
        """Where f(x, ε) is not x, what the network is asked for must not grow without bound."""
        m = model(UNET, TRIGFLOW)
        Diffusers()(m, tmp_path)
        pipe = theirs.ConsistencyModelPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
        x = torch.randn(2, *m.shape)
        torch.testing.assert_close(pipeline_denoise(pipe, x, 0.002, None), x, rtol=0, atol=1e-5)
        assert pipe.unet(x, pipe.scheduler.timesteps[0], return_dict=False)[0].abs().max() < 100

    def test_without_the_library(self, tmp_path, monkeypatch):
        def absent(name):
            raise ImportError(name)

        monkeypatch.setattr(parts, "import_module", absent)
        with pytest.raises(UserError, match=r"pip install -e '\.\[export\]'$"):
            Diffusers()(model(), tmp_path)


class TestGrid:
    def test_one_level_is_met(self):
        grid = grid_of({"2step": [80.0, 0.821]}, 0.002)
        assert grid.sigmas(grid.timesteps["2step"]) == pytest.approx([80, 0.821], rel=1e-5)

    def test_several_are_near(self):
        grid = grid_of(SIGMAS, 0.002)
        for name, sigmas in SIGMAS.items():
            assert grid.sigmas(grid.timesteps[name]) == pytest.approx(sigmas, rel=1e-3)

    def test_one_step_takes_the_grid_of_the_library(self):
        assert grid_of({"1step": [80.0]}, 0.002)[:3] == (40, 0.002, 80.0)

    def test_levels_are_those_of_the_scheduler(self, theirs):
        grid = grid_of(SIGMAS, 0.002)
        scheduler = theirs.CMStochasticIterativeScheduler(grid.N, 0.002, 80.0)
        scheduler.set_timesteps(timesteps=grid.timesteps["4step"])
        assert grid.sigmas(grid.timesteps["4step"]) == pytest.approx(scheduler.sigmas[:-1].tolist(), rel=1e-6)

    def test_lists_that_the_pipeline_cannot_follow(self):
        lists = {"a": [80.0], "elsewhere": [40.0, 1.0], "close": [80.0, 0.002, 0.001]}
        assert grid_of(lists, 0.002).timesteps == {"a": [0]}


class TestBack:
    @every(COMPONENTS)
    def test_a_component_comes_back_as_it_was(self, theirs, tmp_path, net, precond):
        m = model(net, precond)
        Diffusers()(m, tmp_path)
        self._same(m, diffusers(tmp_path, torch.nn.Identity()))

    @every(PURE)
    def test_a_pure_folder_needs_nobody_else_and_comes_back_as_it_was(self, theirs, tmp_path, net, precond):
        m, other = model(net, precond), model(net, precond).f.net
        torch.nn.init.zeros_(other.stem.weight)
        made = Diffusers()(m, tmp_path)
        self._same(m, diffusers(tmp_path, other))
        assert index(tmp_path)["unet"] == ["diffusers", "UNet2DModel"]
        assert "consistency." not in "".join(p.read_text() for p in made.files if p.suffix == ".json")
        assert "no other package" in (tmp_path / "README.md").read_text()

    def _same(self, m, back):
        assert back.precond == m.f.precond
        assert not back.training
        here, there = m.f.state_dict(), back.state_dict()
        assert here.keys() == there.keys()
        assert all(torch.equal(here[name], there[name]) for name in here)
        x, sigma = torch.randn(2, *m.shape), torch.tensor([0.3, 40.0])
        label = torch.tensor([1, 0]) if m.classes else None
        assert torch.equal(back(x, sigma, given_label(label)), m.f(x, sigma, given_label(label)))

    @pytest.mark.parametrize("shift", ["scale_shift", pytest.param("default", marks=pytest.mark.slow)])
    def test_a_network_of_the_library(self, theirs, tmp_path, shift):
        """One that never was ours, in the shape of openai/diffusers-cd_imagenet64_l2, or -cd_cat256_l2."""
        torch.manual_seed(0)
        unet = shaken(theirs.UNet2DModel(**published(shift), **SMALL)).eval()
        theirs.ConsistencyModelPipeline(unet, theirs.CMStochasticIterativeScheduler()).save_pretrained(
            tmp_path
        )
        net = ADM((3, 8, 8), 5, 128, (1, 2), 2, (4,), scale_shift=shift == "scale_shift")
        f = diffusers(tmp_path, net)
        assert f.precond == Boundary(0.5, 0.002, 250.0)
        x, t, label = torch.randn(3, 3, 8, 8), torch.tensor([-900.0, 3.5, 1095.5]), torch.tensor([0, 4, 2])
        with torch.no_grad():
            truth = unet(x, t, label).sample
            assert truth.std() > 0.1
            torch.testing.assert_close(f.net(x, t, given_label(label)), truth, rtol=0, atol=1e-5)

    def test_a_network_of_the_library_with_other_settings(self, theirs, tmp_path):
        unet = theirs.UNet2DModel(**published("scale_shift"), **SMALL)
        theirs.ConsistencyModelPipeline(unet, theirs.CMStochasticIterativeScheduler()).save_pretrained(
            tmp_path
        )
        with pytest.raises(UserError, match=r"set net\.scale_shift$"):
            diffusers(tmp_path, ADM((3, 8, 8), 5, 128, (1, 2), 2, (4,), scale_shift=False))
        with pytest.raises(UserError, match=r"to_q\.weight is \[128, 128\] there|set net\.head_channels$"):
            diffusers(tmp_path, ADM((3, 8, 8), 5, 128, (1, 2), 2, (4,), head_channels=32))
        with pytest.raises(UserError, match="scale_shift is not supported by DDPMUNet"):
            diffusers(tmp_path, DDPMUNet((3, 8, 8), 5, 128, (1, 2), 2, (4,)))

    def test_nothing_foreign_is_called(self, theirs, tmp_path):
        """Neither by the reader nor by the library's own from_pretrained."""
        Diffusers()(model(), tmp_path)
        file = tmp_path / "unet" / "config.json"
        config, mark = json.loads(file.read_text()), tmp_path / "called"
        config["denoiser"]["net"] = {"_target_": "os.system", "command": f"touch {mark}"}
        file.write_text(json.dumps(config))
        with pytest.raises(UserError, match=r"would call os\.system"):
            diffusers(tmp_path, torch.nn.Identity())
        with pytest.raises(UserError, match=r"would call os\.system"):
            theirs.ConsistencyModelPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
        assert not mark.exists()


SMALL = {
    **{"sample_size": 8, "block_out_channels": (128, 256), "layers_per_block": 2, "num_class_embeds": 5},
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}


def published(shift):
    """What scripts/convert_consistency_to_diffusers.py of the library gives UNet2DModel, beside sizes."""
    norm = {"attn_norm_num_groups": 32} if shift == "scale_shift" else {}
    types = {"downsample_type": "resnet", "upsample_type": "resnet"}
    return {"attention_head_dim": 64, "resnet_time_scale_shift": shift, **types, **norm}


@pytest.mark.slow
class TestSlow:
    @pytest.mark.parametrize(
        ("shift", "resolution", "widths", "blocks", "attending", "classes", "parameters"),
        [
            ("scale_shift", 64, (192, 384, 576, 768), 3, 3, 1000, 295_899_267),
            ("default", 256, (256, 256, 512, 512, 1024, 1024), 2, 3, 0, 526_304_771),
        ],
        ids=["imagenet64", "lsun256"],
    )
    def test_the_published_networks_have_these_tensors(
        self, theirs, shift, resolution, widths, blocks, attending, classes, parameters
    ):
        plain = len(widths) - attending
        with torch.device("meta"):
            unet = theirs.UNet2DModel(
                **published(shift),
                sample_size=resolution,
                block_out_channels=widths,
                layers_per_block=blocks,
                down_block_types=["ResnetDownsampleBlock2D"] * plain + ["AttnDownBlock2D"] * attending,
                up_block_types=["AttnUpBlock2D"] * attending + ["ResnetUpsampleBlock2D"] * plain,
                num_class_embeds=classes or None,
            )
            multipliers = [width // widths[0] for width in widths]
            shifted, shape = shift == "scale_shift", (3, resolution, resolution)
            net = ADM(shape, classes, widths[0], multipliers, blocks, scale_shift=shifted)
            ours = {name: t.shape for name, t in unet2d_tensors.their_weights(net).items()}
        assert sum(p.numel() for p in net.parameters()) == parameters
        assert ours == {name: t.shape for name, t in unet.state_dict().items()}
        assert not list(unet2d.differing_field(json.loads(unet.to_json_string()), net))

    def test_a_large_network(self, theirs, tmp_path):
        """NCSN++ for CIFAR-10, 56 million parameters; about half a minute of one core."""
        net = {"_target_": "consistency.nets.unet.UNet", "shape": [3, 32, 32], "taps": [1, 3, 3, 1]}
        fourier = {"_target_": "consistency.nets.layers.FourierEmbedding", "channels": 256, "scale": 0.02}
        m = model({**net, "input_pyramid": True, "embedding": fourier}, sigmas={"2step": [80.0, 0.821]})
        made, (program,) = Diffusers()(m, tmp_path), m.programs().values()
        inputs = m.inputs(program, 3, seed=1)
        torch.testing.assert_close(made.runs["2step"](*inputs), program(*inputs), rtol=0, atol=1e-5)

    def test_a_fresh_process_that_imports_what_the_page_says(self, theirs, tmp_path):
        m = model(UNET)
        Diffusers()(m, tmp_path)
        page = (tmp_path / "README.md").read_text()
        start = page[page.index("import") : page.index("\npipe = ")]
        code = f"""
import torch
from safetensors.torch import save_file
{start}
pipe, found = ConsistencyModelPipeline.from_pretrained({str(tmp_path)!r}), []
pipe(3, generator=torch.Generator().manual_seed(5), callback=lambda i, t, x: found.append(x))
pipe.save_pretrained({str(tmp_path / "again")!r})
save_file({{"x": found[-1]}}, {str(tmp_path / "x.safetensors")!r})
"""
        subprocess.run([sys.executable, "-c", code], check=True)
        x = load_file(tmp_path / "x.safetensors")["x"]
        torch.testing.assert_close(x, expected(m, [80.0]), rtol=0, atol=1e-5)
        assert index(tmp_path / "again")["unet"] == index(tmp_path)["unet"]

    def test_from_the_command_line(self, theirs, tmp_path):
        (tmp_path / "run").mkdir()
        ckpt = checkpoint(tmp_path / "run")
        done = run("eval.py", tmp_path / "out", "task=export", "export=diffusers", f"ckpt_path={ckpt}")
        assert done.status == 0, done.err
        folder = tmp_path / "out" / "diffusers"
        assert index(folder)["_class_name"] == "ConsistencyModelPipeline"
        assert done.result["metrics"]["error/diffusers/1step"] < 1e-5
