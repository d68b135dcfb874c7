"""A search: Optuna proposes trials one after the other, and each is a run of a sweep."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from consistency.errors import UserError
from consistency.sweep.child import Ended, ValidationReport
from consistency.sweep.command import command_to_go_on
from consistency.sweep.outlook import optimised_value
from consistency.sweep.runs import Run, RunState, keep_fault, run_in
from consistency.sweep.space import trial_overrides
from consistency.sweep.study import REASON, STATE, Trials
from consistency.sweep.work import Sweep, awaited, outcome_of_run


@dataclass
class SweepSearch:
    """A search in the directory of a sweep.

    Args:
        sweep: makes the runs.
        trials: of the study.
        fixed: overrides that all trials have.
        limit: trials of the study in total.
    """

    sweep: Sweep
    trials: Trials
    fixed: Sequence[str]
    limit: int
    at_work: dict[Path, list[int]] = field(default_factory=dict)  # directory of a run -> its trials
    pruned: set[Path] = field(default_factory=set)

    def run(self) -> None:
        """Run all trials that have not ended, first those that a former command has started."""
        waiting = self.trials.begun()
        self.announce(len(waiting))
        while True:
            while not self.sweep.pool.is_full and (trial := self.next_of(waiting)):
                self.begin(trial)
            if not self.sweep.pool.children:
                break
            event = self.sweep.pool.wait()
            self.heard(event) if isinstance(event, ValidationReport) else self.ended(event)
        self.sweep.write()

    def next_of(self, waiting: list[FrozenTrial]) -> FrozenTrial | None:
        """Take the next trial: the first of those that wait, else a new one; None where there are enough."""
        return waiting.pop(0) if waiting else self.trials.propose(self.limit)

    def announce(self, begun: int) -> None:
        """Print the number of trials that are left."""
        ended = self.limit - self.left()
        before = f"; {ended} ended before" if ended else ""
        before += f"; going on with {begun}" if begun else ""
        size = self.sweep.pool.size
        side = f", {size} at a time" if size > 1 else ""
        print(f"search       {self.limit} trials in {self.sweep.directory}{side}{before}", flush=True)

    def left(self) -> int:
        """Number of trials that have not ended, of the total."""
        return max(self.limit - sum(trial.state.is_finished() for trial in self.trials.all()), 0)

    def begin(self, trial: FrozenTrial) -> None:
        """Start or resume the run of a trial; one that has ended or is running is not repeated."""
        run = self.sweep.find([*self.fixed, *trial_overrides(trial.params)], set(self.trials.space))
        run = run if run.directory in self.at_work else awaited(run)
        self.trials.note(trial.number, run.name)
        if run.directory in self.at_work:
            self.at_work[run.directory].append(trial.number)
            return
        if not run.is_settled and self.trials.should_prune(trial.number):
            run = self.prune(run, max(trial.intermediate_values))
        if run.is_settled:
            given = " ".join(trial_overrides(trial.params))
            print(f"run {run.name:<8} {given}: {outcome_of_run(run, self.sweep.metric)}", flush=True)
            self.tell(run, [trial.number])
            return
        self.at_work[run.directory] = [trial.number]
        place = f"trial {trial.number + 1} of {self.limit}{self.sweep.rest(self.left())}"
        self.sweep.start(run, [run, Run(run.directory, tuple(self.fixed))], place)

    def heard(self, report: ValidationReport) -> None:
        """Report a validation of a run to Optuna, and stop the run if it should be pruned before its end."""
        directory = report.run.directory
        numbers = self.at_work.get(directory, [])
        if not numbers or report.value is None or report.last or directory in self.pruned:
            return
        for number in numbers:
            self.trials.report(number, report.step, report.value)
        if self.trials.should_prune(numbers[0]):
            self.pruned.add(directory)
            self.prune(report.run, report.step)
            self.sweep.pool.stop_run(report.run)

    def prune(self, run: Run, step: int) -> Run:
        """Write the state `pruned` of a run to its directory, so that no later command resumes it."""
        keep_fault(run.directory, RunState.PRUNED, f"it lagged behind the other trials at step {step}")
        return run_in(run.directory)

    def ended(self, event: Ended) -> None:
        """Handle the end of a run: its state and value are written to its trials."""
        run = event.run
        self.tell(run, self.at_work.pop(run.directory))
        self.sweep.take(run, self.left())

    def tell(self, run: Run, numbers: Sequence[int]) -> None:
        """Write the state and value of a run to its trials; those of a stopped run stay open."""
        state, value, reason = verdict(run, self.sweep.metric)
        facts = {STATE: str(run.state), **({REASON: reason} if reason else {})}
        for number in numbers if state.is_finished() else []:
            self.trials.tell(number, state, value, facts)


def verdict(run: Run, metric: str | None) -> tuple[TrialState, float | None, str | None]:
    """State, value and reason of the trial of a run.

    A run that has diverged counts as pruned, not as failed: samplers learn from the former, and pass over the
    latter.
    """
    value = optimised_value(run, metric)
    if run.state is RunState.FINISHED and value is not None and math.isfinite(value):
        return TrialState.COMPLETE, value, None
    if run.state is RunState.FINISHED:
        return TrialState.PRUNED, None, f"{metric} is not finite"
    if run.state in (RunState.DIVERGED, RunState.PRUNED):
        return TrialState.PRUNED, None, run.reason
    return TrialState.FAIL if run.state is RunState.FAILED else TrialState.RUNNING, None, run.reason


def check_completed(trials: Trials, directory: Path) -> None:
    """Report a search that has not succeeded.

    Raises:
        UserError: no trial has completed, some have failed, or some of this search are yet to end.
    """
    if trials.begun():
        raise UserError(f"not all trials have ended; go on with {command_to_go_on(directory)}")
    made = trials.all()
    if not any(trial.state is TrialState.COMPLETE for trial in made):
        reason = next((t.user_attrs[REASON] for t in made if REASON in t.user_attrs), "")
        raise UserError(
            f"none of {len(made)} trials has completed (the first: {reason}): change the command or its "
            "search space, and give another run_dir"
        )
    failed = [trial for trial in made if trial.state is TrialState.FAIL]
    if failed:
        raise UserError(f"{len(failed)} failed of {len(made)} trials: the table says why")
