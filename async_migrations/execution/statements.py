"""SQL text -> statements, and what each of them needs from the executor. Pure: no database is asked.

The text is cut and classified by its tokens (sqlglot's PostgreSQL tokenizer: strings, dollar quotes, nested comments),
never by a full parse, so that a statement with syntax newer than the parser still passes as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from string import ascii_lowercase, ascii_uppercase
from typing import ClassVar

from sqlglot import Token, TokenType
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import TokenError

from ..errors import InvalidDefinition


class Effect(Enum):
    """How the executor makes sure that a statement is carried out exactly once."""

    TRANSACTIONAL = "commits together with the mark that it is done"
    CATALOGUE = "cannot run in a transaction; what it did is looked up in the catalogue"
    REPEATABLE = "cannot run in a transaction; doing it twice does no harm"
    UNKNOWN = "cannot run in a transaction, and nobody can tell afterwards whether it ran"
    SESSION = "sets a parameter of the session; is done again in every attempt"


class Lock(Enum):
    """How strong a lock a statement takes on its table, as far as it decides the `lock_timeout`."""

    ROWS = "row locks of plain reads and writes: no lock_timeout"
    MAINTENANCE = "SHARE UPDATE EXCLUSIVE, blocks no reader and no writer: lock_timeout 0 (a build dies of any other)"
    BLOCKING = "blocks readers or writers while it waits in line: a short lock_timeout, and lock retries"


class IndexAction(Enum):
    """What a statement does to an index."""

    CREATE = "create"
    DROP = "drop"
    REINDEX = "reindex"


@dataclass(frozen=True)
class Identifier:
    """A name as the catalogue stores it, with its schema when the statement gives one."""

    name: str
    schema: str | None = None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


@dataclass(frozen=True)
class Index:
    """What a statement says of an index.

    table: only for CREATE. tail: the text behind the table's name (method, columns, INCLUDE, WHERE ...), only for
    CREATE. only: it is made for a partitioned table alone (ON ONLY), and not for its partitions.
    """

    action: IndexAction
    name: Identifier
    concurrently: bool
    unique: bool = False
    tolerant: bool = False
    table: Identifier | None = None
    tail: str = ""
    only: bool = False


@dataclass(frozen=True)
class Statement:
    """One statement: its text, its number from 1, and what it needs.

    relations: the tables or indexes that it names, only for the MAINTENANCE class, of which one at a time may work on a
    table. reindexes: it is a REINDEX CONCURRENTLY.
    """

    number: int
    text: str
    effect: Effect
    lock: Lock
    indexes: tuple[Index, ...] = ()
    relations: tuple[Identifier, ...] = ()
    reindexes: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of the text, hexadecimal: by it the checkpoint knows a statement again."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def summary(self) -> str:
        """The text on one line, cut short, for logs and events."""
        line = " ".join(self.text.split())
        return line if len(line) <= 120 else f"{line[:117]}..."


class _Tokenizer(Postgres.Tokenizer):
    # By default the words behind VACUUM, CALL, REINDEX ... are swallowed as one string.
    COMMANDS: ClassVar[set[TokenType]] = set()


class _Dialect(Postgres):
    Tokenizer = _Tokenizer


_TRANSACTION_CONTROL = {
    "BEGIN",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ABORT",
    "SAVEPOINT",
    "RELEASE",
    "START",
    "PREPARE TRANSACTION",
}
_ROWS = {
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "MERGE",
    "WITH",
    "VALUES",
    "COPY",
    "TABLE",
    "EXPLAIN",
    "SHOW",
}
_BLOCKS = {"CALL", "DO"}
_OUTSIDE = (
    "CREATE DATABASE",
    "DROP DATABASE",
    "CREATE TABLESPACE",
    "DROP TABLESPACE",
    "ALTER SYSTEM",
    "ALTER DATABASE",
)
_REPEATABLE = {"VACUUM", "CHECKPOINT", "CLUSTER"}


def parse(sql: str, *, atomic: bool = True) -> tuple[Statement, ...]:
    """Cut a text into its statements and say of each what it needs.

    atomic: False runs what could share a transaction with its mark outside of one (a procedure that commits by itself).
    Raises InvalidDefinition for text that cannot be read, holds no statement, or controls transactions itself.
    """
    statements = tuple(
        _classify(number, sql, text, tokens, atomic) for number, (text, tokens) in enumerate(cut(sql), start=1)
    )
    if not statements:
        raise InvalidDefinition("The SQL holds no statement. Give at least one (SELECT 1 does nothing).")
    return statements


def subjects(statement: Statement) -> tuple[str, tuple[Identifier, ...]]:
    """Return the first word of a statement, and the tables or indexes behind it that it cannot do without.

    Only what can be told from the beginning of its text: there are none where it is about something else.
    """
    tokens, words = read(statement.text)
    head = words[0]
    if statement.relations or statement.indexes:
        return head, statement.relations or tuple(index.table or index.name for index in statement.indexes)
    at = next((at for at, word in enumerate(words[1:], 1) if word not in _BEFORE_A_TABLE), len(words))
    about_a_table = head in {"UPDATE", "DELETE", "INSERT", "TRUNCATE"} or words[:2] == ["ALTER", "TABLE"]
    if not about_a_table or "EXISTS" in words[:at] or at == len(words):
        return head, ()
    return head, (name_at(tokens, at)[0],)


def read(text: str) -> tuple[list[Token], list[str]]:
    """Return the tokens of a statement, and of each its word in capitals; none of what is quoted."""
    tokens = _Dialect().tokenize(text)
    return tokens, _words(tokens)


_BEFORE_A_TABLE = {"TABLE", "INTO", "FROM", "ONLY", "IF", "EXISTS"}


def cut(sql: str) -> Iterator[tuple[str, list[Token]]]:
    """Yield the text and the tokens of each statement; comments stay in the text. Raises InvalidDefinition."""
    try:
        tokens = _Dialect().tokenize(sql)
    except TokenError as exc:
        raise InvalidDefinition(
            f"The SQL cannot be read: {exc}. Look for a quote or a comment that is not closed."
        ) from exc
    start, depth = 0, 0
    block: list[Token] = []
    for token in tokens:
        depth += _nesting(token, block[-1] if block else None, depth)
        if token.token_type is TokenType.SEMICOLON and depth == 0:
            if block:
                yield sql[start : token.start].strip(), block
            start, block = token.end + 1, []
        else:
            block.append(token)
    if block:
        yield sql[start:].strip(), block


def _nesting(token: Token, before: Token | None, depth: int) -> int:
    """Return by how much a token opens or closes a BEGIN ATOMIC body, in which semicolons do not end the statement."""
    if _is(token, "ATOMIC") and before is not None and _is(before, "BEGIN"):
        return 1
    if depth and _is(token, "CASE"):
        return 1
    return -1 if depth and _is(token, "END") else 0


def _is(token: Token, word: str) -> bool:
    return token.token_type not in _QUOTED and token.text.upper() == word


_QUOTED = {TokenType.IDENTIFIER, TokenType.STRING, TokenType.HEREDOC_STRING, TokenType.BYTE_STRING}


def _words(tokens: list[Token]) -> list[str]:
    return ["" if token.token_type in _QUOTED else token.text.upper() for token in tokens]


def _classify(number: int, sql: str, text: str, tokens: list[Token], atomic: bool) -> Statement:
    words = _words(tokens)
    head, pair = words[0], " ".join(words[:2])
    _refuse(number, words, pair)
    indexes = _indexes(number, sql, tokens, words)
    if head in {"SET", "RESET", "LISTEN", "DISCARD"}:
        return Statement(number, text, Effect.SESSION, Lock.ROWS)
    lock = _lock(words, pair, atomic)
    relations = tuple(_relations(tokens, words, indexes)) if lock is Lock.MAINTENANCE else ()
    if "CONCURRENTLY" in words and indexes:
        effect = Effect.CATALOGUE
    elif head in _REPEATABLE or (head == "REINDEX" and _outside(words)):
        effect = Effect.REPEATABLE
    elif pair in _OUTSIDE or (pair == "ALTER TABLE" and words[-1] == "CONCURRENTLY") or not atomic:
        effect = Effect.UNKNOWN
    else:
        effect = Effect.TRANSACTIONAL
    reindexes = head == "REINDEX" and "CONCURRENTLY" in words
    return Statement(number, text, effect, lock, indexes, relations, reindexes)


def _refuse(number: int, words: list[str], pair: str) -> None:
    if words[0] in _TRANSACTION_CONTROL or pair in _TRANSACTION_CONTROL:
        raise InvalidDefinition(
            f"Statement {number} is {words[0]}: transactions are the executor's. Leave it out; each statement is "
            "committed together with the mark that it is done."
        )
    if pair == "SET LOCAL":
        raise InvalidDefinition(
            f"Statement {number} is SET LOCAL, which would end with its own transaction. Write SET: it holds for the "
            "statements after it, on a connection that nobody else uses."
        )
    if pair in {"RESET ALL", "DISCARD ALL"} or (words[0] in {"SET", "RESET"} and "APPLICATION_NAME" in words[1:3]):
        raise InvalidDefinition(
            f"Statement {number} takes from the session what the executor has set there: the name it goes by, "
            "limits, locks. Leave it out; a RESET of one parameter is possible."
        )
    if words[0] == "COPY" and {"STDIN", "STDOUT"} & set(words):
        raise InvalidDefinition(f"Statement {number} is COPY with a client's stream, and there is no client.")


def _outside(words: list[str]) -> bool:
    """Whether a REINDEX refuses to run in a transaction."""
    return bool({"CONCURRENTLY", "SCHEMA", "DATABASE", "SYSTEM"} & set(words))


def _lock(words: list[str], pair: str, atomic: bool) -> Lock:
    head = words[0]
    # What is in a block nobody knows; an ALTER TABLE, often. One that commits by itself must not be tried again.
    if head in _ROWS or (head in _BLOCKS and not atomic):
        return Lock.ROWS
    if "CONCURRENTLY" in words or head == "ANALYZE" or (head == "VACUUM" and "FULL" not in words):
        return Lock.MAINTENANCE
    if pair == "ALTER TABLE" and ("VALIDATE", "CONSTRAINT") in pairwise(words) and "," not in words:
        return Lock.MAINTENANCE
    return Lock.BLOCKING


def _indexes(number: int, sql: str, tokens: list[Token], words: list[str]) -> tuple[Index, ...]:
    head = words[0]
    if head == "CREATE" and "INDEX" in words[1:3]:
        return (_created(number, sql, tokens, words),)
    if head == "DROP" and words[1:2] == ["INDEX"]:
        return tuple(_dropped(tokens, words))
    if head == "REINDEX" and "INDEX" in words and not _outside([word for word in words if word != "CONCURRENTLY"]):
        name, _ = name_at(tokens, _after(words, words.index("INDEX") + 1, "CONCURRENTLY"))
        return (Index(IndexAction.REINDEX, name, "CONCURRENTLY" in words),)
    return ()


def _created(number: int, sql: str, tokens: list[Token], words: list[str]) -> Index:
    """Read CREATE [UNIQUE] INDEX [CONCURRENTLY] [[IF NOT EXISTS] name] ON [ONLY] table tail."""
    at = _after(words, words.index("INDEX") + 1, "CONCURRENTLY")
    concurrently = words[at - 1] == "CONCURRENTLY"
    tolerant = words[at : at + 3] == ["IF", "NOT", "EXISTS"]
    at += 3 if tolerant else 0
    if words[at : at + 1] == ["ON"]:
        raise InvalidDefinition(
            f"Statement {number} creates an index without a name. Give it one: without, nobody can tell what a worker "
            "that died left behind, and nothing could drop it again."
        )
    name, at = name_at(tokens, at)
    if words[at : at + 1] != ["ON"]:
        raise InvalidDefinition(f"Statement {number} is CREATE INDEX without ON and a table.")
    only = words[at + 1 : at + 2] == ["ONLY"]
    table, at = name_at(tokens, _after(words, at + 1, "ONLY"))
    return Index(
        IndexAction.CREATE,
        Identifier(name.name, table.schema),
        concurrently,
        unique="UNIQUE" in words[1:2],
        tolerant=tolerant,
        table=table,
        tail=sql[tokens[at].start : tokens[-1].end + 1] if at < len(tokens) else "",
        only=only,
    )


def _dropped(tokens: list[Token], words: list[str]) -> Iterator[Index]:
    """Read DROP INDEX [CONCURRENTLY] [IF EXISTS] name [, ...] [CASCADE | RESTRICT]."""
    at = _after(words, 2, "CONCURRENTLY")
    concurrently = words[at - 1] == "CONCURRENTLY"
    tolerant = words[at : at + 2] == ["IF", "EXISTS"]
    at += 2 if tolerant else 0
    while at < len(tokens) and words[at] not in {"CASCADE", "RESTRICT"}:
        name, at = name_at(tokens, at)
        yield Index(IndexAction.DROP, name, concurrently, tolerant=tolerant)
        at = _after(words, at, ",")


def _relations(tokens: list[Token], words: list[str], indexes: tuple[Index, ...]) -> Iterator[Identifier]:
    """Yield the tables or indexes that a statement of the MAINTENANCE class works on."""
    if indexes:
        yield from (index.table or index.name for index in indexes)
        return
    at = 1
    while at < len(words) and (words[at] in _BEFORE_A_RELATION or words[at] == "("):
        at = words.index(")", at) + 1 if words[at] == "(" and ")" in words[at:] else at + 1
    while at < len(words) and words[0] != "REFRESH":
        name, at = name_at(tokens, at)
        yield name
        if words[at : at + 1] != [","]:
            return
        at += 1


_BEFORE_A_RELATION = {"TABLE", "IF", "EXISTS", "ONLY", "FULL", "FREEZE", "VERBOSE", "ANALYZE", "CONCURRENTLY"}


def _after(words: list[str], at: int, word: str) -> int:
    """Return the position behind an optional word."""
    return at + 1 if words[at : at + 1] == [word] else at


_FOLDED = str.maketrans(ascii_uppercase, ascii_lowercase)


def name_at(tokens: list[Token], at: int) -> tuple[Identifier, int]:
    """Read a name with its optional schema; unquoted parts are folded as PostgreSQL does in UTF-8: A to Z, no other."""
    parts = []
    while at < len(tokens):
        token = tokens[at]
        parts.append(token.text if token.token_type is TokenType.IDENTIFIER else token.text.translate(_FOLDED))
        at += 1
        if at >= len(tokens) or tokens[at].token_type is not TokenType.DOT:
            break
        at += 1
    if not parts:
        raise InvalidDefinition("A statement about an index ends before the index's name.")
    return Identifier(parts[-1], parts[-2] if len(parts) > 1 else None), at
