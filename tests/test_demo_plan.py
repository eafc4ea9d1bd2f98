"""The time that a demo expects to take, and the one bar over its parts."""

from pathlib import Path

import pytest
from emohead.apps.demo_plan import FULL, PROBE_SECONDS, QUICK, TINY, Plan, done, measure_pace, seconds, work
from emohead.apps.progress import Parts, one_of
from emohead.trainers.all_stages import STAGES

SAME = dict.fromkeys(PROBE_SECONDS, 1.0)


def test_the_full_demo_fits_into_fifteen_minutes_and_the_quick_one_into_four() -> None:
    """On the machine of PROBE_SECONDS: two cores with AVX2 alone."""
    assert sum(seconds(FULL, SAME).values()) < 15 * 60
    assert sum(seconds(QUICK, SAME).values()) < 4 * 60


def test_a_slower_machine_takes_longer_in_what_it_is_slow_at() -> None:
    here, slower = seconds(FULL, SAME), seconds(FULL, SAME | {"maps": 3.0})
    for name, part in work(FULL).items():
        assert slower[name] == pytest.approx(here[name] if part.like != "maps" else here[name] * 3, abs=2 * part.start)


def test_what_was_done_before_is_not_expected_again(tmp_path: Path) -> None:
    (tmp_path / "face" / "checkpoints" / f"step-{FULL.steps('face') // 2:08d}").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").touch()
    shares = done(FULL, tmp_path)
    assert shares == dict.fromkeys(work(FULL), 0.0) | {"corpus": 1.0, "face": 0.5}
    parts = Parts("demo", {"a": 100.0, "b": 200.0, "c": 100.0}, {"a": 1.0, "b": 0.5, "c": 0.0})
    assert parts.seconds_left("a", 1.0, 0.0) == pytest.approx(200)
    parts.over["a"] = 0.0
    assert parts.seconds_left("b", 0.5, 0.0) == pytest.approx(200)
    assert parts.seconds_left("b", 0.75, 50.0) == pytest.approx(150), "as expected"
    assert 150 < parts.seconds_left("b", 0.75, 100.0) < 300, "twice as slow"


def test_the_measurement_takes_seconds_and_tells_all_kinds_of_work() -> None:
    pace = measure_pace()
    assert pace.keys() == {part.like for part in work(FULL).values()}
    assert all(0.05 < value < 50 for value in pace.values()), pace


@pytest.mark.parametrize("plan", [FULL, QUICK, TINY])
def test_a_plan_says_what_each_stage_does(plan: Plan) -> None:
    assert all(plan.steps(stage) > 1 for stage in STAGES)
    assert bool(plan.not_shown) is (plan is not FULL)


def test_time_left_follows_what_is_seen() -> None:
    parts = Parts("demo", {"a": 100.0, "b": 100.0, "c": 200.0}, dict.fromkeys("abc", 0.0))
    assert parts.seconds_left("a", 0.0, 0.0) == pytest.approx(400)
    assert parts.seconds_left("a", 0.5, 50.0) == pytest.approx(350), "as expected"
    assert 350 < parts.seconds_left("a", 0.5, 100.0) < 700, "twice as slow"
    parts.over["a"] = 200.0
    assert 500 < parts.seconds_left("b", 0.0, 0.0) < 600
    parts.over["b"] = 200.0
    assert parts.seconds_left("c", 1.0, 400.0) == 0


def test_a_piece_of_a_part_moves_its_share() -> None:
    told: list[tuple[int, int, str]] = []
    one_of(3, 1, lambda *what: told.append(what))(5, 10, "x")
    assert told == [(15, 30, "x")]
