"""Other people's weights: what their own code makes of them, and files that are not what they say."""

import builtins
import io
import os
import pickle
import re
import sys
from functools import cache, partial
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from consistency.errors import UserError
from consistency.model.condition import NONE, Condition
from consistency.model.coordinates import VP
from consistency.model.precond import EDM, Epsilon
from consistency.nets.adm import ADM
from consistency.nets.layers import FourierEmbedding
from consistency.nets.unet import UNet
from consistency.teachers.edm import edm
from consistency.teachers.openai import openai
from consistency.teachers.unpickle import read_pkl
from consistency.teachers.weights import load_into
from tests.conftest import run
from tests.reference import teachers as reference

FIR = (1, 3, 3, 1)


def ddpmpp(**options):
    return UNet(**reference.SONG_SIZE | options)


def ncsnpp(**options):
    options = {"embedding": FourierEmbedding(16), "taps": FIR, "input_pyramid": True} | options
    return ddpmpp(**options)


def dhariwal(**options):
    return ADM(**reference.DHARIWAL_SIZE | options)


def unetmodel(**options):
    return ADM(**reference.UNETMODEL_SIZE | options)


# Files as EDM writes them: each module pickles as a call of its persistence module, with its source code

SOURCE = "raise SystemExit('the source in a file was executed')"


class Persistent(nn.Module):
    """A module that pickles as EDM's do."""

    def __init__(self, class_name, source=SOURCE, **state):
        super().__init__()
        self.class_name, self.source = class_name, source
        self.__dict__.update(state)

    def __reduce__(self):
        state = {k: v for k, v in self.__dict__.items() if k not in ("class_name", "source")}
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.class_name}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta | {"state": state},)


class EasyDict(dict):
    """A dict with attributes."""


@pytest.fixture(autouse=True)
def official_modules(monkeypatch):
    """Modules under the names that EDM's files refer to, there while a file is written."""

    def _reconstruct_persistent_obj(meta):
        raise SystemExit("an object of a file was built")

    for name, things in {
        "torch_utils": [],
        "torch_utils.persistence": [_reconstruct_persistent_obj],
        "dnnlib": [],
        "dnnlib.util": [EasyDict],
    }.items():
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        for thing in things:
            thing.__module__, thing.__qualname__ = name, thing.__name__
            setattr(sys.modules[name], thing.__name__, thing)


def tree(tensors, model):
    """The modules of a network of EDM's, from its state_dict. Blocks hold numpy's numbers, as theirs do."""
    root = Persistent(model)
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        parent = root
        for part in path:
            if part not in parent._modules:
                container = part in ("enc", "dec")
                new = nn.ModuleDict() if container else Persistent("UNetBlock", skip_scale=np.sqrt(0.5))
                parent._modules[part] = new
            parent = parent._modules[part]
        if leaf in ("freqs", "resample_filter"):
            parent.register_buffer(leaf, tensor)
        else:
            parent.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    return root


def write_edm(path, tensors, model="SongUNet", precond="EDMPrecond", said=None, buffers=None, **state):
    """A network-snapshot of EDM: the network, its loss and the options of its data.

    said: more of the state of some modules, {name: state}; buffers: of the preconditioner.
    """
    state = {"img_resolution": 8, "label_dim": 4, "sigma_data": 0.5, "sigma_max": float("inf")} | state
    ema = Persistent(precond, **state)
    ema._modules["model"] = root = tree(tensors, model)
    ema._buffers.update(buffers or {})
    for name, more in (said or {}).items():
        *path_to, leaf = name.split(".")
        parent = root.get_submodule(".".join(path_to))
        parent._modules.setdefault(leaf, Persistent("PositionalEmbedding")).__dict__.update(more)
    options = EasyDict(path="data.zip", resolution=8, xflip=np.bool_(False))
    snapshot = {"ema": ema, "loss_fn": Persistent("EDMLoss", P_mean=-1.2), "augment_pipe": None}
    with path.open("wb") as file:
        pickle.dump(snapshot | {"dataset_kwargs": options}, file)
    return path


@pytest.fixture
def song_file(tmp_path):
    """song_file(change): DDPM++ of EDM, after `change` of its tensors."""

    def write(change=lambda tensors: None, **state):
        tensors = reference.values(reference.song())
        change(tensors)
        return write_edm(tmp_path / "edm.pkl", tensors, **state)

    return write


@cache
def plain_values():
    """The tensors of OpenAI's unconditional network."""
    return reference.values(reference.unetmodel(128, 1, 0))


@pytest.fixture
def openai_file(tmp_path):
    """openai_file(change): the unconditional ADM of OpenAI, after `change` of its tensors."""

    def write(change=lambda tensors: None):
        tensors = dict(plain_values())
        change(tensors)
        torch.save(tensors, tmp_path / "openai.pt")
        return tmp_path / "openai.pt"

    return write


def pixels(D, conditional=True):
    """What the goldens are, in float64, with labels and without."""
    x, sigma, label = reference.inputs()
    conditions = (Condition(label), NONE) if conditional else (NONE,)
    return [D.double()(x, sigma, c)[:, :, 2, 3].flatten().tolist() for c in conditions]


# Against their own code


@pytest.mark.parametrize(
    ("shapes", "model", "precond", "net", "expected"),
    [
        (partial(reference.song, 2), "SongUNet", "EDMPrecond", ddpmpp, reference.DDPMPP),
        (partial(reference.song, 4), "SongUNet", "EDMPrecond", ncsnpp, reference.NCSNPP),
        (partial(reference.song, 2), "SongUNet", "VPPrecond", ddpmpp, reference.VP),
        (reference.dhariwal, "DhariwalUNet", "EDMPrecond", dhariwal, reference.DHARIWAL),
    ],
    ids=["ddpmpp", "ncsnpp", "vp", "adm"],
)
def test_edm(tmp_path, shapes, model, precond, net, expected):
    vp = {"beta_d": 19.9, "beta_min": 0.1, "M": 1000}
    path = write_edm(tmp_path / "edm.pkl", reference.values(shapes()), model, precond, **vp)
    D = edm(path, net().double())
    for output, golden in zip(pixels(D), expected, strict=True):
        assert output == pytest.approx(golden, abs=2e-6)
    assert not D.training
    assert not any(p.requires_grad for p in D.parameters())


@pytest.mark.parametrize(
    ("shapes", "net", "expected"),
    [
        (reference.unetmodel, unetmodel, reference.UNETMODEL),
        (partial(reference.unetmodel, 128, 1, 0), partial(ADM, **reference.PLAIN_SIZE), reference.PLAIN),
    ],
    ids=["imagenet", "lsun"],
)
def test_openai(tmp_path, shapes, net, expected):
    torch.save(reference.values(shapes()), tmp_path / "openai.pt")
    D = openai(tmp_path / "openai.pt", net().double())
    assert pixels(D, "label_emb.weight" in shapes())[0] == pytest.approx(expected, abs=2e-6)
    assert not D.training
    assert not any(p.requires_grad for p in D.parameters())


def test_the_time_of_openai_is_a_thousand_times_edms(song_file, openai_file):
    """One kind of network is in both files, and is given 250 ln σ or ln(σ)/4 (trap 8)."""
    theirs = edm(song_file(), ddpmpp())
    ours = openai(openai_file(), ADM(**reference.PLAIN_SIZE))
    sigma = torch.tensor([0.002, 0.3, 80.0], dtype=torch.float64)
    torch.testing.assert_close(ours.precond(sigma).noise, 250 * sigma.log())
    torch.testing.assert_close(ours.precond(sigma).noise, 1000 * theirs.precond(sigma).noise)
    for a, b in zip(ours.precond(sigma)[:3], theirs.precond(sigma)[:3], strict=True):
        assert torch.equal(a, b)


def test_what_a_file_says_of_its_data(song_file):
    assert edm(song_file(sigma_data=np.float64(0.25)), ddpmpp()).precond == EDM(0.25)
    vp = {"beta_d": 10.0, "beta_min": 0.2, "M": 500, "precond": "VPPrecond"}
    assert edm(song_file(**vp), ddpmpp()).precond == Epsilon(VP(10.0, 0.2), 499.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_becomes_the_networks(openai_file, dtype):
    def change(tensors):
        tensors.update({k: v.to(dtype) for k, v in tensors.items()})

    net = openai(openai_file(change), ADM(**reference.PLAIN_SIZE)).net
    assert {v.dtype for v in net.state_dict().values()} == {torch.float32}
    stem = plain_values()["input_blocks.0.0.weight"]
    assert torch.equal(net.stem.weight, stem.to(dtype).float())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(tmp_path, protocol):
    meta = {"options": EasyDict(a=1), "pair": {1, 2}, "half": np.float32(0.5), "many": np.int64(-3)}
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps(meta, protocol))
    if protocol < 3:  # Python 2 had other names and no bytes; no file of EDM's is so old
        with pytest.raises(UserError, match="would call"):
            read_pkl(tmp_path / "edm.pkl")
    else:
        old = (tmp_path / "edm.pkl").read_bytes().replace(b"cnumpy._core.", b"cnumpy.core.")
        (tmp_path / "edm.pkl").write_bytes(old)
        assert read_pkl(tmp_path / "edm.pkl") == {
            "options": {"a": 1}, "pair": {1, 2}, "half": 0.5, "many": -3
        }  # fmt: skip


# Files of another network


def missing(tensors, name):
    del tensors[name]


def reshaped(tensors, name):
    tensors[name] = tensors[name][:, :4]


def unexpected(tensors, name):
    tensors["map_ex\ntra.weight"] = torch.zeros(3)


def whole(tensors, name):
    tensors[name] = tensors[name].long()


DIFFERENT = [
    (missing, "{name} is absent there and [{n}, {n}, 3, 3] here"),
    (reshaped, "{name} is [{n}, 4, 3, 3] there and [{n}, {n}, 3, 3] here"),
    (unexpected, r"map_ex\ntra.weight is [3] there and absent here"),
    (whole, "{name} is [{n}, {n}, 3, 3] int64 there and [{n}, {n}, 3, 3] here"),
]


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("change", "message"), DIFFERENT)
@pytest.mark.parametrize("read", [edm, openai])
def test_a_tensor_that_does_not_fit_is_named(song_file, openai_file, read, change, message):
    official = read is edm
    name = "enc.8x8_block0.conv0.weight" if official else "input_blocks.1.0.in_layers.2.weight"
    net = ddpmpp() if official else ADM(**reference.PLAIN_SIZE)
    path = (song_file if official else openai_file)(lambda tensors: change(tensors, name))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    expected = re.escape(message.format(name=name, n=8 if official else 128))
    with pytest.raises(UserError, match=rf"{path.name} .*{expected}; choose .*net=") as error:
        read(path, net)
    one_line(error)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (dhariwal, "SongUNet and net is a ADM"),
        (partial(ddpmpp, classes=0), r"model\.map_label\.\w+ is .* there and absent here"),
        (partial(ddpmpp, augment=0), r"model\.map_augment\.weight"),
        (partial(ddpmpp, blocks=2), r"model\.enc\.8x8_block1\.norm0\.weight is absent there"),
        (partial(ddpmpp, attention=()), r"model\.\w+\.4x4_block\d\.norm2\.\w+ is .* there and absent"),
        (partial(ddpmpp, taps=FIR), r"model\.\w+\.\w+\.conv0\.resample_filter .*net\.taps"),
        (ncsnpp, "resample_filter|map_noise"),
    ],
)
def test_the_wrong_net_for_edm(song_file, net, message):
    with pytest.raises(UserError, match=rf"{message}.*choose .*net=") as error:
        edm(song_file(), net())
    one_line(error)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (ddpmpp, "net is a UNet"),
        (partial(ADM, **reference.PLAIN_SIZE | {"scale_shift": True}), r"emb_layers\.1\.weight"),
        (partial(ADM, **reference.PLAIN_SIZE | {"classes": 7}), r"label_emb\.weight is absent there"),
        (
            partial(ADM, **reference.PLAIN_SIZE | {"blocks": 2}),
            r"input_blocks\.4\.0\.in_layers\.0\.weight is absent",
        ),
    ],
)
def test_the_wrong_net_for_openai(openai_file, net, message):
    with pytest.raises(UserError, match=rf"{message}.*choose .*net=") as error:
        openai(openai_file(), net())
    one_line(error)


@pytest.mark.parametrize("precond", ["EDMPrecon", "torch.nn.Linear", "a\nb"])
def test_other_preconditioners_of_edm(song_file, precond):
    with pytest.raises(
        UserError, match=r"not read here.*EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond"
    ) as error:
        edm(song_file(precond=precond), ddpmpp())
    one_line(error)


def test_names_are_ours_where_a_file_has_no_other(tmp_path):
    net = nn.Linear(2, 3)
    with pytest.raises(UserError, match=r"of another network: bias is absent there and \[3\] here"):
        load_into(net, {"weight": torch.zeros(3, 2)}, tmp_path / "file")
    with pytest.raises(UserError, match=r": b is \[2\] there"):
        load_into(net, {"weight": net.weight, "bias": torch.zeros(2)}, tmp_path / "file", {"bias": "b"})


# Files that are damaged, or no weights at all


@pytest.mark.parametrize(("read", "net"), [(edm, ddpmpp), (openai, unetmodel)])
def test_a_file_that_is_not_there(tmp_path, read, net):
    with pytest.raises(UserError, match=r"teacher\.path=.*gone\.pkl: no such file") as error:
        read(tmp_path / "gone.pkl", net())
    one_line(error)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file(song_file, openai_file, kept):
    small = ADM(**reference.PLAIN_SIZE)
    for path, read, net in [(song_file(), edm, ddpmpp()), (openai_file(), openai, small)]:
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(UserError, match=rf"teacher\.path=.*{path.name}.*not loaded") as error:
            read(path, net)
        one_line(error)


ODD = [None, 3, [], {}, {"ema": 3}, {"ema": {}}, {"ema": nn.ModuleDict()}, {"weight": 3}]


@pytest.mark.parametrize("content", ODD, ids=str)
def test_a_file_of_something_else(tmp_path, content):
    (tmp_path / "odd.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"teacher\.path=.*odd\.pkl") as error:
        edm(tmp_path / "odd.pkl", ddpmpp())
    one_line(error)
    if not isinstance(content, dict) or content.get("weight"):
        torch.save(content, tmp_path / "odd.pt")
        with pytest.raises(UserError, match=r"odd\.pt is no state_dict") as error:
            openai(tmp_path / "odd.pt", unetmodel())
        one_line(error)


@pytest.mark.parametrize("state", [None, 3, {}, {"sigma_data": "x"}, {"sigma_data": 0.5, "_modules": 7}])
def test_a_record_without_a_network(tmp_path, state):
    class Raw:
        def __reduce__(self):
            meta = {"class_name": "EDMPrecond", "state": state}
            return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)

    (tmp_path / "odd.pkl").write_bytes(pickle.dumps({"ema": Raw()}))
    with pytest.raises(UserError, match="damaged") as error:
        edm(tmp_path / "odd.pkl", ddpmpp())
    one_line(error)


# Files that would run something


class Call:
    """Pickles as a call of any function, and perhaps a state."""

    def __init__(self, function, *args, state=None):
        self.recipe = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.recipe


def dumped(*values):
    """Bytes of torch's old format, whose second pickle is ours."""
    with io.BytesIO() as file:
        torch.save(values[0], file, _use_new_zipfile_serialization=False)
        return file.getvalue()


def attacks(sentinel):
    """Objects whose ordinary unpickling writes `sentinel`, by way of name."""
    touch, code = f"touch {sentinel}", f"__import__('os').mkdir({str(sentinel)!r})"
    load = torch.storage._load_from_bytes
    inner = sentinel.with_suffix(".inner")
    inner.write_bytes(pickle.dumps(Call(os.system, touch)))
    return {
        "system": Call(os.system, touch),
        "eval": Call(builtins.eval, code),
        "exec": Call(builtins.exec, code),
        "mkdir": Call(os.mkdir, str(sentinel)),
        "getattr": Call(builtins.getattr, Call(__import__, "os"), "system"),
        "torch.load": Call(torch.load, str(inner), None, None),
        "pickle.loads": Call(pickle.loads, inner.read_bytes()),
        "nested": Call(load, dumped(Call(os.system, touch))),
        "nested twice": Call(load, dumped(Call(load, dumped(Call(os.system, touch))))),
        "nested pickle": Call(load, inner.read_bytes()),
        "in a dtype": Call(np.dtype, Call(os.system, touch)),
        "partial": Call(partial, os.system, touch),
        "state": Call(nn.Linear, 1, 1, state={"a": Call(os.system, touch)}),
        "source": Persistent("EDMPrecond", source=f"import os; os.system({touch!r})"),
    }


NAMES = [
    "system", "eval", "exec", "mkdir", "getattr", "torch.load", "pickle.loads", "nested", "nested twice",
    "nested pickle", "in a dtype", "partial", "state",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("read", ["edm", "openai"])
def test_a_file_executes_nothing(tmp_path, song_file, name, read):
    sentinel = tmp_path / "sentinel"
    attack = attacks(sentinel)[name]
    if read == "edm":
        path = song_file(attack=attack)
        with pytest.raises(UserError, match=r"edm\.pkl would call .* and was not loaded") as error:
            edm(path, ddpmpp())
    else:
        path = tmp_path / "openai.pt"
        torch.save({"weight": attack}, path)
        with pytest.raises(UserError, match=r"openai\.pt holds something other.* was not loaded") as error:
            openai(path, unetmodel())
    one_line(error)
    assert not sentinel.exists()


def test_the_attacks_are_real(tmp_path):
    """Unpickled by pickle, each of a kind does what the test above forbids."""
    for name in ("system", "eval", "exec", "mkdir", "pickle.loads", "nested pickle"):
        sentinel = tmp_path / name.replace(" ", "_")
        data = pickle.dumps(attacks(sentinel)[name])
        if name == "nested pickle":
            data = attacks(sentinel)[name].recipe[1][0]
        pickle.loads(data)
        assert sentinel.exists(), name


def test_the_source_in_a_record_does_not_run(tmp_path, song_file):
    sentinel = tmp_path / "sentinel"
    assert edm(song_file(loss=attacks(sentinel)["source"]), ddpmpp()).precond == EDM(0.5)
    assert not sentinel.exists()


@pytest.mark.parametrize("name", ["posix.system", "os.system", "builtins.eval", "torch._utils.__builtins__"])
def test_a_refused_global_is_named(tmp_path, name):
    module, _, function = name.rpartition(".")
    (tmp_path / "bad.pkl").write_bytes(f"c{module}\n{function}\n.".encode())
    with pytest.raises(UserError, match=rf"bad\.pkl would call {name} and"):
        read_pkl(tmp_path / "bad.pkl")


def stack_global(module, name):
    return b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name)) + b"\x93"


RECONSTRUCT = stack_global("torch_utils.persistence", "_reconstruct_persistent_obj")
DICT, SET = stack_global("collections", "OrderedDict"), stack_global("builtins", "set")
MODULES = stack_global("torch.nn.modules.container", "ModuleDict")
TENSOR = stack_global("torch._utils", "_rebuild_tensor_v2")
BYTES, SCALAR = (
    stack_global("torch.storage", "_load_from_bytes"),
    stack_global("numpy.core.multiarray", "scalar"),
)
DTYPE = stack_global("numpy", "dtype")
GETATTR = stack_global("builtins", "getattr")
ATTRIBUTES = b"N}\x8c\x0c__setstate__" + SET + b"s\x86b."  # state (None, {name: a callable}), and BUILD


@pytest.mark.parametrize(
    "program",
    [
        *(word + ATTRIBUTES for word in (RECONSTRUCT, DICT, SET, MODULES, TENSOR, BYTES, SCALAR, DTYPE)),
        *(word + b")\x81" + ATTRIBUTES for word in (DICT, SET, MODULES)),  # an instance of it
        RECONSTRUCT + b"}\x8c\x08__code__" + SET + b"sb.",
        stack_global("collections", "OrderedDict.__init__.__globals__"),
        stack_global("torch_utils.persistence", "_reconstruct_persistent_obj.value"),
        TENSOR + b"(NK\x00)K\x01\x85tR.",  # no storage
        *(GETATTR + word + b"\x8c\x09__class__\x86R." for word in (DICT, SET, TENSOR, RECONSTRUCT)),
        GETATTR + DICT + b")\x81\x8c\x05clear\x86R.",
        GETATTR + MODULES + b")\x81K\x01\x86R.",  # no name
        BYTES + b"K\x05\x85R.",
        SCALAR + b"(\x8c\x02f8C\x08aaaaaaaatR.",
        DTYPE + b"\x8c\x01O\x85R.",  # an array of objects would unpickle
        b"\x80\x04P1\n.",  # a persistent id
        b"\x80\x04\x82\x01.",  # an extension
    ],
)
def test_admitted_words_cannot_be_misused(tmp_path, program):
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x04" + program)
    with pytest.raises(UserError, match=r"bad\.pkl (would call|is damaged)") as error:
        read_pkl(tmp_path / "bad.pkl")
    one_line(error)


@pytest.mark.parametrize(
    ("offset", "size", "stride"), [(0, (5,), (1,)), (3, (2,), (1,)), (-1, (1,), (1,)), (0, (2,), (-1,))]
)
def test_a_tensor_stays_within_its_storage(tmp_path, offset, size, stride):
    storage = torch.zeros(4).untyped_storage()
    inner = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    call = Call(torch._utils._rebuild_tensor_v2, inner, offset, size, stride, False, {})
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(call))
    with pytest.raises(UserError, match="damaged"):
        read_pkl(tmp_path / "bad.pkl")


def test_a_method_that_a_loss_keeps_is_its_name(tmp_path, song_file):
    """ECT's loss has its law of r as an attribute, and pickles it as a call of getattr."""
    law = Call(getattr, Persistent("ECMLoss"), "t_to_r_sigmoid")
    content = read_pkl(song_file(loss=Persistent("ECMLoss", t_to_r=law)))
    assert content["ema"].state["loss"].state["t_to_r"].value == "t_to_r_sigmoid"


def test_a_state_of_training_is_not_a_snapshot(tmp_path):
    torch.save({"net": torch.zeros(3)}, tmp_path / "training-state-latest.pt")
    with pytest.raises(UserError, match=r"use the network-snapshot-\*\.pkl beside it") as error:
        edm(tmp_path / "training-state-latest.pt", ddpmpp())
    one_line(error)


# As a user


def test_an_official_file_teaches_a_student_of_the_same_network(tmp_path, song_file):
    """From the .pkl to a student whose checkpoint stands alone."""
    for k in range(4):
        (tmp_path / f"images/{k}").mkdir(parents=True)
        Image.new("RGB", (8, 8), (60 * k, 0, 0)).save(tmp_path / f"images/{k}/a.png")
    words = [
        "experiment=cd_cifar10",
        "data=image_folder",
        f"data.root={tmp_path}/images",
        "data.resolution=8",
    ]
    words += ["data.conditional=true", "data.batch_size=4", "data.samples=4", "trainer=cpu", "net=ddpmpp"]
    words += ["trainer.max_steps=2", "net.channels=8", "net.multipliers=[1,2]", "net.blocks=1"]
    words += ["net.attention=[4]", "net.embedding.channels=8", "net.augment=9", "teacher=edm"]
    file = song_file()
    taught = run("train.py", tmp_path / "cd", *words, f"teacher.path={file}", "optimizer.lr=1e-9")
    assert taught.status == 0, taught.err
    student = torch.load(tmp_path / "cd/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, tensor in edm(file, ddpmpp()).net.state_dict().items():  # it started there, and hardly moved
        assert torch.allclose(student[f"model.net.{name}"], tensor, atol=1e-6)
    file.unlink()
    alone = run(
        "eval.py", tmp_path / "eval", "task.count=4", f"ckpt_path={tmp_path}/cd/checkpoints/last.ckpt"
    )
    assert alone.status == 0, alone.err


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["cd_cifar10", "ect_cifar10"])
def test_the_commands_for_official_weights_run_on_two_processes(tmp_path, song_file, experiment):
    """The part of the network that only labels of augmentation reach has no gradient: nobody waits for it."""
    for k in range(4):
        (tmp_path / f"images/{k}").mkdir(parents=True)
        Image.new("RGB", (8, 8), (60 * k, 0, 0)).save(tmp_path / f"images/{k}/a.png")
    words = [f"experiment={experiment}", "data=image_folder", f"data.root={tmp_path}/images"]
    words += ["data.resolution=8", "data.conditional=true", "data.batch_size=4", "data.samples=4"]
    words += ["trainer=ddp_sim", "trainer.max_steps=8", "trainer.val_check_interval=8", "net=ddpmpp"]
    words += ["net.channels=8", "net.multipliers=[1,2]", "net.blocks=1", "net.attention=[4]"]
    words += ["net.embedding.channels=8", "net.augment=9", "teacher=edm", f"teacher.path={song_file()}"]
    ended = run("train.py", tmp_path / "run", *words)
    assert ended.status == 0, ended.err
    assert ended.result["steps"] == 8
