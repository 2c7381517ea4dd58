"""Search spaces: what a file may say, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinafocus.errors import SettingsError
from tune.proposals import SPREAD_FIRST, OptunaProposals, SobolProposals, make_proposals
from tune.space import Choice, Range, nested, parse_space, read_space

TEXT = """\
"a.b" = { from = 2.0, to = 6.0 }
"a.t" = { from = 0.01, to = 1.0, log = true }
"a.n" = { from = 1, to = 3 }
"a.list.0.side" = [8, 16]
"a.list.1.side" = 32
kind = "x"
"""


def test_file_is_read_and_written_back(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(TEXT)
    space = read_space(tmp_path / "space.toml")
    assert dict(space.searched) == {
        "a.b": Range(2.0, 6.0),
        "a.t": Range(0.01, 1.0, log=True),
        "a.n": Range(1, 3, whole=True),
        "a.list.0.side": Choice((8, 16)),
    }
    assert space.fixed == {"a.list.1.side": 32, "kind": "x"}
    assert parse_space(space.to_toml(), "again") == space


def test_choices_of_tables_and_lists_are_written_as_toml() -> None:
    text = 'a = [{ sizes = [[8.0], [1e-7]], "of x" = true }, { sizes = [] }]\n'
    text += 'b = [[true], ["c"]]\nd = "x\\n\\u007f\\"\\\\ä"\n'
    space = parse_space(text, "text")
    assert space.searched["a"] == Choice(({"sizes": [[8.0], [1e-7]], "of x": True}, {"sizes": []}))
    assert space.fixed == {"d": 'x\n\x7f"\\ä'}
    assert parse_space(space.to_toml(), "again") == space


def test_points_of_the_unit_cube_are_settings() -> None:
    space = parse_space(TEXT, "text")
    fixed = {"a.list.1.side": 32, "kind": "x"}
    assert space.at([0, 0, 0, 0]) == {"a.b": 2.0, "a.t": 0.01, "a.n": 1, "a.list.0.side": 8, **fixed}
    assert space.at([1, 1, 1, 1]) == {"a.b": 6.0, "a.t": 1.0, "a.n": 3, "a.list.0.side": 16, **fixed}
    # Halfway between 0.01 and 1 by factors; each of three whole numbers has a third of the way.
    assert space.at([0.25, 0.5, 0.34, 0.49]) == {"a.b": 3.0, "a.t": 0.1, "a.n": 2, "a.list.0.side": 8, **fixed}
    assert space.at([1 / 7, 0, 0, 0])["a.b"] == 2.571  # as people write it


def test_names_become_tables_and_lists() -> None:
    settings = parse_space(TEXT, "text").at([0, 0, 0, 0])
    assert nested(settings) == {"a": {"b": 2.0, "t": 0.01, "n": 1, "list": [{"side": 8}, {"side": 32}]}, "kind": "x"}
    with pytest.raises(SettingsError, match=r"a\.list: has the places 1; give 0, without a gap"):
        nested({"a.list.1.side": 3})
    with pytest.raises(SettingsError, match=r"a\.b: a is a value and has no keys"):
        nested({"a": 1, "a.b": 2})
    with pytest.raises(SettingsError, match=r"x\.a\.b: x\.a is a value and has no keys"):
        nested({"x.a.b": 2, "x.a": 1})
    table = {"c": 1}
    with pytest.raises(SettingsError, match=r"a\.b: a is a value"):
        nested({"a": table, "a.b": 2})
    assert table == {"c": 1}  # it may be a choice of the space, which other trials get as well


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a = = 1", "FILE: this is no TOML", id="no TOML"),
        pytest.param("a = 1", "FILE: no setting has a range or choices", id="nothing searched"),
        pytest.param("a = []", "FILE: a: is an empty list", id="no choices"),
        pytest.param("a = { from = 1 }", "FILE: a: give a range", id="half a range"),
        pytest.param("a = { from = false, to = true }", r"FILE: a: .* give the choices \[false", id="truth"),
        pytest.param("a = { from = 2, to = 1 }", "FILE: a: goes from 2 to 1", id="backwards"),
        pytest.param("a = { from = 0, to = 1, log = true }", "begin above 0", id="log of zero"),
        pytest.param("a = { from = 0, to = 1, step = 2 }", r"FILE: a: has step; give a range", id="unknown key"),
        pytest.param("a.b = { from = 0, to = 1 }", r"FILE: a: has b; put a dotted name in quotes", id="no quotes"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_space(text, "FILE")


def test_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read as a search space"):
        read_space(tmp_path / "none.toml")


def test_sobol_begins_with_the_start_and_depends_on_number_and_seed_alone() -> None:
    space = parse_space(TEXT, "text")
    one, same = (SobolProposals(space, 5, [{"a.b": 9.0}]) for _ in range(2))
    assert one.ask(0) == {"a.b": 9.0}
    asked = [one.ask(number) for number in range(1, 17)]
    assert [same.ask(number) for number in reversed(range(1, 17))] == asked[::-1]
    assert SobolProposals(space, 6, []).ask(0) != asked[0]
    # Spread evenly: of 16 points, four in each quarter of every range.
    quarters = [int(4 * (settings["a.b"] - 2) / 4 // 1) for settings in asked]
    assert sorted(min(quarter, 3) for quarter in quarters) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_optuna_finds_what_is_good() -> None:
    pytest.importorskip("optuna")
    space = parse_space('x = { from = 0.0, to = 1.0 }\nkind = ["bad", "good"]', "text")

    def told(search: str) -> list[float]:
        proposals = make_proposals(search, space, seed=1, objectives={"score": "max"}, start=[{"x": 5.0}])
        scores = []
        for number in range(SPREAD_FIRST + 60):
            settings = proposals.ask(number)
            score = -abs(settings["x"] - 0.3) - (settings.get("kind") != "good")
            proposals.tell(number, {"score": score})
            scores.append(score)
        return scores[SPREAD_FIRST + 1 :]

    led, spread = told("optuna"), told("sobol")
    assert sum(led) / len(led) > 0.3 + sum(spread) / len(spread)


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        pytest.param(Range(2.0, 6.0), [2.0, 3, 6.0], [1.999, 6.001, None, "3", True, float("nan")], id="range"),
        pytest.param(Range(1, 3, whole=True), [1, 2.0, 3], [0, 2.5, 4], id="whole numbers"),
        pytest.param(Choice((8, "all", [1, 2])), [8, "all", [1, 2]], [16, None, [1]], id="choices"),
    ],
)
def test_what_a_range_and_choices_hold(kind: Range | Choice, inside: list[object], outside: list[object]) -> None:
    assert all(kind.holds(value) for value in inside)
    assert not any(kind.holds(value) for value in outside)


def test_optuna_goes_on_from_remembered_trials() -> None:
    pytest.importorskip("optuna")
    space = parse_space("x = { from = 0.0, to = 1.0 }", "text")
    proposals = make_proposals("optuna", space, seed=1, objectives={"score": "min"}, start=[])
    assert isinstance(proposals, OptunaProposals)
    for number in range(50):
        proposals.remember(number, {"x": number / 50})
        proposals.tell(number, {"score": abs(number / 50 - 0.8)} if number % 5 else None)
    assert sum(abs(proposals.ask(number)["x"] - 0.8) < 0.2 for number in range(50, 60)) >= 7


def test_unknown_search_is_refused() -> None:
    with pytest.raises(SettingsError, match="search is 'grid'; choose one of auto, optuna, sobol"):
        make_proposals("grid", parse_space(TEXT, "t"), seed=0, objectives={"a": "max"}, start=[])
