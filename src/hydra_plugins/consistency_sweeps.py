"""Hydra's doors to `consistency.sweep`: a launcher and the sweepers. Hydra looks for plugins only here.

Every command imports this module; what a sweep needs is imported when there is one.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from consistency.schema.recipes import recipe

OmegaConf.register_new_resolver("recipe", recipe, replace=True)  # for the names of directories


class Processes(Launcher):
    """Runs each job as a process of its own, by the command of the sweep with other overrides.

    A signal to the sweep reaches its runs, which save and end; so does its end. A job that fails leaves a
    line and hinders no other. Jobs that have ended before, in the same directory, are left alone.

    Args:
        n_jobs: runs at a time.
        go_on: overrides by which a run that has begun before goes on.
        repeat: whether jobs that have ended before are begun again, as evaluations of what may have changed.
    """

    def __init__(self, n_jobs: int = 1, go_on: Sequence[str] = (), repeat: bool = False) -> None:
        self.n_jobs, self.go_on, self.repeat = n_jobs, list(go_on), repeat
        self.table: Any = None  # made anew whenever a run has ended; this and the next are of the sweeper
        self.swept: set[str] = set()  # keys that it varies
        self.made: set[Path] = set()  # directories of the runs so far

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; the value of each is that of `optimized_metric`, or None."""
        from consistency.sweep.outlook import optimised_value
        from consistency.sweep.work import Sweep

        with Sweep.of(self.context, self.config, self.n_jobs, self.go_on, self.table) as sweep:
            runs = sweep.all(job_overrides, self.repeat, self.swept)
        self.made |= {run.directory for run in runs}
        metric = self.config.get("optimized_metric")
        return [
            JobReturn(overrides=each, status=JobStatus.COMPLETED, _return_value=optimised_value(run, metric))
            for each, run in zip(job_overrides, runs, strict=True)
        ]


class Grid(BasicSweeper):
    """Runs every combination of the values that are given, and shows a table of all runs.

    Args:
        table: makes it.
        max_batch_size: of Hydra's own sweeper: combinations handed to the launcher at a time; None for all.
        params: key -> values, as on the command line, which replaces them.
        cases: name -> cases, each a list of overrides that belong together: each combination is run in each
            case. A key of the command line replaces that of a case; one that says what a run is, as
            experiment=, replaces all cases.
    """

    def __init__(
        self,
        table: Any,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
        cases: Mapping[str, Sequence[Sequence[str]]] | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.table = table
        self.cases = [[*map(str, case)] for named in (cases or {}).values() for case in named]

    def sweep(self, arguments: list[str]) -> None:
        """Run all of them. Unlike Hydra's own, it writes nothing but what runs and table leave.

        Raises:
            UserError: a run has failed; after all others have ended.
        """
        from consistency.process.stops import raise_again
        from consistency.sweep.work import conclude_sweep

        raise_again()
        assert self.config is not None
        assert self.launcher is not None
        batches, swept = self.commands(arguments)
        for batch in batches:
            self.validate_batch_is_legal(batch)
        ours = self.launcher if isinstance(self.launcher, Processes) else None
        if ours is not None:
            ours.table, ours.swept = self.table, swept
        returned: list[JobReturn] = []
        for batch in batches:
            returned += self.launcher.launch(batch, initial_job_idx=len(returned))
        made, metric = ours.made if ours is not None else (), self.config.get("optimized_metric")
        conclude_sweep(self.config.hydra.sweep.dir, self.table, made, metric)
        for each in returned:
            _ = each.return_value  # raises what a job of another launcher has raised

    def commands(self, arguments: list[str]) -> tuple[list[list[list[str]]], set[str]]:
        """The overrides of each run, in batches, and the keys in which runs differ.

        Raises:
            UserError: one of these keys cannot be swept over.
        """
        from consistency.sweep.cases import in_cases, remaining_cases
        from consistency.sweep.single import check_keys

        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = parser.parse_overrides([*self._parse_config(), *arguments])
        cases = remaining_cases(self.cases, arguments)
        swept = {each.get_key_element() for each in given if each.is_sweep_override()}
        swept |= {each.partition("=")[0] for case in cases for each in case}
        check_keys(swept)
        return [in_cases(cases, batch) for batch in self.split_arguments(given, self.max_batch_size)], swept


class Search(Sweeper):
    """Looks for the parameters that are best by `optimized_metric`, with Optuna.

    Args:
        table: of the runs.
        options: of the search; see `consistency.sweep.options.Options`.
    """

    def __init__(self, table: DictConfig, **options: Any) -> None:
        self.table, self.options = table, options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Search.

        Raises:
            UserError: Optuna is not installed, the options cannot be, or no trial has completed.
        """
        from consistency.errors import UserError
        from consistency.process.stops import raise_again

        raise_again()
        assert self.hydra_context is not None
        assert self.config is not None
        if not isinstance(self.launcher, Processes):
            raise UserError("sweep=optuna starts its runs itself: leave out hydra/launcher")
        if find_spec("optuna") is None:
            raise UserError("sweep=optuna needs Optuna: pip install 'consistency[sweep]'")
        from consistency.sweep.options import Options, search_trials

        pool = (self.launcher.n_jobs, self.launcher.go_on)
        options, table = Options(**self.options), instantiate(self.table)
        search_trials(options, self.hydra_context, self.config, arguments, pool, table)
