"""What a text of SQL takes away, and what another one names: by these two it is seen whom a statement would hit.

Pure. Read are DROP and ALTER of tables, indexes and schemas, also within DO; what other statements take away is not.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import Token, TokenType
from sqlglot.errors import TokenError

from ...errors import InvalidDefinition
from ..statements import Identifier, cut, name_at, read
from .alterations import taken
from .modes import Loss
from .reading import Text, text_of

_QUOTES_TEXT = {TokenType.STRING, TokenType.HEREDOC_STRING}


def losses(sql: str, *, block: bool = False) -> Iterator[Loss]:
    """Yield what a text drops, renames or gives another type; nothing of a text that PostgreSQL cannot read either.

    block: it is the body of a DO, in which statements stand behind others' words, and in strings.
    """
    try:
        statements = list(cut(sql))
    except InvalidDefinition:
        return
    for statement, tokens in statements:
        text = text_of(statement)
        if text.words[0] == "DO" or (block and "EXECUTE" in text.words):
            for within in _quoted(tokens):
                yield from losses(within, block=True)
        while block and text.at < len(text.words) and text.words[text.at] not in {"DROP", "ALTER"}:
            text.at += 1
        yield from _of_statement(text)


def mentioned(sql: str) -> set[Identifier]:
    """Return every name in a text, with its schema where that is said, also within strings; words are among them."""
    found: set[Identifier] = set()
    try:
        tokens, _ = read(sql)
    except TokenError:
        return found
    at = 0
    while at < len(tokens):
        first = tokens[at]
        name, at = name_at(tokens, at)
        if first.token_type is TokenType.IDENTIFIER or first.text[:1].isidentifier():
            found.add(name)
    return found.union(*map(mentioned, _quoted(tokens)))


def _quoted(tokens: list[Token]) -> Iterator[str]:
    return (token.text for token in tokens if token.token_type in _QUOTES_TEXT)


def _of_statement(text: Text) -> list[Loss]:
    reader = {"DROP": _dropped, "ALTER": _altered}.get(text.next())
    try:
        return reader(text) if reader else []
    except (InvalidDefinition, ValueError, IndexError):  # It ends too early: PostgreSQL will say so.
        return []


def _dropped(text: Text) -> list[Loss]:
    text.took("FOREIGN")
    kind = text.next()
    text.skip("CONCURRENTLY", "IF EXISTS")
    if kind in {"TABLE", "INDEX"}:
        return [Loss(f"drops the {kind.lower()} {name}", name) for name in text.names()]
    # Without CASCADE it refuses, unless nothing is left in it.
    if kind == "SCHEMA" and text.words[-1] == "CASCADE":
        return [
            Loss(f"drops the schema {name} with all that is in it", Identifier("", schema=name.name))
            for name in text.names()
        ]
    return []


def _altered(text: Text) -> list[Loss]:
    text.took("FOREIGN")
    kind = text.next()
    if kind == "TABLE":
        return taken(text)
    text.took("IF EXISTS")
    name = text.name()
    return [Loss(f"renames the index {name}", name)] if kind == "INDEX" and text.took("RENAME TO") else []
