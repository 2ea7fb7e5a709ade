"""Events are drawn as what they are."""

from taidscale.report.drawing import MARKS, OTHER_MARK, mark_of


def test_a_changed_setting_has_a_mark_of_its_own() -> None:
    assert mark_of("changed", 5) == MARKS["changed"]
    assert len({mark for mark, _, _ in [*MARKS.values(), OTHER_MARK]}) == len(MARKS) + 1
