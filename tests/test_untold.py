"""What other people's weights mean and no tensor shows: groups, heads, ends of an embedding."""

import pytest
import torch

from consistency.errors import UserError
from consistency.nets.adm import ADM
from consistency.teachers.edm import edm
from consistency.teachers.openai import openai
from tests.reference import teachers as reference
from tests.reference.unetmodel import unetmodel
from tests.test_teachers import dhariwal, official_modules, write_edm  # noqa: F401 - a fixture

WIDTHS = (32, 64, 96, 128)  # channels


def narrow(path, channels):
    """A file of an unconditional UNetModel of so many channels, and its tensors."""
    tensors = reference.values(reference.unetmodel(channels, 1, 0, channels))
    torch.save(tensors, path)
    return tensors


def adm(channels, **options):
    return ADM(**reference.PLAIN_SIZE | {"channels": channels, "head_channels": 16} | options).double()


@pytest.mark.parametrize("channels", WIDTHS)
def test_networks_of_openai_are_their_own_function_at_every_width(tmp_path, channels):
    tensors = narrow(tmp_path / "file.pt", channels)
    D = openai(tmp_path / "file.pt", adm(channels, groups=32)).double()
    x, sigma, _ = reference.inputs()
    with torch.no_grad():
        ours, theirs = D.net(x, 250 * sigma.log()), unetmodel(tensors, x, 250 * sigma.log(), 16)
        other = unetmodel(tensors, x, 250 * sigma.log(), 16, groups=channels // 4)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert channels == 128 or (other - theirs).abs().max() > 1e-2  # what 4 channels to a group would make


@pytest.mark.parametrize("channels", WIDTHS)
def test_other_groups_than_openais_are_refused_with_the_key(tmp_path, channels):
    narrow(tmp_path / "file.pt", channels)
    if channels == 128:
        openai(tmp_path / "file.pt", adm(channels))
        return
    with pytest.raises(UserError, match=rf"32 groups .* has {channels // 4} in .*: set net\.groups=32"):
        openai(tmp_path / "file.pt", adm(channels))


def test_channels_that_openais_code_cannot_normalise(tmp_path):
    narrow(tmp_path / "file.pt", 48)
    with pytest.raises(UserError, match=r"32 groups of channels, and the 48 of \S+ cannot be divided so"):
        openai(tmp_path / "file.pt", adm(48))
    with pytest.raises(UserError, match=r"net\.groups=32 does not divide the 48 channels"):
        adm(48, groups=32)


def test_a_learned_variance_is_named(tmp_path):
    tensors = narrow(tmp_path / "file.pt", 32)
    for name in ("out.2.weight", "out.2.bias"):
        tensors[name] = torch.cat([tensors[name]] * 2)
    torch.save(tensors, tmp_path / "file.pt")
    with pytest.raises(UserError, match=r"6 output channels for images of 3: .*learn_sigma"):
        openai(tmp_path / "file.pt", adm(32, groups=32))


@pytest.mark.parametrize(("head_channels", "lines"), [(16, 1), (64, 0)])
def test_unpublished_heads_are_mentioned(tmp_path, capsys, head_channels, lines):
    narrow(tmp_path / "file.pt", 128)
    openai(tmp_path / "file.pt", adm(128, head_channels=head_channels))
    assert capsys.readouterr().err.count("net.head_channels") == lines


SAID = {
    "groups": ("enc.8x8_block0.norm0", {"num_groups": 32}, {"num_groups": 16}, "num_groups=32 there and 16"),
    "eps": ("enc.8x8_block0.norm0", {"eps": 1e-6}, {"eps": 1e-5}, "eps=1e-06 there and 1e-05"),
    "heads": ("enc.4x4_block0", {"num_heads": 4}, {"num_heads": 2}, "num_heads=4 there and 2"),
    "ends": ("map_noise", {"endpoint": True}, {"endpoint": False}, "endpoint=True there and False"),
    "nonsense": ("enc.4x4_block0", {"num_heads": "2"}, {"num_heads": 2}, "num_heads='2' there"),
}


@pytest.mark.parametrize(("module", "wrong", "right", "message"), SAID.values(), ids=SAID)
def test_what_modules_of_edm_say_of_themselves(tmp_path, module, wrong, right, message):
    tensors, path = reference.values(reference.dhariwal()), tmp_path / "edm.pkl"
    edm(write_edm(path, tensors, "DhariwalUNet", said={module: right}), dhariwal())
    write_edm(path, tensors, "DhariwalUNet", said={module: wrong})
    with pytest.raises(UserError, match=rf"model\.{module} has {message}"):
        edm(path, dhariwal())


def test_edms_rule_of_groups(tmp_path):
    path = write_edm(tmp_path / "edm.pkl", reference.values(reference.dhariwal()), "DhariwalUNet")
    with pytest.raises(UserError, match=r"16 groups .* net has 32 in .*: leave net\.groups out"):
        edm(path, dhariwal(groups=32))
