"""Which UPDATE would move rows along the key that they are walked by, told by its text."""

from __future__ import annotations

import pytest

from async_migrations.errors import InvalidDefinition
from async_migrations.execution.definition import Definition, read, update_text
from async_migrations.execution.fitting import require_in_place
from async_migrations.execution.keyset import Column, Keyset

KEYSET = Keyset(None, '"Books"."book"', '"book"', (Column('"id"', "bigint"), Column('"Shelf, No"', "text")), 5)  # type: ignore[arg-type]


def defined(update: str, **options: str) -> Definition:
    text = update_text('"Books".book', update, options.get("where", ""))
    found = read({"table": '"Books".book', "update": True, **options}, text)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("update", "moved"),
    [
        ("id = 5", '"id"'),
        ("n = f(1, 2), ID = id + 1", '"id"'),
        ('n = CASE WHEN x THEN 1 ELSE 2 END, "id"=id+1 -- why', '"id"'),
        ("(n, id) = (SELECT 1, 2)", '"id"'),
        ("(id) = ROW(DEFAULT), \"Shelf, No\" = ''", '"id", "Shelf, No"'),
        ("n = a IS DISTINCT FROM b, id = 1", '"id"'),
    ],
)
def test_a_column_of_the_key_that_is_set_is_refused(update: str, moved: str) -> None:
    with pytest.raises(InvalidDefinition) as refused:
        require_in_place(defined(update), KEYSET)
    assert f"The UPDATE sets {moved}, by which" in str(refused.value)


@pytest.mark.parametrize(
    "update",
    [
        "n = (id = 5)::int, title = 'a, id = 5' -- , id = 5",
        "n = CASE WHEN id = 1 THEN 1 ELSE id END, body = jsonb_build_object('a', 1, 'id', id)",
        "(n, title) = (SELECT 1, book.title IS DISTINCT FROM 'id'), body = ARRAY[1, id]",
        "n = id.n FROM book AS o, id, (SELECT 1 AS id) AS p",
        '"ID" = 1, "Shelf" = 2, place.id = 3',
    ],
)
def test_one_that_is_only_read_is_not(update: str) -> None:
    require_in_place(defined(update), KEYSET)


def test_a_condition_tells_what_is_done_unless_nobody_looks_whether_it_does() -> None:
    require_in_place(defined("id = 5", where="id <> 5"), KEYSET)
    for verify in ("off", "report"):
        with pytest.raises(InvalidDefinition):
            require_in_place(defined("id = 5", where="id <> 5", verify=verify), KEYSET)
