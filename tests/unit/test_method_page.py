"""The page docs/method.md runs as it stands, and the results it states are those returned."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "method.md"


def test_the_page_runs_and_states_what_it_returns(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 6
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)

    def stated(expression: str, comment: str):
        assert any(f"{expression}  # {comment}" in block for block in blocks), expression
        return eval(expression, names)

    printed = capsys.readouterr().out.strip()
    assert f"print(ead)  # {printed}\n" in blocks[0]
    exec(blocks[1], names)  # the third block reused its names
    weights = stated("truncated_weights(old, behaviour, mask, cap=2.0)", "[[2.0, 0.5, 0.0]]")
    assert weights.flatten().tolist() == pytest.approx([2.0, 0.5, 0.0])
    largest = stated('weight_statistics(old, behaviour, mask, cap=2.0)["ratio_max"]', "2.5")
    assert largest == pytest.approx(2.5)
    difference = stated("check_behaviour_logprobs(old, behaviour, mask, temperatures)", "0.80 nats")
    assert difference == pytest.approx(0.80, abs=0.01)
    verdicts = "[(v.correct, v.status, v.extracted) for v in verdicts]"
    said = "[(True, 'ok', '0.5'), (False, 'no_answer', None)]"
    assert stated(verdicts, said) == [(True, "ok", "0.5"), (False, "no_answer", None)]
    empty = "the gold answer is '': it may not be empty"
    assert stated('check_gold("")', f'"{empty}"') == empty
    votes = 'majority_at_k(["4", "4", "5", None], [True, True, False, False], k=[1, 2, 4])'
    assert stated(votes, "0.5, 0.667, 1.0") == pytest.approx([0.5, 0.667, 1.0], abs=1e-3)
    both = stated("pass_at_k(16, 1, 16), resampled_best_at_k(np.eye(1, 16)[0], 16)", "1.0 and 0.644")
    assert both == pytest.approx((1.0, 0.644), abs=1e-3)
