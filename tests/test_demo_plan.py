"""What a demo expects of the time, and the one bar over its parts."""

from pathlib import Path

import pytest
from emohead.apps.demo_plan import FULL, PROBE_SECONDS, QUICK, TINY, Plan, measure_pace, seconds, work
from emohead.apps.progress import Parts, one_of
from emohead.trainers.run import STAGES

SAME = dict.fromkeys(PROBE_SECONDS, 1.0)


def test_the_full_demo_fits_into_fifteen_minutes_and_the_quick_one_into_four(tmp_path: Path) -> None:
    """On the machine of PROBE_SECONDS: two cores with AVX2 alone."""
    assert sum(seconds(FULL, SAME, tmp_path).values()) < 15 * 60
    assert sum(seconds(QUICK, SAME, tmp_path).values()) < 4 * 60


def test_a_slower_machine_takes_longer_in_what_it_is_slow_at(tmp_path: Path) -> None:
    here, slower = seconds(FULL, SAME, tmp_path), seconds(FULL, SAME | {"maps": 3.0}, tmp_path)
    for name, part in work(FULL).items():
        assert slower[name] == pytest.approx(here[name] if part.like != "maps" else here[name] * 3, abs=2 * part.start)


def test_what_is_done_is_not_expected_again(tmp_path: Path) -> None:
    before = seconds(FULL, SAME, tmp_path)
    (tmp_path / "face" / "checkpoints" / f"step-{FULL.steps('face') // 2:08d}").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").touch()
    after = seconds(FULL, SAME, tmp_path)
    assert after["face"] == pytest.approx(before["face"] / 2, rel=0.1)
    assert after["corpus"] < before["corpus"] / 4
    assert after["motion"] == before["motion"]


def test_the_measurement_takes_seconds_and_tells_all_kinds_of_work() -> None:
    pace = measure_pace()
    assert pace.keys() == {part.like for part in work(FULL).values()}
    assert all(0.05 < value < 50 for value in pace.values()), pace


@pytest.mark.parametrize("plan", [FULL, QUICK, TINY])
def test_a_plan_says_what_each_stage_does(plan: Plan) -> None:
    assert all(plan.steps(stage) > 1 for stage in STAGES)
    assert bool(plan.not_shown) is (plan is not FULL)


def test_time_left_follows_what_is_seen() -> None:
    parts = Parts("demo", {"a": 100.0, "b": 100.0, "c": 200.0})
    assert parts.seconds_left("a", 0.0, 0.0) == pytest.approx(400)
    assert parts.seconds_left("a", 0.5, 50.0) == pytest.approx(350), "as expected"
    assert 350 < parts.seconds_left("a", 0.5, 100.0) < 700, "twice as slow"
    parts.over["a"] = 200.0
    late = parts.seconds_left("b", 0.0, 0.0)
    assert 500 < late <= 100 + 2 * 200
    parts.over |= {"b": 200.0, "c": 400.0}
    assert sum(parts.expected.values()) == 400


def test_a_piece_of_a_part_moves_its_share() -> None:
    told: list[tuple[int, int, str]] = []
    one_of(3, 1, lambda *what: told.append(what))(5, 10, "x")
    assert told == [(15, 30, "x")]
