from hadpo.tables import MINI, facts
from hadpo.tables._table import Table


def cells(table: Table) -> tuple[list[str], list[list[str]]]:
    return list(table.shown.columns), table.shown.to_numpy().tolist()


def test_a_mapping_is_one_row_a_fact_and_nests_by_dots():
    heading, rows = cells(
        facts({"pairs": 3, "merged": {"largest": 0.00012345678}, "names": ["a", "b"]})
    )
    assert heading == ["what", "value"]
    assert rows == [["pairs", "3"], ["merged.largest", "0.000123457"], ["names", "a | b"]]


def test_records_are_rows_and_wide_records_stand_upright():
    assert cells(facts([{"a": 1, "b": None}, {"a": 2}])) == (["a", "b"], [["1", "-"], ["2", "-"]])
    heading, rows = cells(facts([{f"field {i}": i for i in range(12)}]))
    assert heading == ["what", "1"]
    assert rows[11] == ["field 11", "11"]


def test_nothing_is_shortened_and_everything_is_escaped():
    text = facts({"prompt": "<s>" + "x" * 500})._repr_html_()
    assert "&lt;s&gt;" + "x" * 500 in text and "nowrap" not in text


def test_facts_need_no_caption_and_may_be_none():
    for values in ({"loss": 0.5}, [{"a": 1}], [{f"field {i}": i for i in range(12)}], []):
        assert "<caption>" not in facts(values)._repr_html_()
        assert MINI not in facts(values)._repr_html_()
