"""UserError, the error for unusable input; printable forms of untrusted text; counts in words."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 1000  # characters of a message


def printable(text: object, longest: int = LONGEST) -> str:
    """Return the text on one line of at most `longest` characters.

    Control characters and lone surrogates are escaped; a text that is too long loses its middle.
    """
    text = shortened(str(text), longest)
    return shortened("".join(c if c.isprintable() else escaped(c) for c in text), longest)


def shortened(text: str, longest: int) -> str:
    """Return the text, with its middle replaced by [...] if it is longer than `longest`."""
    half = longest // 2 - 4
    return text if len(text) <= longest else f"{text[:half]} [...] {text[-half:]}"


def escaped(character: str) -> str:
    r"""Return the escape sequence of a character, such as \n, \x1b, \u202e or \udcff."""
    return character.encode("unicode_escape").decode()


def reason(error: BaseException) -> str:
    """Return the cause of an error as at most 200 printable characters.

    For an OSError this is the operating system's message without the path; for an error without a
    message, the name of its type.
    """
    return printable(
        " ".join((getattr(error, "strerror", None) or str(error)).split()) or type(error).__name__,
        200,
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where it has none.

    For errors of libraries that add advice in further lines.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def counted(n: int, noun: str, plural: str = "") -> str:
    """Return "1 picture", "2 pictures"; the plural is that of `plural`, or the noun with an s."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def alternatives(name: str, names: Iterable[str]) -> str:
    """Return "did you mean ...? There are ..." for an unknown name.

    Without the question if none of the names resembles it.
    """
    names = list(names)
    close = get_close_matches(name, names, n=1)
    return (f"did you mean {close[0]!r}? There are " if close else "there are ") + ", ".join(names)


class UserError(Exception):
    """Input from the user that cannot be used.

    The message is one sentence that names the fault and the remedy. It is made printable here,
    because it may quote names and values from files. The command-line programs print it and exit
    with status 2.
    """

    def __init__(self, message: object = ""):
        super().__init__(printable(message))
