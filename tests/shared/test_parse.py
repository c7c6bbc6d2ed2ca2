"""JSON and YAML of others: what is fit reads as the libraries read it, what is not is a ValueError and nothing else."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shared.parse import MOST_NODES, parse_json, parse_yaml

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab\u00e9 ", max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_what_was_written_reads_back(tree):
    assert parse_json(json.dumps(tree)) == parse_json(json.dumps(tree, ensure_ascii=False).encode()) == tree
    assert parse_yaml(yaml.safe_dump(tree, allow_unicode=True)) == tree


@given(st.text() | st.binary())
def test_any_json_text_gives_a_value_or_a_value_error(text):
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            parse_json(text)
    else:
        assert parse_json(text) == expected or expected != expected


@given(st.text("ab:-[]{}&*!<>|'\"#%@ \n\t0123.~?,é", max_size=40))
def test_any_yaml_text_gives_a_value_or_a_value_error(text):
    try:
        expected = yaml.safe_load(text)
    except Exception:
        with pytest.raises(ValueError):
            parse_yaml(text)
    else:
        try:
            assert parse_yaml(text) == expected or expected != expected
        except ValueError as error:
            assert "alias" in str(error)


@pytest.mark.parametrize(("extra", "fits"), [(0, True), (1, False)])
def test_the_limit_counts_every_value_that_aliases_stand_for(extra, fits):
    """1 for the whole, 1 for the list and 98 in it, and of each of the others 1 + 99 values."""
    times = (MOST_NODES - 100) // 99  # each alias counts 99: the list and its values
    rest = MOST_NODES - 100 - 99 * times + extra
    text = f"[&a [{', '.join(['x'] * 98)}], {', '.join(['*a'] * times + ['y'] * (rest))}]"
    if fits:
        assert len(parse_yaml(text)) == 1 + times + rest
    else:
        with pytest.raises(ValueError, match="aliases expand"):
            parse_yaml(text)


def test_repeated_keys_can_be_seen():
    assert parse_json('{"a": 1, "a": 2}', object_pairs_hook=list) == [("a", 1), ("a", 2)]


@pytest.mark.parametrize("number", ["0x" + "f" * 5000, "1" + ":1" * 3000, "-" + "9" * 5000, "0b" + "1" * 200])
def test_numbers_that_could_not_be_written_out_again_are_refused(number):
    for text in (number, f"[{number}]", f"a: {number}", f"? {number}\n: a", f'!!int "{number}"'):
        with pytest.raises(ValueError, match="a number of [0-9]+ characters"):
            parse_yaml(text)
    assert parse_yaml(f"'{number}'") == number
