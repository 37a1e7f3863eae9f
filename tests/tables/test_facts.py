from hadpo.tables import MINI, facts


def test_a_mapping_is_one_row_a_fact_and_nests_by_dots():
    table = facts({"pairs": 3, "merged": {"largest": 0.00012345678}, "names": ["a", "b"]})
    assert table.heading == ["what", "value"]
    assert table.rows == [["pairs", "3"], ["merged.largest", "0.000123457"], ["names", "a | b"]]


def test_records_are_rows_and_wide_records_stand_upright():
    narrow = facts([{"a": 1, "b": None}, {"a": 2}])
    assert (narrow.heading, narrow.rows) == (["a", "b"], [["1", "-"], ["2", "-"]])
    wide = facts([{f"field {i}": i for i in range(12)}])
    assert wide.heading == ["what", "1"]
    assert wide.rows[11] == ["field 11", "11"]


def test_nothing_is_shortened_and_everything_is_escaped():
    text = facts({"prompt": "<s>" + "x" * 500})._repr_html_()
    assert "&lt;s&gt;" + "x" * 500 in text


def test_facts_of_the_synthetic_world_say_so():
    for values in ({"loss": 0.5}, [{"a": 1}], [{f"field {i}": i for i in range(12)}]):
        assert MINI in facts(values, is_mini=True)._repr_html_()
        assert MINI not in facts(values)._repr_html_()
