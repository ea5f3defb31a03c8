"""Which sets stay, as pure choices; what must hold of all of them, over ten years of nights."""

from __future__ import annotations

import itertools
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dental_pms_backup.config.settings import Retention
from dental_pms_backup.store import retention
from dental_pms_backup.store.sets import Kind, StoredSet, Stream
from tests.unit.builders import NOW, name_of, night, stored

LATER = night(1000)
STATES = ["good", "damaged", "without db", "pinned", "accepted", "proven", "failed"]
SETS = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from(STATES)),
    max_size=30,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: [of_kind(number, what) for number, what in pairs])
POLICIES = st.builds(
    Retention,
    keep=st.integers(1, 20),
    keep_within_days=st.integers(0, 60),
    keep_daily=st.integers(0, 10),
    keep_weekly=st.integers(0, 10),
    keep_monthly=st.integers(0, 10),
    keep_yearly=st.integers(0, 3),
)


def of_kind(number: int, what: str = "good") -> StoredSet:
    return of_moment(night(number), what)


def of_moment(moment: datetime, what: str = "good") -> StoredSet:
    return stored(
        name_of(moment),
        taken_at=moment,
        kinds=tuple(Kind) if what != "without db" else (Kind.ATTACHMENTS,),
        problems=("db: missing",) if what == "damaged" else (),
        manifest={"suspicions": ["db: small"] if what in {"suspect", "accepted"} else []},
        accepted=what == "accepted",
        pinned=what == "pinned",
        proof={"result": {"proven": "passed"}.get(what, what)} if what in {"proven", "failed"} else None,
    )


def nights(*numbers: int) -> list[StoredSet]:
    return [of_kind(number) for number in numbers]


def chosen(
    sets: list[StoredSet],
    policy: Retention | int,
    *,
    now: datetime = LATER,
    **options: Any,  # noqa: ANN401
) -> list[retention.Choice]:
    """Return the choices for the db stream; a number for a policy is how many sets to keep."""
    policy = policy if isinstance(policy, Retention) else Retention(keep=policy)
    return retention.choices(sets, Stream.DB, policy, now=now, **options)


def staying(sets: list[StoredSet], policy: Retention | int, **options: Any) -> list[str]:  # noqa: ANN401
    return [choice.stored.name for choice in chosen(sets, policy, **options) if choice.keep]


def test_newest_stay_and_each_choice_has_its_reason() -> None:
    assert [(each.stored.name, each.stream, each.keep, each.reason) for each in chosen(nights(1, 2, 3), 2)] == [
        ("2026-01-04_023000", Stream.DB, True, "number 1 from the newest, 2 stay"),
        ("2026-01-03_023000", Stream.DB, True, "number 2 from the newest, 2 stay"),
        ("2026-01-02_023000", Stream.DB, False, "number 3 from the newest, 2 stay"),
    ]


def test_damaged_and_failed_sets_push_out_each_other_and_no_good_one() -> None:
    sets = [of_kind(1), of_kind(2, "damaged"), of_kind(3), of_kind(4, "failed")]
    assert [(choice.keep, choice.reason) for choice in chosen(sets, 1)] == [
        (True, "failed: number 1 from the newest of those that are damaged or failed, 1 stay"),
        (True, "number 1 from the newest, 1 stay"),
        (False, "damaged: number 2 from the newest of those that are damaged or failed, 1 stay"),
        (False, "number 2 from the newest, 1 stay"),
    ]


@pytest.mark.parametrize("what", ["failed", "damaged"])
def test_store_of_nothing_but_bad_sets_does_not_grow_for_ever(what: str) -> None:
    sets = [of_kind(number, what) for number in range(41)]
    assert staying(sets, 14) == [each.name for each in sets[:-15:-1]]
    assert len(staying(sets, Retention(keep=14, keep_within_days=20), now=night(41))) == 19


def test_keep_1_leaves_the_set_just_made() -> None:
    assert staying(nights(1, 2, 3), 1, made=name_of(night(3))) == [name_of(night(3))]


def test_set_just_made_stays_although_the_clock_went_back_a_year() -> None:
    made = stored(taken_at=NOW - timedelta(days=365))
    assert staying([made, *nights(1, 2, 3)], 1, now=made.taken_at, made=made.name)[0] == made.name


def test_sets_of_a_clock_that_ran_a_year_ahead_count_last() -> None:
    ahead = nights(700, 701, 702)
    made = of_kind(3)
    found = chosen([*nights(1, 2), made, *ahead], 2, now=night(3), made=made.name)
    assert [choice.stored.name for choice in found] == [name_of(night(number)) for number in (3, 2, 1, 702, 701, 700)]
    assert [choice.keep for choice in found] == [True, True, False, False, False, False]


def test_set_of_the_future_is_as_young_as_one_of_today() -> None:
    found = chosen(nights(1, 2, 700), Retention(keep=1, keep_within_days=1), now=night(2))
    assert [(choice.keep, choice.reason) for choice in found][1:] == [
        (False, "number 2 from the newest, 1 stay"),
        (True, "0 days old, all within 1 days stay"),
    ]


def test_newest_good_set_stays_without_a_run_although_all_are_dated_into_the_future() -> None:
    assert name_of(night(3)) in staying(nights(1, 2, 3), 1, now=night(-100))


def test_one_run_after_the_clock_jumped_a_year_removes_no_more_than_one_set() -> None:
    sets = nights(*range(14), 380)
    found = chosen(sets, 14, now=night(380), made=sets[-1].name)
    assert [choice.stored.name for choice in found if not choice.keep] == [name_of(night(0))]


def test_set_without_the_stream_is_no_choice() -> None:
    assert chosen([of_kind(1, "without db")], 1) == []


def test_sets_of_an_older_script_are_counted_and_rotated() -> None:
    old = StoredSet(name="2025-01-01_023000", taken_at=night(-365), artefacts=of_kind(1).artefacts, manifest=None)
    assert staying([old, *nights(1, 2)], 2) == [name_of(night(2)), name_of(night(1))]


def test_set_to_come_takes_a_place() -> None:
    assert staying(nights(1, 2, 3), 3, coming=1) == [name_of(night(3)), name_of(night(2))]


@pytest.mark.parametrize("keep", [0, -1])
def test_nobody_may_keep_nothing(keep: int) -> None:
    with pytest.raises(ValueError, match=rf"^keep is {keep}, expected at least 1$"):
        chosen(nights(1), keep)


def test_young_sets_stay_as_well_and_never_fewer_than_either() -> None:
    now = night(10) + timedelta(hours=1)
    found = chosen(nights(*range(11)), Retention(keep=2, keep_within_days=4), now=now)
    assert [(choice.keep, choice.reason) for choice in found][:5] == [
        (True, "number 1 from the newest, 2 stay"),
        (True, "number 2 from the newest, 2 stay"),
        (True, "2 days old, all within 4 days stay"),
        (True, "3 days old, all within 4 days stay"),
        (False, "number 5 from the newest, 2 stay"),
    ]
    assert len(staying(nights(0, 1, 2), Retention(keep=2, keep_within_days=4), now=now)) == 2


def test_several_sets_of_one_day_all_stay_within_their_days() -> None:
    moments = [NOW - timedelta(hours=hours) for hours in range(0, 72, 6)]
    assert len(staying([of_moment(each) for each in moments], Retention(keep=1, keep_within_days=2), now=NOW)) == 8


@pytest.mark.parametrize(
    ("policy", "stay"),
    [
        (Retention(keep=1, keep_daily=3), ["2026-03-04_2", "2026-03-03_2", "2026-03-02_2"]),
        (Retention(keep=1, keep_weekly=3), ["2026-03-04_2", "2026-03-01_2", "2026-02-22_2"]),
        (Retention(keep=1, keep_monthly=3), ["2026-03-04_2", "2026-02-28_2", "2026-01-31_2"]),
        (Retention(keep=1, keep_yearly=3), ["2026-03-04_2", "2025-12-31_2", "2024-12-31_2"]),
        (
            Retention(keep=2, keep_weekly=2, keep_monthly=2, keep_yearly=2),
            ["2026-03-04_2", "2026-03-04_0", "2026-03-01_2", "2026-02-28_2", "2025-12-31_2"],
        ),
    ],
)
def test_newest_of_each_of_the_last_periods_stays(policy: Retention, stay: list[str]) -> None:
    last = datetime(2026, 3, 4, tzinfo=UTC)
    moments = [last - timedelta(days=days) + timedelta(hours=hours) for days in range(900) for hours in (0, 20)]
    found = staying([of_moment(each) for each in moments], policy, now=last + timedelta(days=1))
    assert [name[:12] for name in found] == stay


def test_period_is_one_of_local_time() -> None:
    evening = datetime(2026, 1, 31, 22, 50, tzinfo=UTC)  # 23:50 on the 31st
    midnight = datetime(2026, 1, 31, 23, 10, tzinfo=UTC)  # 00:10 on the 1st
    sets = [of_moment(evening), of_moment(midnight)]
    assert len(staying(sets, Retention(keep=1, keep_monthly=2))) == 2


def test_week_over_new_year_is_one_week() -> None:
    sets = [
        of_moment(datetime(year, month, day, 12, tzinfo=UTC)) for year, month, day in ((2025, 12, 31), (2026, 1, 1))
    ]
    assert staying(sets, Retention(keep=1, keep_weekly=2)) == ["2026-01-01_130000"]


def test_missed_nights_do_not_use_up_periods() -> None:
    sets = nights(0, 50, 100, 150)
    assert len(staying(sets, Retention(keep=1, keep_monthly=4), now=night(400))) == 4


def test_damaged_set_is_never_the_one_of_its_period() -> None:
    sets = [of_moment(datetime(2026, 1, day, tzinfo=UTC), what) for day, what in ((5, "good"), (6, "damaged"))]
    found = chosen([*sets, of_kind(60)], Retention(keep=1, keep_monthly=2))
    assert [(choice.keep, choice.reason) for choice in found] == [
        (True, "number 1 from the newest, 1 stay"),
        (True, "damaged: number 1 from the newest of those that are damaged or failed, 1 stay"),
        (True, "one of the last 2 monthly sets"),
    ]


def test_pinned_set_stays_for_ever() -> None:
    found = chosen([of_kind(0, "pinned"), *nights(1, 2)], 1, now=night(10_000))
    assert [(choice.keep, choice.reason) for choice in found][-1] == (True, "pinned")


def test_pinned_set_stays_beside_those_that_are_counted() -> None:
    sets = [*nights(1, 2, 3), of_kind(4, "pinned"), of_kind(5, "pinned")]
    assert [(choice.keep, choice.reason) for choice in chosen(sets, 2)] == [
        (True, "pinned"),
        (True, "pinned"),
        (True, "number 1 from the newest, 2 stay"),
        (True, "number 2 from the newest, 2 stay"),
        (False, "number 3 from the newest, 2 stay"),
    ]


def test_pinned_set_is_never_the_one_of_its_period() -> None:
    sets = [of_kind(0), *(of_moment(night(60) + timedelta(hours=hours), "pinned") for hours in (1, 2)), of_kind(60)]
    assert len(staying(sets, Retention(keep=1, keep_monthly=2))) == 4


def test_newest_proven_set_stays_however_old_and_older_ones_do_not() -> None:
    sets = [of_kind(1, "proven"), of_kind(2, "proven"), *nights(3, 4, 5)]
    found = {choice.stored.name: choice for choice in retention.choices(sets, Stream.DB, Retention(keep=2), now=LATER)}
    kept = [name for name, choice in found.items() if choice.keep]
    assert kept == [name_of(night(number)) for number in (5, 4, 2)]
    assert found[name_of(night(2))].reason == "the newest set that a drill has proven"


def test_set_that_failed_its_drill_pushes_no_good_one_out() -> None:
    sets = [*nights(1, 2, 3), of_kind(4, "failed"), of_kind(5, "failed")]
    found = chosen([*sets, of_kind(6, "failed")], 2)
    assert [choice.keep for choice in found] == [True, True, False, True, True, False]


def test_nothing_goes_while_a_set_is_suspect_and_the_reason_names_it() -> None:
    sets = [*nights(*range(20)), of_kind(20, "suspect"), of_kind(21)]
    found = chosen(sets, 1)
    assert {(choice.keep, choice.reason) for choice in found} == {
        (True, f"nothing is removed while set {name_of(night(20))} is suspect")
    }
    assert len(found) == 22


def test_pinned_suspect_set_freezes_nothing() -> None:
    spoilt = stored(
        name_of(night(3)), taken_at=night(3), kinds=(Kind.DB,), manifest={"suspicions": ["db: small"]}, pinned=True
    )
    assert spoilt.state == "suspect"
    assert staying([*nights(1, 2), spoilt], 1) == [spoilt.name, name_of(night(2))]


def test_accepted_set_freezes_nothing_and_takes_a_place() -> None:
    assert staying([*nights(1, 2), of_kind(3, "accepted")], 1) == [name_of(night(3))]


@given(SETS, POLICIES)
def test_as_many_good_sets_stay_as_asked_for(sets: list[StoredSet], policy: Retention) -> None:
    good = {each.name for each in sets if each.is_good and each.artefact(Kind.DB)}
    assert len(good & set(staying(sets, policy))) >= min(policy.keep, len(good))


@given(
    SETS, POLICIES, st.lists(st.integers(401, 450), max_size=30, unique=True), st.sampled_from(["failed", "damaged"])
)
def test_no_bad_set_changes_what_is_chosen_of_good_ones_and_the_newest_of_them_stay(
    sets: list[StoredSet], policy: Retention, numbers: list[int], what: str
) -> None:
    def good_ones(some: list[StoredSet]) -> list[retention.Choice]:
        return [choice for choice in chosen(some, policy) if choice.stored.is_good]

    more = [*sets, *(of_kind(number, what) for number in numbers)]
    plain = [each for each in more if not each.is_good and not each.pinned and each.artefact(Kind.DB)]
    newest = sorted(plain, key=lambda each: each.taken_at)[-policy.keep :]
    assert good_ones(more) == good_ones([each for each in sets if each.is_good])
    assert {each.name for each in newest} <= {*staying(more, policy)}
    if not policy.keep_within_days:
        assert len(newest) == len({each.name for each in plain} & {*staying(more, policy)})


@given(SETS, st.integers(1, 20))
def test_no_good_set_goes_while_an_older_one_stays_by_number(sets: list[StoredSet], keep: int) -> None:
    plain = [each for each in sets if not each.pinned]
    good = [choice for choice in chosen(plain, keep) if choice.stored.is_good]
    stay = [choice.stored.taken_at for choice in good if choice.keep and choice.reason != retention.NEWEST_PROVEN]
    go = [choice.stored.taken_at for choice in good if not choice.keep]
    assert not stay or not go or min(stay) > max(go)


@given(SETS, POLICIES, st.integers(-100, 500))
def test_newest_good_set_that_is_not_of_the_future_always_stays(
    sets: list[StoredSet], policy: Retention, now: int
) -> None:
    good = [each for each in sets if each.is_good and each.artefact(Kind.DB) and each.taken_at <= night(now)]
    assert not good or max(good, key=lambda each: each.taken_at).name in staying(sets, policy, now=night(now))


@given(SETS.filter(bool), POLICIES, st.randoms(use_true_random=False), st.integers(-100, 500))
def test_set_just_made_always_stays(sets: list[StoredSet], policy: Retention, chance: random.Random, now: int) -> None:
    made = chance.choice(sets)
    assert not made.artefact(Kind.DB) or made.name in staying(sets, policy, now=night(now), made=made.name)


@given(SETS, POLICIES)
def test_pinned_sets_always_stay(sets: list[StoredSet], policy: Retention) -> None:
    assert {each.name for each in sets if each.pinned} <= set(staying(sets, policy))


@given(SETS, POLICIES)
def test_no_pin_changes_what_is_chosen_of_the_others(sets: list[StoredSet], policy: Retention) -> None:
    pinned = {each.name for each in sets if each.pinned}
    others = [each for each in sets if not each.pinned]
    assert [name for name in staying(sets, policy) if name not in pinned] == staying(others, policy)


@given(SETS, POLICIES, st.integers(0, 400))
def test_suspect_set_freezes_all(sets: list[StoredSet], policy: Retention, number: int) -> None:
    others = [each for each in sets if each.taken_at != night(number)]
    assert all(choice.keep for choice in chosen([*others, of_kind(number, "suspect")], policy))


@given(SETS, POLICIES)
def test_every_set_that_has_the_stream_gets_one_choice(sets: list[StoredSet], policy: Retention) -> None:
    having = sorted(each.name for each in sets if each.artefact(Kind.DB))
    assert sorted(choice.stored.name for choice in chosen(sets, policy)) == having


@given(SETS, POLICIES)
def test_choosing_again_after_the_removals_removes_nothing(sets: list[StoredSet], policy: Retention) -> None:
    left = set(staying(sets, policy))
    assert set(staying([each for each in sets if each.name in left], policy)) == left


def clock(*, seed: int, jumps: bool) -> list[datetime]:
    """Return what the clock shows at each nightly run of ten years, in order; some nights are missed.

    Runs are at 02:30 local time, which comes twice or never on the nights in which the summer time changes; a clock
    that jumps is wrong for some nights, up to a year both ways.
    """
    chance = random.Random(seed)  # noqa: S311 - nothing secret
    moments: list[datetime] = []
    for number in range(3653):
        local = datetime(2026, 1, 1, 2, 30) + timedelta(days=number)  # noqa: DTZ001 - a wall clock's
        for fold in (0, 1):
            true = local.replace(fold=fold).astimezone(UTC)
            exists = true.astimezone().replace(tzinfo=None, fold=0) == local
            if exists and chance.random() > 0.05 and (not moments or moments[-1] != true):
                moments.append(true)
    wrong = timedelta()
    shown = []
    for true in moments:
        if jumps and chance.random() < 0.02:
            wrong = chance.choice([timedelta(), timedelta(days=chance.randint(-365, 365)), timedelta(hours=-1)])
        shown.append(true + wrong)
    return shown


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("policy", "jumps"),
    [
        (Retention(keep=14), False),
        (Retention(keep=1), True),
        (Retention(keep=3, keep_within_days=10, keep_weekly=3, keep_monthly=4, keep_yearly=10), False),
        (Retention(keep=3, keep_within_days=10, keep_weekly=3, keep_monthly=4, keep_yearly=10), True),
    ],
)
def test_ten_years_of_nights_never_cost_the_newest_good_set_nor_one_too_many(policy: Retention, jumps: bool) -> None:
    chance = random.Random(7)  # noqa: S311 - nothing secret
    sets: list[StoredSet] = []
    taken: set[str] = set()
    most = 0
    for shown in clock(seed=policy.keep, jumps=jumps):
        while name_of(shown) in taken:
            shown += timedelta(seconds=1)  # noqa: PLW2901 - as a run does when its name is taken
        what = chance.choices(["good", "damaged", "suspect"], [96, 2, 2])[0]
        made = of_moment(shown, what)
        taken.add(made.name)
        good_before = [each for each in sets if each.state == "verified"]
        sets.append(made)
        if what == "suspect":  # such a run lets nothing go; the admin accepts it in the morning
            assert len(staying(sets, policy, now=shown, made=made.name)) == len(sets)
            sets[-1] = of_moment(shown, "accepted")
            continue
        left = set(staying(sets, policy, now=shown, made=made.name))
        sets = [each for each in sets if each.name in left]
        good = [each for each in sets if each.state == "verified"]
        assert made.name in left
        assert len(good) >= min(policy.keep, len(good_before) + (what == "good"))
        if not jumps and good:
            before = good_before + [made] * (what == "good")
            assert max(before, key=lambda each: each.taken_at) in good
        most = max(most, len(good))
    assert len(taken) > 3300
    if not jumps:
        assert sets[-1].taken_at.date().isoformat() > "2035-12-25"
        assert most <= policy.keep + policy.keep_within_days + policy.keep_weekly + policy.keep_monthly + 12


def test_summer_time_is_in_the_ten_years() -> None:
    shown = clock(seed=14, jumps=False)
    apart = {later - earlier for earlier, later in itertools.pairwise(shown)}
    assert {timedelta(hours=1), timedelta(hours=24), timedelta(hours=47)} <= apart
    assert time.tzname == ("CET", "CEST")
