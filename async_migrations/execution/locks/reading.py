"""The words of a statement, read from the left to the right."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import Token

from ...errors import InvalidDefinition
from ..statements import Identifier, name_at, read


def text_of(sql: str) -> Text:
    """Return the text of one statement, to be read."""
    return Text(*read(sql))


class Text:
    """Tokens and their words in capitals, none of what is quoted; `at` is the next one."""

    def __init__(self, tokens: list[Token], words: list[str]) -> None:
        # The tokenizer takes some pairs of words for one, such as PRIMARY KEY.
        pairs = [(token, part) for token, word in zip(tokens, words, strict=True) for part in word.split() or [""]]
        self.tokens, self.words, self.at = [token for token, _ in pairs], [word for _, word in pairs], 0

    def next(self) -> str:
        """Return the next word and go behind it; empty at the end or where it is quoted."""
        self.at += 1
        return self.words[self.at - 1] if self.at <= len(self.words) else ""

    def took(self, words: str) -> bool:
        """Whether these words are the next; go behind them then."""
        wanted = words.split()
        if self.words[self.at : self.at + len(wanted)] != wanted:
            return False
        self.at += len(wanted)
        return True

    def skip(self, *optional: str) -> None:
        """Go behind these, whichever are there, in this order."""
        for words in optional:
            self.took(words)

    def skip_options(self, words: set[str]) -> None:
        """Go behind options: single words, or a list of them in parentheses."""
        while self.at < len(self.words) and (self.words[self.at] in words or self.words[self.at] == "("):
            self.at = self.words.index(")", self.at) + 1 if self.words[self.at] == "(" else self.at + 1

    def name(self) -> Identifier:
        """Return the next name and go behind it, and behind a star."""
        name, self.at = name_at(self.tokens, self.at)
        self.took("*")
        return name

    def names(self) -> list[Identifier]:
        """Return a list of names."""
        found = [self.name()]
        while self.took(","):
            self.took("ONLY")
            found.append(self.name())
        return found

    def behind(self, word: str) -> Identifier:
        """Return the name behind the next such word."""
        if word not in self.words[self.at :]:
            raise InvalidDefinition(f"There is no {word}.")
        self.at = self.words.index(word, self.at) + 1
        return self.name()

    def all_behind(self, word: str) -> Iterator[Identifier]:
        """Yield each name behind such a word."""
        while word in self.words[self.at :]:
            yield self.behind(word)

    def rest(self) -> list[str]:
        """Return the words that are left."""
        return self.words[self.at :]

    def ahead(self) -> Text:
        """Return what is left, to be read without going on here."""
        return Text(self.tokens[self.at :], self.rest())

    def parts(self) -> list[Text]:
        """Return what is left, cut at the commas outside of parentheses."""
        found, depth, start = [], 0, self.at
        for at, word in enumerate([*self.rest(), ","], self.at):
            depth += _DEPTH.get(word, 0)
            if word == "," and not depth:
                found.append(Text(self.tokens[start:at], self.words[start:at]))
                start = at + 1
        return found


_DEPTH = {"(": 1, "[": 1, ")": -1, "]": -1}
