"""HTML that cannot be malformed: elements are nested calls, and whatever is not an element is escaped."""

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

import polars as pl

from iq_offline.sweeps.tables import as_table

STYLE = Path(__file__).with_name("page.css")
EMPTY = ("img", "meta", "source")
"""Elements without an end tag."""
LONG = 40
"""Letters in a cell of a table from which on it may be broken into lines."""


class Html(str):
    """Text that is HTML already."""


Inside = str | Iterable["Inside"]
"""What an element may hold: elements, text, and lists of both."""


def element(name: str, /, *inside: Inside, **attributes: str | bool) -> Html:
    """An element: ``element("p", "1 < 2", class_="note")``.

    Args:
        name: of the tag.
        inside: :class:`Html` as it is, any other text escaped.
        attributes: escaped; those that are False or empty are left out, ``alt`` never. An underscore at the end is
            dropped (``class_``), others become dashes.
    """
    words = [_attribute(key, value) for key, value in attributes.items() if value or key == "alt"]
    start = f"<{' '.join([name, *words])}>"
    return Html(start if name in EMPTY else f"{start}{joined(*inside)}</{name}>")


def joined(*parts: Inside) -> Html:
    """Elements and escaped text, one after the other."""
    return Html("".join(_text(part) for part in parts))


def _text(part: Inside) -> str:
    if isinstance(part, Html):
        return part
    return escape(part) if isinstance(part, str) else joined(*part)


def _attribute(key: str, value: str | bool) -> str:
    name = key.removesuffix("_").replace("_", "-")
    return name if value is True else f'{name}="{escape(str(value))}"'


def document(title: str, *body: Inside) -> str:
    """A whole page with its style: it loads nothing."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(STYLE.read_text())),
    )
    return "<!DOCTYPE html>\n" + element("html", head, "\n", element("body", *body), "\n", lang="en") + "\n"


def section(title: str, *inside: Inside) -> Html:
    """A part of the page with its heading."""
    return element("section", element("h2", title), "\n", *inside, "\n")


def folded(title: str, *inside: Inside, opened: bool = False) -> Html:
    """A part that is shown when its title is clicked; never folded in print."""
    return element("details", element("summary", title), "\n", *inside, "\n", open=opened)


def paragraph(*inside: Inside, kind: str = "") -> Html:
    """A paragraph, of a class if one is given."""
    return element("p", *inside, class_=kind)


def data_uri(content: bytes, kind: str) -> str:
    """A file as an address that holds it, such as of kind ``image/svg+xml``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(image: str, other: str, when: str, alt: str, kind: str = "") -> Html:
    """An image, and another one where a media query holds: both as addresses.

    Args:
        image: the usual one.
        other: the other one.
        when: a media query.
        alt: what is to be seen, in words.
        kind: of the other one, where not every browser knows it, such as ``image/avif``.
    """
    return element(
        "picture", element("source", media=when, type=kind, srcset=other), element("img", src=image, alt=alt)
    )


def figure(image: Html, *caption: Inside, kind: str = "") -> Html:
    """An image with its caption."""
    return element("figure", image, element("figcaption", *caption), class_=kind)


def table(frame: pl.DataFrame, title: str, *caption: Inside) -> Html:
    """A frame in words; scrolls within itself where the screen is narrower.

    Args:
        frame: as :func:`iq_offline.sweeps.tables.as_table` takes it. Its first column names the rows.
        title: of the table.
        caption: what the columns mean.
    """
    headings, rows, numbers = as_table(frame)
    return words_table(headings, rows, title, *caption, numbers=numbers)


def words_table(
    headings: list[str], rows: list[list[str]], title: str, *caption: Inside, numbers: list[bool] | None = None
) -> Html:
    """A table of words.

    Args:
        headings: of the columns.
        rows: the first cell of each names it.
        title: of the table.
        caption: what the columns mean.
        numbers: of each column whether it stands on the right.
    """
    sides = ["number" if right else "" for right in numbers or [False] * len(headings)]
    head = [element("th", text, scope="col", class_=side) for text, side in zip(headings, sides, strict=True)]
    body = []
    for row in rows:
        first, *cells = zip(row, sides, strict=True)
        named = element("th", first[0], scope="row", class_=first[1])
        body.append(element("tr", named, [element("td", text, class_=side or _length(text)) for text, side in cells]))
    inside = element("thead", element("tr", head)), element("tbody", [joined(row, "\n") for row in body])
    return joined(
        element("h3", title),
        paragraph(*caption, kind="quiet") if caption else "",
        element(
            "div",
            element("table", inside, aria_label=title),
            class_="scroll",
            role="region",
            aria_label=title,
            tabindex="0",
        ),
        "\n",
    )


def _length(text: str) -> str:
    """The class of a cell of words: long ones are broken into lines."""
    return "long" if len(text) > LONG and " " in text else ""
