"""Files of others as models, without a training run: `ckpt_path=FILE as=NAME`."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from consistency.files.config import checked_config
from consistency.files.configs import CONFIGS, options
from consistency.files.description import described
from consistency.model.condition import Condition
from consistency.model.coordinates import DDPM, VP, Linear, Nearest, Trigonometric
from consistency.model.maps import Consistency, Denoiser
from consistency.model.precond import EDM, VE, Boundary, Epsilon, Jump, Velocity
from consistency.nets.adm import ADM
from consistency.sampling.samplers import MultiStep, OneStep, Sampler
from consistency.schedule.draws import ImageDraws
from consistency.teachers.diffusers import diffusers
from consistency.teachers.edm import edm
from consistency.tensor import weights_sha256
from tests.conftest import ROOT, run
from tests.reference import teachers as reference
from tests.sessions import checkpoint
from tests.test_export_diffusers import SMALL, published, shaken
from tests.test_others import file, sampled
from tests.test_teachers import ddpmpp, official_modules  # noqa: F401 - a fixture

GENERIC = ("diffusers", "diffusers_consistency", "ect", "edm", "openai", "openai_consistency")
NETWORK = ["net.multipliers=[1,2]", "net.blocks=1", "net.attention=[4]", "net.shape=[3,8,8]"]
SONG = ["net=ddpmpp", "net.channels=8", "net.embedding.channels=8", "net.augment=9", *NETWORK]


@pytest.fixture
def images(tmp_path):
    """Overrides that choose 32 images of four classes."""
    generator = np.random.default_rng(0)
    for k in range(32):
        place = tmp_path / f"images/{k % 4}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (8, 8, 3), np.uint8)).save(place / f"{k}.png")
    return ["data=image_folder", f"data.root={tmp_path}/images", "data.resolution=8", "data.conditional=true"]


@pytest.fixture
def ask(tmp_path, images):
    """ask(name, *overrides): eval.py in tmp_path/name, about four classes of images of 8 pixels."""

    def asked(name, *overrides):
        common = [*images, "net.classes=4", "fabric=cpu", f"data_dir={tmp_path}/data"]
        return run("eval.py", tmp_path / name, *common, *overrides)

    return asked


def refused(ended):
    assert ended.status == 1
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def as_bytes(x):
    """What an image file has of samples in [-1, 1]."""
    return (x.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).numpy()


# As a user


@pytest.mark.parametrize(
    ("precond", "name", "role", "sampler"),
    [
        ("ECMPrecond", "ect", Consistency, "2step"),
        ("EDMPrecond", "edm", Denoiser, "heun35"),
        ("VPPrecond", "edm", Denoiser, "heun35"),
    ],
)
def test_a_file_is_sampled_and_its_result_says_what_it_is(tmp_path, ask, precond, name, role, sampler):
    path, net = file(tmp_path / "network.pkl", precond)
    ended = ask("out", f"ckpt_path={path}", f"as={name}", *SONG, "task.count=4", "task.array=true")
    assert ended.status == 0, ended.err
    f = edm(path, net())
    assert ended.result["role"] == role.role
    assert ended.result["paths"]["checkpoint"] == str(path)
    assert ended.result["weights_sha256"] == {"published": weights_sha256(f.state_dict())}
    assert (ended.result["experiment"], ended.result["steps"]) == (None, 0)
    config = composed("eval", f"as={name}", *SONG, "data=digits")
    draws = ImageDraws(0, range(4))
    x = instantiate(config.samplers[sampler], _convert_="all")(
        f, draws.normal(torch.empty(4, 3, 8, 8)), Condition(torch.arange(4)), draws
    )
    assert np.abs(np.load(tmp_path / f"out/{sampler}.npy").astype(int) - as_bytes(x)).max() <= 1


def test_a_file_is_measured_edited_and_exported_and_the_export_stands_for_it(tmp_path, ask):
    path, _ = file(tmp_path / "network.pkl", "ECMPrecond")
    about = [f"ckpt_path={path}", "as=ect", *SONG]
    asked = {
        "fidelity": ["task=fidelity", "task.count=8"],
        "ladder": ["task=ladder", "task.calls=[1,2]", "task.search.count=8", "task.search.budget=64",
                   "task.count=8", "task.patience=0.01"],
        "edit": ["task=edit", "edit=denoise", "task.count=2"],
        "gap": ["task=gap", "task.count=8"],
        "sample": ["task.count=4", "task.array=true"],
        "export": ["task=export", "export=safetensors"],
    }  # fmt: skip
    for name, words in asked.items():
        ended = ask(name, *about, *words)
        assert ended.status == 0, (name, ended.err)
        assert ended.result["role"] == "consistency function"
    numbers = json.loads((tmp_path / "fidelity/result.json").read_text())["numbers"]
    said = numbers[0]["card"]["model"]
    assert said["role"] == "consistency function"
    exported = tmp_path / "export/safetensors/model.safetensors"
    path.unlink()
    again = run("eval.py", tmp_path / "again", f"ckpt_path={exported}", "task.count=4", "task.array=true",
                "task.nearest=0", "fabric=cpu")  # fmt: skip
    assert again.status == 0, again.err
    assert again.result["role"] == "consistency function"
    assert np.array_equal(np.load(tmp_path / "again/2step.npy"), np.load(tmp_path / "sample/2step.npy"))


def test_what_openai_does_not_say_is_said_on_the_command_line(tmp_path, ask):
    torch.save(reference.values(reference.unetmodel(128, 1, 0)), tmp_path / "any.pt")
    net = ["net=adm_lsun256", "net.channels=128", "net.head_channels=32", "net.embedding.channels=128"]
    net += [*NETWORK, "net.multipliers=[1,1]", "net.classes=0", "data.conditional=false"]
    for name, role in [("openai", "denoiser"), ("openai_consistency", "consistency function")]:
        words = [f"ckpt_path={tmp_path}/any.pt", f"as={name}", *net, "task.count=2", "task.nearest=0"]
        ended = ask(name, *words)
        assert ended.status == 0, ended.err
        assert ended.result["role"] == role


def test_the_network_follows_the_data_where_nothing_is_given(tmp_path, images):
    path, _ = file(tmp_path / "network.pkl", "ECMPrecond")
    net = [word for word in SONG if "shape" not in word]
    words = [f"ckpt_path={path}", "as=ect", *net, *images, "task.count=2", "fabric=cpu"]
    ended = run("eval.py", tmp_path / "out", *words, f"data_dir={tmp_path}/data")
    assert ended.status == 0, ended.err


def test_a_training_begins_with_a_consistency_function_that_teaches_none(tmp_path, images):
    path, net = file(tmp_path / "network.pkl", "ECMPrecond")
    words = [
        *images,
        "trainer=cpu",
        "trainer.max_steps=8",
        "data.batch_size=4",
        "data.samples=4",
        "teacher=edm",
    ]
    words += [
        "net=ddpmpp",
        "net.channels=8",
        "net.embedding.channels=8",
        "net.augment=9",
        "optimizer.lr=1e-9",
    ]
    words += ["net.multipliers=[1,2]", "net.blocks=1", "net.attention=[4]", f"teacher.path={path}"]
    begun = run("train.py", tmp_path / "ect", "experiment=ect_cifar10", *words)
    assert begun.status == 0, begun.err
    state = torch.load(tmp_path / "ect/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, tensor in edm(path, net()).net.state_dict().items():
        assert torch.allclose(state[f"model.net.{name}"], tensor, atol=1e-6)
    line = refused(run("train.py", tmp_path / "cd", "experiment=cd_cifar10", *words))
    assert "is a consistency function, and a denoiser is needed here" in line


REFUSED = [
    ([], "data= goes with a file of others: say what it is with as=NAME"),
    (["as=ect"], r"(net|data) has no value: give one with \1=NAME \("),
    (["as=ec"], "did you mean 'ect'"),
    (["as=edm", *SONG], "samples from a denoiser, and this model is a consistency function"),
    (["as=ect", *SONG, "sigma.min=0.002"], r"sigma\.min=0\.002 lies below 0\.003"),
    (["as=ect", *SONG, "net.augment=0"], r"ckpt_path=.*is of another network: model\.map_augment\.weight"),
    (["as=openai", *SONG], "ckpt_path="),
    (["as=ect", *SONG, "weights=raw"], "weights=raw is not in the checkpoint, which has: published"),
    (["as=ect", *SONG, "samplers=null"], "samplers"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=lambda case: " ".join(case)[:40] or "none")
def test_what_is_not_said_or_does_not_fit_is_one_line(tmp_path, images, words, message):
    path, _ = file(tmp_path / "network.pkl", "ECMPrecond")
    given = [word for word in images if words or word == "data=image_folder"]
    classes = ["net.classes=4"] if SONG[0] in words else []
    if words and SONG[0] not in words:
        given = []
    ended = run("eval.py", tmp_path / "out", f"ckpt_path={path}", *given, *classes, *words, "fabric=cpu")
    assert re.search(message, line := refused(ended)), line
    assert "teacher.path" not in line


@pytest.mark.parametrize(
    ("name", "such"), [("a.pkl", "as=edm"), ("a.pt", "as=openai_consistency"), ("folder", "as=diffusers")]
)
def test_a_file_that_is_not_ours_asks_what_it_is(tmp_path, name, such):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        (path / "model_index.json").write_text("{}")
    else:
        path.write_bytes(b"")
    line = refused(run("eval.py", tmp_path / "out", f"ckpt_path={path}"))
    assert f"choose what it is, such as {such}" in line


@pytest.mark.parametrize("name", ["last.pt", "last.ckpt"])
def test_a_checkpoint_of_ours_is_one_by_any_name(tmp_path, name):
    shutil.copy(checkpoint(tmp_path, "method=ict", "data=ring", "budget=points"), tmp_path / name)
    ended = run("eval.py", tmp_path / "out", f"ckpt_path={tmp_path / name}", "task.count=4")
    assert ended.status == 0, ended.err


def test_a_damaged_file_is_named_by_the_key_of_the_command(tmp_path, images):
    path, _ = file(tmp_path / "network.pkl", "ECMPrecond")
    path.write_bytes(path.read_bytes()[:-1000])
    words = [f"ckpt_path={path}", "as=ect", *SONG, "net.classes=4", *images]
    assert f"ckpt_path={path} is damaged" in refused(run("eval.py", tmp_path / "out", *words))


# A folder of diffusers beside the library's own pipeline


@pytest.mark.parametrize("calls", [1, 2])
def test_a_consistency_model_of_diffusers_samples_as_its_pipeline(tmp_path, calls):
    theirs = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = shaken(theirs.UNet2DModel(**published("scale_shift"), **SMALL)).eval()
    pipe = theirs.ConsistencyModelPipeline(unet, theirs.CMStochasticIterativeScheduler())
    pipe.save_pretrained(tmp_path)
    z, label = torch.randn(3, 3, 8, 8), torch.tensor([0, 4, 2])
    when = {"num_inference_steps": 1} if calls == 1 else {"num_inference_steps": None, "timesteps": [22, 0]}
    pipe.set_progress_bar_config(disable=True)
    truth = pipe(
        3, class_labels=label, latents=z, generator=torch.Generator().manual_seed(3), output_type="pt", **when
    ).images
    f = diffusers(tmp_path, ADM((3, 8, 8), 5, 128, (1, 2), 2, (4,)))
    config = composed("eval", "as=diffusers_imagenet64").samplers[f"{calls}step"]
    sampler = instantiate(config, _convert_="all")
    assert isinstance(f, Consistency)

    class Known:
        def normal(self, like):
            return torch.randn(like.shape, generator=torch.Generator().manual_seed(3))

    x = sampler(f, z, Condition(label), Known())
    torch.testing.assert_close((x / 2 + 0.5).clamp(0, 1), truth, rtol=0, atol=2e-5)


# The files of configs/as


def composed(name, *overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, list(overrides))


@pytest.mark.parametrize("name", options("as"))
def test_every_option_composes_with_samplers_and_a_network(name):
    more = ["net=ddpmpp", "data=cifar10"] if name in GENERIC else []
    config = composed("eval", f"as={name}", *more)
    made = instantiate(config.samplers, _convert_="all")
    assert made
    assert all(isinstance(sampler, Sampler) for sampler in made.values())
    assert callable(instantiate(config["as"]))
    if name not in GENERIC:
        with torch.device("meta"):
            assert instantiate(config.net, _convert_="all").takes is not None
        assert config.data.conditional is (config.net.classes > 0)


def listed():
    """The overrides of data/README.md for files of others, by entry point."""
    text = (ROOT / "data/README.md").read_text()
    text = text.partition("## Weights of others")[2].partition("| for metrics")[0]
    for row in re.findall(r"^\| `.*$", text, re.MULTILINE):
        *_, model, training, _ = row.split("|")
        for entry, cell in (("eval", model), ("train", training)):
            if found := re.search(r"`(.*?)`", cell):
                yield entry, found[1].replace("FOLDER", "images")


@pytest.mark.parametrize(("entry", "words"), [*listed()], ids=lambda part: part)
def test_the_overrides_of_the_list_compose(entry, words):
    more = [] if entry == "eval" else ["run_dir=out", "hydra.run.dir=out"]
    config = composed(entry, *words.split(), *more)
    assert config.net.get("_target_")
    if "start=teacher" in words:
        assert config.module.start is not None


def test_the_list_is_read():
    assert len([words for entry, words in listed() if entry == "eval"]) == 15


def place(i, n):
    """σ at place i of 0 … n - 1 between 80 and 0.002, evenly in σ^(1/7) (2303.01469, their code)."""
    first, last = 80 ** (1 / 7), 0.002 ** (1 / 7)
    return (first + i / (n - 1) * (last - first)) ** 7


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("cd_imagenet64", place(22, 40)),
        ("ct_imagenet64", place(106, 201)),
        ("cd_lsun256", place(17, 40)),
        ("ect_cifar10", 0.821),
    ],
)
def test_the_levels_of_two_steps_are_those_of_the_originals(name, second):
    made = instantiate(composed("eval", f"as={name}").samplers, _convert_="all")
    clip = name != "ect_cifar10"
    assert made["1step"] == OneStep([80.0], clip=clip)
    assert made["2step"].sigmas == pytest.approx((80.0, second), rel=1e-8)
    assert made["2step"] == MultiStep(made["2step"].sigmas, 0.0 if not clip else 0.002, clip=clip)


def test_the_sampler_of_iddpm_gives_their_samples(tmp_path):
    path, net = file(tmp_path / "network.pkl", "iDDPMPrecond")
    sampler = instantiate(composed("eval", "as=iddpm_imagenet64").samplers.heun35, _convert_="all")
    assert sampled(sampler, edm(path, net().double())) == pytest.approx(reference.IDDPM_HEUN, rel=1e-4)


# Laws as plain data


@pytest.mark.parametrize(
    "law",
    [
        EDM(0.25, 250.0),
        Boundary(0.5, 0.003),
        VE(0.01),
        Epsilon(VP(10.0, 0.2), 499.0),
        Epsilon(DDPM.linear(12)),
        Epsilon(Nearest(DDPM.cosine(12))),
        Velocity(Trigonometric(0.5)),
        Velocity(Linear(), 1000.0),
        Jump(EDM(), 0.003),
    ],
    ids=repr,
)
def test_a_law_is_built_again_from_its_description(law):
    plain = json.loads(json.dumps(described(law)))
    config = checked_config({"precond": plain}, "ckpt_path=file")
    assert described(config.build("precond")) == described(law)
    sigma = torch.tensor([0.05, 1.0, 70.0])
    for ours, theirs in zip(config.build("precond")(sigma), law(sigma), strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_no_plain_data_is_not_described():
    assert described({"a": (1, "b", None)}) == {"a": [1, "b", None]}
    with pytest.raises(TypeError, match="object"):
        described([object()])
