"""Which settings are tried next."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch.quasirandom import SobolEngine

from retinafocus.errors import SettingsError
from tune.space import Choice, Settings, Space

SEARCHES = ("auto", "optuna", "sobol")

SPREAD_FIRST = 32
"""Trials that are spread over the space before what was found leads the search; fewer where few are to be tried,
because each takes long."""

SPREAD_LEAST = 8


def spread_of(trials: int) -> int:
    """How many of the trials of a search are spread before what was found leads."""
    return min(SPREAD_FIRST, max(SPREAD_LEAST, trials // 4))


class Proposals(Protocol):
    """Where settings come from."""

    def ask(self, number: int) -> Settings:
        """The settings of a trial."""
        ...

    def tell(self, number: int, results: Mapping[str, float] | None) -> None:
        """What became of a trial; None: it failed."""
        ...


def check_search(search: str) -> None:
    """Refuse a search that is none.

    Raises:
        SettingsError: there is no such search, or Optuna is not installed.
    """
    if search not in SEARCHES:
        raise SettingsError(f"search is {search!r}; choose one of {', '.join(SEARCHES)}")
    if search == "optuna" and not _has_optuna():
        raise SettingsError("search is 'optuna', which is not installed; pip install optuna, or choose sobol")


def make_proposals(
    search: str,
    space: Space,
    *,
    seed: int,
    objectives: Mapping[str, str],
    start: Sequence[Settings],
    spread: int = SPREAD_FIRST,
) -> Proposals:
    """A search of that name.

    Args:
        search: one of `SEARCHES`; auto is optuna where it is installed.
        space: what may be tried.
        seed: the same seed gives the same proposals; those of optuna also depend on the order in which trials end.
        objectives: "max" or "min" by the name of a result.
        start: tried first, in this order; within the space or not.
        spread: trials after those before what was found leads.

    Raises:
        SettingsError: there is no such search, or Optuna is not installed.
    """
    check_search(search)
    if search == "sobol" or not _has_optuna():
        return SobolProposals(space, seed, start)
    return OptunaProposals(space, seed, objectives, start, spread)


def _has_optuna() -> bool:
    return importlib.util.find_spec("optuna") is not None


class SobolProposals:
    """Points spread evenly over the space: trial k of a seed is the same whatever was found before."""

    def __init__(self, space: Space, seed: int, start: Sequence[Settings]) -> None:
        self._space, self._seed, self._start = space, seed, start

    def ask(self, number: int) -> Settings:
        """See `Proposals`."""
        if number < len(self._start):
            return dict(self._start[number])
        engine = SobolEngine(len(self._space.searched), scramble=True, seed=self._seed)
        engine.fast_forward(number - len(self._start))
        return self._space.at(engine.draw(1)[0].tolist())

    def tell(self, number: int, results: Mapping[str, float] | None) -> None:
        """See `Proposals`; changes nothing."""


class OptunaProposals:
    """Optuna's tree of Parzen estimators for several objectives at once, after points spread evenly."""

    def __init__(
        self, space: Space, seed: int, objectives: Mapping[str, str], start: Sequence[Settings], spread: int
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna, self._space, self._start, self._objectives = optuna, space, start, objectives
        self._sobol = SobolProposals(space, seed, start)
        self._spread = len(start) + spread
        self._study = optuna.create_study(
            directions=["maximize" if kind == "max" else "minimize" for kind in objectives.values()],
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=0),
        )
        self._distributions = {name: self._distribution(name) for name in space.searched}
        self._asked: dict[int, Settings] = {}

    def ask(self, number: int) -> Settings:
        """See `Proposals`."""
        if number < self._spread or not self._study.get_trials(deepcopy=False):
            settings = self._sobol.ask(number)
        else:
            trial = self._study.ask(self._distributions)
            # Only what is told counts, so that a search that goes on after a kill is in no other state.
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
            settings = {**self._space.fixed, **self._values(trial.params)}
        self._asked[number] = settings
        return dict(settings)

    def remember(self, number: int, settings: Settings) -> None:
        """A trial that was asked for in an earlier run."""
        self._asked[number] = settings

    def tell(self, number: int, results: Mapping[str, float] | None) -> None:
        """See `Proposals`."""
        settings = self._asked.pop(number)
        inside = all(kind.holds(settings.get(name)) for name, kind in self._space.searched.items())
        if results is None or not inside:  # a start outside the space teaches nothing about it
            return
        params = {name: self._param(name, settings[name]) for name in self._space.searched}
        self._study.add_trial(
            self._optuna.trial.create_trial(
                params=params,
                distributions=self._distributions,
                values=[results[name] for name in self._objectives],
            )
        )

    def _distribution(self, name: str) -> Any:
        kind, distributions = self._space.searched[name], self._optuna.distributions
        if isinstance(kind, Choice):
            return distributions.CategoricalDistribution(list(range(len(kind.values))))
        if kind.whole:
            return distributions.IntDistribution(int(kind.low), int(kind.high), log=kind.log)
        return distributions.FloatDistribution(kind.low, kind.high, log=kind.log)

    def _values(self, params: Mapping[str, Any]) -> Settings:
        """Choices are places in their list to Optuna, which takes no lists as values."""
        kinds = self._space.searched
        return {
            name: kind.values[params[name]] if isinstance(kind, Choice) else kind.rounded(params[name])
            for name, kind in kinds.items()
        }

    def _param(self, name: str, value: Any) -> Any:
        kind = self._space.searched[name]
        return kind.values.index(value) if isinstance(kind, Choice) else value
