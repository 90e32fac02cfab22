"""Text from strangers, made fit to print. Names in a run folder may be anybody's, and what steers a
terminal or a page must not do so there. And a note that need not be read twice.
"""

import functools


def printable(text: str) -> str:
    """`text` with every character that is not printable spelled out as Python spells it, such as
    \\x1b: controls, line breaks, marks that turn the direction of writing, halves of surrogates.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _spelled(letter) for letter in text)


def _spelled(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


@functools.cache
def print_once(line: str) -> None:
    """Prints a line that this process has not printed yet, such as what a sweep's every run would
    say of the same file.
    """
    print(line)
