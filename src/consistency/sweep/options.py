"""The options of a search in the config, their checks, and the search itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.types import HydraContext
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.samplers import BaseSampler

from consistency.errors import UserError
from consistency.sweep.identity import firm, override_settings
from consistency.sweep.search import SweepSearch, check_completed
from consistency.sweep.space import Space, corners, flatten_params, split_space, trial_overrides
from consistency.sweep.study import Trials, without_optuna_advice
from consistency.sweep.trials import TrialsTable
from consistency.sweep.work import Sweep, Tabled

DIRECTIONS = ("minimize", "maximize")
LENGTH = "trainer.max_steps"  # a run may change it on its way, the trials of a search must not


@dataclass(frozen=True)
class Options:
    """The options of a search.

    Args:
        n_trials: of the study in total, 1 or more.
        direction: minimize or maximize.
        sampler: config of a sampler of Optuna; its seed is that of the search.
        pruner: config of a pruner of Optuna; None for none.
        storage: path of a file, or sqlite:///FILE; None for study.log in the directory of the sweep.
        study_name: in the file.
        params: key -> search space.
    """

    n_trials: int
    direction: str
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any] | None
    storage: str | None
    study_name: str
    params: Mapping[str, Any] | None

    def check(self) -> None:
        """Refuse options that are out of range or contradict each other."""
        if type(self.n_trials) is not int or self.n_trials < 1:
            raise UserError(
                f"hydra.sweeper.n_trials={self.n_trials} must be a number of trials, 1 or greater"
            )
        if self.direction not in DIRECTIONS:
            raise UserError(f"hydra.sweeper.direction={self.direction} must be {' or '.join(DIRECTIONS)}")
        if not self.sampler:
            raise UserError("hydra.sweeper.sampler=null proposes nothing: name one with _target_")
        seed = self.sampler.get("seed")
        if seed is not None and not (isinstance(seed, int) and seed >= 0):
            raise UserError(f"hydra.sweeper.sampler.seed={seed} must be 0 or greater, or null")

    def proposer(self, number: int) -> BaseSampler:
        """The sampler of a trial. Its seed follows from that of the search and from the number of the trial.

        One sampler for all trials would begin its random numbers anew when a search goes on.
        """
        seed = self.sampler.get("seed")
        own = None if seed is None else int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        return make_part("sampler", self.sampler, seed=own)


def make_part(name: str, node: Mapping[str, Any] | None, **arguments: Any) -> Any:
    """A part of Optuna by its config; None for none.

    Raises:
        UserError: there is no such part, or it refuses its arguments.
    """
    try:
        with without_optuna_advice():
            return instantiate(node, **arguments)
    except InstantiationException as error:
        raise UserError(f"hydra.sweeper.{name}: {error.__cause__ or error}; change it") from error


def search_trials(
    options: Options,
    context: HydraContext,
    config: DictConfig,
    arguments: Sequence[str],
    pool: tuple[int, Sequence[str]],
    table: Tabled,
) -> None:
    """Start or continue a search, and print its table.

    Args:
        options: of the search.
        context: of Hydra.
        config: as composed, without what is searched.
        arguments: of the command line.
        pool: runs at a time, and overrides of one that has begun before.
        table: of the runs.

    Raises:
        UserError: the options cannot be, or no trial has completed.
    """
    options.check()
    parser = OverridesParser.create(config_loader=context.config_loader)
    lines = [f"{key}={value}" for key, value in flatten_params(options.params or {})]
    fixed, space = split_space(parser.parse_overrides(lines), parser.parse_overrides(list(arguments)))
    metric = config.get("optimized_metric")
    composed = partial(context.config_loader.load_sweep_config, config)
    check_composable(composed, fixed, space, metric)
    options.proposer(0)
    pruner = make_part("pruner", options.pruner)
    with Sweep.of(context, config, *pool, table) as sweep:
        trials = Trials.of(
            str(options.storage or sweep.directory / "study.log"),
            str(options.study_name),
            {"metric": metric, "direction": options.direction, **firm(override_settings(fixed), {LENGTH})},
            space,
            options.proposer,
            pruner,
            sweep.directory,
        )
        shown = sweep.table = TrialsTable(trials, metric, table)
        SweepSearch(sweep, trials, fixed, options.n_trials).run()
    shown.show(Path(config.hydra.sweep.dir))
    check_completed(trials, Path(config.hydra.sweep.dir))


def check_composable(
    composed: Callable[[list[str]], DictConfig], fixed: Sequence[str], space: Space, metric: str | None
) -> None:
    """Refuse keys and choices that cannot be composed, and trials that could not be compared.

    Raises:
        UserError: no metric is optimised, or not the same by all trials.
    """
    if metric is None:
        raise UserError(
            "sweep=optuna needs a number to go by, and optimized_metric is null: give optimized_metric=NAME"
        )
    for params in corners(space):
        found = composed([*fixed, *trial_overrides(params)]).get("optimized_metric")
        if found != metric:
            raise UserError(
                f"optimized_metric={metric} is {found} with {' '.join(trial_overrides(params))}, "
                "and trials are "
                "compared by one number: give optimized_metric=NAME on the command line"
            )
