"""What a drill counts: lost, duplicated and altered records are each seen, in any table."""

from tests.drills.drill_pipeline import compare_tables

ROWS = [{"record_id": f"r{n}", "label": "positive"} for n in range(4)]


def differences(rows: list[dict]) -> tuple[int, int, int]:
    found = compare_tables({"labels": rows}, {"labels": ROWS})
    return found.lost, found.duplicated, found.altered


def test_the_same_rows_are_no_difference():
    assert not compare_tables({"labels": list(ROWS)}, {"labels": ROWS})


def test_lost_duplicated_foreign_and_altered_records_are_counted():
    assert differences(ROWS[1:]) == (1, 0, 0)
    assert differences([*ROWS, ROWS[2]]) == (0, 1, 0)
    assert differences([*ROWS, {"record_id": "x", "label": "positive"}]) == (0, 1, 0)
    assert differences([{**ROWS[0], "label": "negative"}, *ROWS[1:]]) == (0, 0, 1)


def test_the_same_rows_in_another_order_are_a_difference():
    assert compare_tables({"labels": ROWS[::-1]}, {"labels": ROWS}).notes
