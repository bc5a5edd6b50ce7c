"""Temperature schedules: the paper's formula, its readings, limits, bad input."""

import json
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ead.schedule import (
    BESIDE,
    KINDS,
    PARAMETERS,
    Annealed,
    BySteps,
    Cosine,
    Fixed,
    HeldEntropy,
    Linear,
    Piecewise,
    ReverseAnnealed,
    ScheduleTable,
    Switched,
    annealed_temperature,
    from_config,
    measured,
)

TOLERANCE = 1e-12


def _step_aware(cls):
    return st.builds(
        lambda tau_min, above, d0, growth, room, start, reading, origin: cls(
            tau_max=tau_min + above,
            tau_min=tau_min,
            d0=d0,
            alpha=growth,
            d_max=d0 + room,
            start=start,
            reading=reading,
            origin=origin,
        ),
        tau_min=st.floats(1e-3, 2),
        above=st.floats(0, 3),
        d0=st.floats(0.5, 1e4),
        growth=st.one_of(st.just(0.0), st.floats(1e-3, 100)),
        room=st.floats(0, 1e5),
        start=st.integers(0, 50),
        reading=st.sampled_from(cls.readings),
        origin=st.sampled_from(["response", "start"]),
    )


annealed, reversed_ = _step_aware(Annealed), _step_aware(ReverseAnnealed)
schedules = st.one_of(st.builds(Fixed, st.floats(1e-3, 5)), annealed, reversed_)


def _fall(cls):
    return st.builds(
        lambda curve: cls(**{key: value for key, value in _fields(curve).items() if key != "reading"}),
        annealed,
    )


piecewise = st.builds(
    lambda points, interpolation: Piecewise(
        sorted(points), [points[at] for at in sorted(points)], interpolation
    ),
    st.dictionaries(st.integers(0, 10**4), st.floats(1e-3, 5), min_size=1, max_size=16),
    st.sampled_from(Piecewise.interpolations),
)
others = st.one_of(_fall(Linear), _fall(Cosine), piecewise)
positions = st.lists(st.integers(0, 10**6), min_size=1, max_size=20)
steps = st.integers(0, 10**5)


def test_the_papers_formula_position_by_position():
    schedule = Annealed(tau_max=1.2, tau_min=0.1, d0=25, alpha=5, d_max=40000, start=10)
    for step in (0, 1, 440, 10**6):
        decay = min(25 + 5 * step, 40000)
        for position in range(200):
            expected = 1.0 if position < 10 else max(1 + 1.2 - math.exp(position / decay), 0.1)
            assert schedule.temperature(position, step) == pytest.approx(expected, abs=TOLERANCE)


def test_the_readings_differ_as_the_release_and_the_paper_do():
    """D01: at d0 = 25 and step 0 the printed schedule reaches tau_min at t = 19, the released one at 371."""
    tokens = np.arange(3072)
    printed, released = Annealed(), Annealed(reading="released")
    assert np.argmax(printed.temperature(tokens) == 0.1) == 19
    assert np.argmax(released.temperature(tokens) == 0.1) == 371
    late = released.temperature(tokens[10:], step=440)
    assert late.min() == pytest.approx(1.13, abs=0.005) and late.max() <= 1.2
    # D12: the stretch applies to the capped decay rate too, so the cap is 20 * 40000 tokens.
    capped = released.temperature(80_000, step=10**9)
    assert capped == pytest.approx(2.2 - math.exp(80_000 / 800_000), abs=TOLERANCE)


def test_the_origin_decides_where_the_curve_is_entered():
    """D14: counted from the response's first token the printed default drops from 1 to 0.71 at t = 10."""
    assert Annealed().temperature(np.array([9, 10])) == pytest.approx([1.0, 0.7082], abs=1e-4)
    assert Annealed(origin="start").temperature(np.array([9, 10])) == pytest.approx([1.0, 1.2])
    hot = [step for step in range(20) if Annealed().temperature(10, step) > 1]
    assert hot[0] == 6  # d_s = 55: the first step with a phase above 1 is the first with 10 / d_s < log 1.2
    later = Annealed(origin="start").temperature(22)
    assert later == pytest.approx(2.2 - math.exp((22 - 10) / 25), abs=TOLERANCE)


def test_reverse_annealing_readings():
    """D02: printed starts at tau_min + 1 and saturates at once; mirrored starts at tau_min."""
    tokens = np.arange(60)
    printed = ReverseAnnealed(start=0).temperature(tokens)
    mirrored = ReverseAnnealed(start=0, reading="mirrored").temperature(tokens)
    assert printed[0] == pytest.approx(1.1) and printed[3] == 1.2  # after 0.1 d tokens
    assert mirrored[0] == 0.1
    assert mirrored[:18] == pytest.approx(np.minimum(-0.9 + np.exp(tokens[:18] / 25), 1.2), abs=TOLERANCE)
    assert mirrored[-1] == 1.2


@given(annealed, positions, steps)
def test_annealing_only_cools(schedule, tokens, step):
    tokens = np.sort(tokens) + schedule.start
    assert (np.diff(schedule.temperature(tokens, step)) <= 0).all()


@given(reversed_, positions, steps)
def test_reverse_annealing_only_warms(schedule, tokens, step):
    tokens = np.sort(tokens) + schedule.start
    assert (np.diff(schedule.temperature(tokens, step)) >= 0).all()


@given(annealed, positions, steps, steps)
def test_a_later_step_is_never_cooler(schedule, tokens, step, other):
    early, late = sorted((step, other))
    if schedule.origin == "response" or min(tokens) >= schedule.start:
        assert (schedule.temperature(tokens, late) >= schedule.temperature(tokens, early)).all()


@given(schedules, positions, steps)
def test_bounds_and_the_template_phase(schedule, tokens, step):
    temperatures = schedule.temperature(tokens, step)
    if isinstance(schedule, Fixed):
        assert (temperatures == schedule.tau).all()
        return
    before = np.array(tokens) < schedule.start
    assert (temperatures[before] == 1).all()
    after = temperatures[~before]
    assert ((schedule.tau_min <= after) & (after <= schedule.tau_max)).all()


@given(schedules, positions, steps)
def test_scalar_vector_and_tensor_agree_to_the_bit(schedule, tokens, step):
    scalars = [schedule.temperature(token, step) for token in tokens]
    assert all(type(value) is float for value in scalars)
    for batch in (np.array(tokens), np.array(tokens, dtype=np.int32), torch.tensor(tokens)):
        vector = schedule.temperature(batch, step)
        assert vector.dtype == np.float64 and vector.shape == (len(tokens),)
        assert vector.tolist() == scalars
    grid = schedule.temperature(np.array(tokens)[:, None], step)
    assert grid.shape == (len(tokens), 1)


@given(st.lists(st.tuples(schedules, st.integers(0, 10**6), steps), min_size=1, max_size=12))
def test_a_mixed_batch_is_one_call(rows):
    table = np.stack([schedule.parameters(step) for schedule, _, step in rows], axis=-1)
    assert table.shape == (len(PARAMETERS), len(rows))
    together = annealed_temperature(table, np.array([token for _, token, _ in rows]))
    assert together.tolist() == [schedule.temperature(token, step) for schedule, token, step in rows]
    shared = annealed_temperature(table[:, :, None], np.arange(5))
    assert shared.shape == (len(rows), 5)


@given(
    st.lists(st.tuples(st.one_of(schedules, others), st.integers(0, 10**6), steps), min_size=1, max_size=12)
)
def test_a_table_of_mixed_formulas_gives_each_row_its_own(rows):
    table = ScheduleTable(len(rows) + 1)
    for row, (schedule, _, step) in enumerate(rows):
        table.set(row, schedule, step)
    at = np.array([position for _, position, _ in rows])
    alone = [schedule.temperature(position, step) for schedule, position, step in rows]
    assert table.temperatures(at).tolist() == alone
    assert table.temperatures(np.append(at, 3))[-1] == 1  # a row that was not set
    # The same columns on a device, as vLLM's second runner evaluates them.
    columns, formulas = torch.from_numpy(table.parameters[:, :-1]), torch.from_numpy(table.formulas[:-1])
    found = table.evaluate(set(formulas.tolist()), columns, formulas, torch.from_numpy(at).double(), torch)
    np.testing.assert_allclose(found.numpy(), alone, rtol=1e-12)
    table.swap(0, len(rows))
    table.clear(len(rows))
    assert (table.temperatures(np.append(at, 3))[[0, -1]] == 1).all()


@given(others, positions, steps)
def test_other_formulas_stay_within_their_bounds(schedule, tokens, step):
    lowest, highest = schedule.bounds
    start = getattr(schedule, "start", 0)
    found = schedule.temperature(np.array(tokens) + start, step)
    assert (found >= lowest).all() and (found <= highest).all()
    assert from_config(json.loads(json.dumps(schedule.to_dict()))) == schedule


def test_other_formulas_position_by_position():
    linear = Linear(tau_max=1.2, tau_min=0.2, d0=10, alpha=10, start=2)
    assert linear.temperature(np.array([1, 2, 5, 10, 11])) == pytest.approx([1, 1.0, 0.7, 0.2, 0.2])
    assert linear.temperature(10, step=1) == pytest.approx(0.7)
    cosine = Cosine(tau_max=1.2, tau_min=0.2, d0=8, alpha=0, start=2, origin="start")
    assert cosine.temperature(np.array([2, 4, 6, 10])) == pytest.approx([1.2, 0.7 + 0.5 * 0.5**0.5, 0.7, 0.2])
    points = {"at": [4, 8], "tau": [1.0, 0.5]}
    assert Piecewise(**points).temperature(np.array([0, 4, 6, 8, 99])) == pytest.approx(
        [1, 1, 0.75, 0.5, 0.5]
    )
    steps_ = Piecewise(**points, interpolation="constant")
    assert steps_.temperature(np.array([0, 4, 7, 8])).tolist() == [1, 1, 1, 0.5]


def test_a_switch_counts_its_second_schedule_from_the_token_on():
    schedule = Switched(Fixed(1.1), {"kind": "linear", "tau_max": 1, "tau_min": 0.5, "d0": 2, "start": 0}, 7)
    assert schedule.temperature(np.arange(3)).tolist() == [1.1] * 3
    assert schedule.temperature(np.arange(6), switched_at=3).tolist() == [1.1, 1.1, 1.1, 1, 0.75, 0.5]
    assert schedule.temperature(4, switched_at=np.array([3, 9])).tolist() == [0.75, 1.1]
    assert from_config(json.loads(json.dumps(schedule.to_dict()))) == schedule


def test_every_measured_field_is_converted_in_parts_too():
    def convert(unit, value):
        return {"length": 2 * value, "length/steps": 3 * value, "start": 4}[unit]

    assert Annealed().converted(convert) == Annealed(d0=50, alpha=15, d_max=80000, start=4)
    points = Piecewise([1, 5], [1, 0.5])
    assert Switched(Cosine(), points, [3]).converted(convert) == Switched(
        Cosine(d0=50, alpha=15, d_max=80000, start=4), Piecewise([2, 10], [1, 0.5]), [3]
    )


@given(annealed)
def test_limits(schedule):
    for step in (0, 10**400):
        for position in (2**62, 10**300):
            assert schedule.temperature(position, step) == schedule.tau_min
    assert schedule.decay_rate(10**400) == (schedule.d_max if schedule.alpha > 0 else schedule.d0)
    first = Annealed(**{**_fields(schedule), "origin": "start"})
    assert first.temperature(schedule.start) == schedule.tau_max


@given(reversed_)
def test_reverse_limits(schedule):
    assert schedule.temperature(2**62, 10**400) == schedule.tau_max


@given(st.one_of(annealed, reversed_), steps)
def test_decay_rate(schedule, step):
    expected = min(schedule.d0 + schedule.alpha * step, schedule.d_max)
    assert schedule.decay_rate(step) == pytest.approx(expected, rel=1e-12)


@given(schedules)
def test_plain_data_round_trip(schedule):
    data = json.loads(json.dumps(schedule.to_dict()))
    assert from_config(data) == schedule
    assert from_config(data).to_dict() == schedule.to_dict()


def test_equal_settings_are_equal_whatever_their_number_type():
    assert Annealed(d0=25, alpha=np.float64(5), start=np.int64(10)) == Annealed(d0=25.0, alpha=5)
    assert json.dumps(Annealed(d0=25).to_dict()) == json.dumps(Annealed(d0=25.0).to_dict())


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        (Fixed(0.6), "tau(t) = 0.6"),
        (
            Annealed(),
            "tau(t, s) = 1 for t < 10, else max(1 + 1.2 - exp(t / min(25 + 5 s, 40000)), 0.1)",
        ),
        (
            Annealed(alpha=0, start=4, reading="released", origin="start"),
            "tau(t) = 1 for t < 4, else max(1 + 1.2 - exp((t - 4) / (20 * 25)), 0.1)",
        ),
        (
            ReverseAnnealed(start=0, reading="mirrored", alpha=0.5),
            "tau(t, s) = min(0.1 - 1 + exp(t / min(25 + 0.5 s, 40000)), 1.2)",
        ),
    ],
)
def test_a_schedule_prints_as_its_formula(schedule, formula):
    assert str(schedule) == formula


@given(st.one_of(annealed, reversed_), st.integers(0, 3000), st.integers(0, 1000))
def test_the_printed_formula_is_the_schedule(schedule, position, step):
    """Evaluate the printed text itself: what a reader sees is what is sampled from."""
    text = str(schedule).split(" = ", 1)[1]
    before, _, curve = text.rpartition("else ")
    curve = curve.replace(" s, ", " * s, ")
    names = {"min": min, "max": max, "exp": lambda x: math.exp(min(x, 700)), "t": position, "s": step}
    expected = 1.0 if before and position < schedule.start else eval(curve, {"__builtins__": {}}, names)
    assert schedule.temperature(position, step) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Fixed(0), "tau must be greater than 0"),
        (lambda: Fixed(math.nan), "tau must be a finite number"),
        (lambda: Fixed(True), "tau must be a finite number"),
        (lambda: Annealed(tau_min=0), "tau_min must be greater than 0"),
        (lambda: Annealed(tau_min=1.3), "tau_max must be at least tau_min = 1.3"),
        (lambda: Annealed(tau_max=math.inf), "tau_max must be a finite number"),
        (lambda: Annealed(d0=0), "d0 must be greater than 0"),
        (lambda: Annealed(d0="25"), "d0 must be a finite number, found '25'"),
        (lambda: Annealed(d0=10**400), "d0 must be a finite number"),
        (lambda: Annealed(alpha=-1), "alpha must be at least 0"),
        (lambda: Annealed(d_max=20), "d_max must be at least d0 = 25"),
        (lambda: Annealed(start=-1), "start must be an integer >= 0, found -1"),
        (lambda: Annealed(start=1.5), "start must be an integer >= 0, found 1.5"),
        (lambda: Annealed(reading="mirrored"), "reading must be one of printed, released, found 'mirrored'"),
        (lambda: ReverseAnnealed(reading="released"), "reading must be one of printed, mirrored"),
        (lambda: Annealed(origin="prompt"), "origin must be one of response, start"),
        (lambda: Annealed().temperature(-1), "position must be at least 0, found -1"),
        (lambda: Annealed().temperature(np.array([3, -2])), "position must be at least 0, found -2"),
        (lambda: Annealed().temperature(0.5), "position must be integers >= 0"),
        (lambda: Annealed().temperature(torch.tensor([1.0])), "position must be integers >= 0"),
        (lambda: Annealed().temperature(0, step=-1), "step must be an integer >= 0, found -1"),
        (lambda: Annealed().temperature(0, step=1.0), "step must be an integer >= 0, found 1.0"),
        (lambda: Fixed(1).temperature(0, step=-1), "step must be an integer >= 0, found -1"),
        (lambda: from_config({"kind": "annealed", "tau_mx": 1}), "schedule annealed: unknown key 'tau_mx'"),
        (
            lambda: from_config({"kind": "sigmoid"}),
            "schedule kind: found 'sigmoid', allowed: fixed, annealed",
        ),
        (lambda: from_config({"tau": 1}), "schedule kind: found None"),
        (
            lambda: from_config({"kind": "piecewise", "at": [0]}),
            "schedule piecewise: the key 'tau' is missing",
        ),
        (lambda: Piecewise([0, 0], [1, 1]), "at must be rising numbers from 0 on, found [0.0, 0.0]"),
        (lambda: Piecewise([0, 1], [1]), "tau must be as many as at has, 2, found [1.0]"),
        (lambda: Piecewise(range(17), range(17)), "at must be a list of 1 to 16 numbers"),
        (lambda: Piecewise([0], [0]), "tau must be greater than 0, found [0.0]"),
        (
            lambda: Piecewise([0], [1], "cubic"),
            "interpolation must be one of linear, constant, found 'cubic'",
        ),
        (lambda: Switched(Fixed(1), {"kind": "x"}, [1]), "after: schedule kind: found 'x'"),
        (lambda: Switched(Fixed(1), Fixed(1), []), "tokens must be a list of 1 to 16 token ids, found []"),
        (lambda: Switched(Fixed(1), Fixed(1), [-1]), "tokens must be an integer >= 0, found -1"),
        (
            lambda: Switched(Switched(Fixed(1), Fixed(1), 1), Fixed(1), 1),
            "before must be a schedule of position and step alone, found 'switched'",
        ),
        (lambda: Linear(origin="prompt"), "origin must be one of response, start"),
        (lambda: from_config({"kind": "fixed"}), "the key 'tau' is missing"),
        (lambda: from_config("fixed"), "a schedule is a mapping"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError) as error:
        build()
    assert message in str(error.value)


def _fields(schedule):
    data = schedule.to_dict()
    del data["kind"]
    return data


@pytest.mark.parametrize("name", ["step", "position"])
def test_no_field_has_the_name_of_what_a_request_says_beside_it(name):
    with pytest.raises(TypeError, match=f"Own: a field cannot be called '{name}'"):
        type("Own", (Fixed,), {"__annotations__": {name: float}})


def test_lists_of_plain_data_become_tuples_and_are_converted_number_by_number(monkeypatch):
    @dataclass(frozen=True)
    class Waves(Fixed):
        kind: ClassVar[str] = "waves"
        centers: tuple[float, ...] = measured("length", (3.0, 9.0))

    monkeypatch.setitem(KINDS, Waves.kind, Waves)
    read = from_config({"kind": "waves", "tau": 1, "centers": [1.0, 2.0, 4.0]})
    assert read == Waves(1, centers=(1.0, 2.0, 4.0)) == from_config(json.loads(json.dumps(read.to_dict())))
    assert hash(read) and read.converted(lambda unit, number: number * 3).centers == (3.0, 6.0, 12.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Annealed(start=10**400), "start must be less than"),
        (lambda: HeldEntropy().resolved([1.0] * 5, 1, 10), "vocabulary must be greater than 1"),
        (lambda: from_config({"kind": "fixed", "steps": 1}, BESIDE), "allowed: tau, step, position"),
    ],
)
def test_values_too_large_or_small_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_a_step_too_large_for_a_float_is_a_step():
    assert BySteps().temperature(0, 10**400) == 0.8
    assert Annealed(alpha=1e-310).temperature(0, 10**400) == 1.0
    assert Switched(Fixed(1.0), Fixed(0.5), np.array([1, 2])).tokens == (1, 2)
