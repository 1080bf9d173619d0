"""Untrusted text in, such as file names; HTML text that is never parsed as markup out."""

from __future__ import annotations

import html
import unicodedata

# These reorder the characters around them: "gpj.exe" can be made to read "exe.jpg".
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def escape(value: object) -> str:
    r"""``str(value)`` for use in HTML text and in quoted attributes.

    Markup characters and both quotes become entities. Control characters, lone surrogates (a file name that is not Unicode) and
    characters that reorder text become visible as ``\x..`` and ``\u....``; all other Unicode is unchanged.
    """
    return html.escape("".join(_visible(c) for c in str(value)), quote=True)


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in {"Cc", "Cs"} and character not in "\t\n"
    if not hidden and character not in _BIDI_CONTROLS:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
