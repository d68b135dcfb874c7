"""Names of runs, and the overrides of a name that has no file in configs/experiment/, such as ict_ring."""

from collections.abc import Mapping
from typing import Any

from consistency.errors import close
from consistency.files.configs import options

KEYS = ("experiment", "method", "data", "budget")  # overrides that say what a run is
BUDGETS = {  # data -> the budget that suits them
    "digits": "minute",
    "digits64": "minute",
    "fashion_mnist": "half_hour",
    "moons": "points",
    "ring": "points",
}
GARMENTS = "rate=flat ema=constant ema.mu=0.999 threads=null trainer.val_check_interval=1000"
SHORT = "trainer.max_steps=5000 trainer.val_check_interval=1000"
WRITTEN = {  # experiments of older versions that were more than a method on data at the budget of the data
    "cd_cached_digits": "experiment=cd_digits method=cd_cached",
    "cd_continuous_ring": f"method=cd_continuous data=ring budget=points teacher=exact {SHORT}",
    "cd_digits64": "experiment=cd_digits data=digits64 teacher_run.experiment=edm_digits64",
    "cd_fashion_mnist": (
        "method=cd data=fashion_mnist budget=half_hour distance=pseudo_huber weight=inverse_gap "
        "trainer.max_steps=4000 trainer.val_check_interval=2000 teacher_run.experiment=edm_fashion_mnist"
    ),
    "cd_moons": ("method=cd data=moons budget=points weight=inverse_gap teacher_run.experiment=edm_moons"),
    "ct_continuous_ring": f"method=ct_continuous data=ring budget=points {SHORT}",
    "ct_digits": "method=ct data=digits budget=minute optimizer.lr=1e-3",
    "ct_digits64": "method=ct data=digits64 budget=minute optimizer.lr=1e-3",
    "ct_fashion_mnist": f"method=ct data=fashion_mnist budget=half_hour {GARMENTS}",
    "ddpm_moons": "experiment=ddpm_digits data=moons budget=points",
    "ddpm_ring": "experiment=ddpm_digits data=ring budget=points",
    "edm_digits64": "experiment=edm_digits data=digits64 trainer.max_steps=3000",
    "flow_moons": "experiment=flow_digits data=moons budget=points",
    "flow_ring": "experiment=flow_digits data=ring budget=points",
    "ict_deep_cifar10": "experiment=ict_cifar10 net=ncsnpp_deep",
    "ict_digits64": "experiment=ict_digits data=digits64",
    "ict_fashion_mnist": f"method=ict data=fashion_mnist budget=half_hour curriculum.s1=160 {GARMENTS}",
    "scd_digits64": "experiment=scd_digits data=digits64 teacher_run.experiment=edm_digits64",
    "sct_digits64": "experiment=sct_digits data=digits64 teacher_run.experiment=edm_digits64",
    "stable_cifar10": "experiment=ect_cifar10 method=stable",
    "stable_ring": "experiment=ect_ring method=stable flow.size=256",
}


def recipe(choices: Mapping[str, Any]) -> str:
    """The name of a run: its experiment, else its method and its data, such as `ict_ring`.

    Args:
        choices: group -> option, as Hydra has them.
    """
    return str(choices["experiment"] or f"{choices['method']}_{choices['data']}")


def overrides_of(name: str) -> list[str]:
    """The overrides of a name: of an experiment, or of a method and data, such as `edm_moons`.

    Args:
        name: of a run; one that stands for nothing is taken for an experiment, which Hydra refuses.
    """
    if name in options("experiment"):
        return [f"experiment={name}"]
    if name in WRITTEN:
        return WRITTEN[name].split()
    method, data = method_and_data(name)
    if method is None:
        return [f"experiment={name}"]
    return [f"method={method}", f"data={data}", f"budget={BUDGETS[data]}"]


def method_and_data(name: str) -> tuple[str | None, str]:
    """Method and data of a name such as `ct_continuous_ring`; None for the method of any other name."""
    data = max((each for each in BUDGETS if name.endswith(f"_{each}")), key=len, default="")
    method = name.removesuffix(f"_{data}")
    return (method if data and method in options("method") else None), data


def without_file(name: str) -> str | None:
    """The remedy for an experiment without a file; None if no known name is close to it."""
    known = [*options("experiment"), *WRITTEN, *(f"{m}_{d}" for m in options("method") for d in BUDGETS)]
    near = name if name in known else close(name, known)
    if near is None or near in options("experiment"):
        return None
    command = " ".join(overrides_of(near))
    if near != name:
        return f"experiment={name} is not in configs/experiment: did you mean '{near}'? Write {command}"
    return f"experiment={name} has no file, as it is no recipe of its own: write {command}"
