"""Samplers in configs of older files, which were deferred functions."""

import copy
import json

import pytest
from safetensors import safe_open

from consistency.files.config import checked_config
from consistency.files.upgrade import samplers
from consistency.model.coordinates import DDPM
from consistency.sampling.levels import even_sigmas, karras_sigmas
from consistency.sampling.ode import DDIM, Euler, Heun
from consistency.sampling.samplers import MultiStep, OneStep
from tests.conftest import ROOT

OLD = "consistency.sampling.samplers"
KARRAS = {"_target_": f"{OLD}.karras_sigmas", "steps": 18, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
EVEN = {
    "_target_": f"{OLD}.even_sigmas",
    "coordinate": {"_target_": "consistency.model.coordinates.DDPM.linear"},
    "steps": 18,
    "sigma_min": 0.002,
    "sigma_max": 80.0,
}


def deferred(name, **arguments):
    return {"_target_": f"{OLD}.{name}", "_partial_": True, **arguments}


FORMER = {
    "1step": deferred("onestep", sigmas=[80.0]),
    "2step": deferred("multistep", sigma_min=0.01, sigmas=[80.0, 0.821]),
    "heun35": deferred("heun", sigmas=KARRAS),
    "euler18": deferred("euler", sigmas=KARRAS),
    "ddim18": deferred("ddim", eta=0.5, sigmas=EVEN),
    "left out": None,
}


@pytest.mark.parametrize("place", [("samplers",), ("module", "samplers")])
def test_functions_are_the_classes_that_they_have_become(place):
    config = {"samplers": FORMER} if len(place) == 1 else {"module": {"samplers": FORMER}}
    before = copy.deepcopy(config)
    built = checked_config(samplers(config), "ckpt_path=x").build(*place)
    assert built == {
        "1step": OneStep([80.0]),
        "2step": MultiStep([80.0, 0.821], sigma_min=0.01),
        "heun35": Heun(karras_sigmas(18)),
        "euler18": Euler(karras_sigmas(18)),
        "ddim18": DDIM(even_sigmas(DDPM.linear(), 18), eta=0.5),
        "left out": None,
    }
    assert config == before  # pure


def test_one_step_began_at_the_first_of_its_levels():
    made = samplers({"samplers": {"1step": deferred("onestep", sigmas=[80.0, 3.0])}})["samplers"]["1step"]
    assert made == {"_target_": f"{OLD}.OneStep", "sigmas": [80.0]}


def test_configs_of_this_version_and_all_else_stay():
    config = samplers({"samplers": FORMER, "module": {"samplers": FORMER, "seed": 0}, "net": {"a": [1]}})
    assert samplers(config) == config
    for odd in ({}, {"samplers": None}, {"samplers": [1]}, {"module": 3}, {"module": {"samplers": "x"}}):
        assert samplers(odd) == odd
    strange = {"samplers": {"a": {"_target_": "os.mkdir"}, "b": {"_target_": 3}, "c": deferred("visits")}}
    assert samplers(strange) == strange
    called = {"samplers": {"a": {"_target_": f"{OLD}.heun", "sigmas": [1.0]}}}  # not deferred: never written
    assert samplers(called) == called


@pytest.mark.parametrize("name", ["digits", "garments", "moons"])
def test_the_shipped_weights_bring_samplers_of_this_version(name):
    with safe_open(ROOT / "data" / "weights" / f"{name}.safetensors", "pt") as file:
        config = json.loads(file.metadata()["consistency"])["config"]
    upgraded = samplers(config)
    for place in (("samplers",), ("module", "samplers")):
        built = checked_config({k: upgraded[k] for k in place[:1]}, "x").build(*place)
        assert {each.name for each in built.values() if each} <= {"onestep", "multistep"}
        assert built["1step"] == OneStep([80.0])
