"""What every page of ours must be: well-formed, alone, and without scripts."""

import re
from html.parser import HTMLParser

VOID = {"img", "meta", "source"}
LOADING = {"src", "srcset", "href", "poster", "data", "action", "background"}


class Page(HTMLParser):
    """A page that was read, and what is wrong with it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += [f"<{name}> is never closed" for name in self.open]
        style = re.search("<style>(.*?)</style>", text, re.DOTALL)
        if style and re.search(r"url\(|@import", style[1]):
            self.wrong.append("the style loads something")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if len(dict(attrs)) < len(attrs):
            self.wrong.append(f"<{tag}> has an attribute twice")
        if tag == "script" or any(name.startswith("on") for name, _ in attrs):
            self.wrong.append(f"<{tag}> runs a script")
        self.wrong += [
            f"<{tag}> loads {value}"
            for name, value in attrs
            if name in LOADING and not (value or "").startswith(("data:image/", "#"))
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        """What is to be read, spaces collapsed."""
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str, **attributes: str) -> int:
        """How many elements there are with a name and attributes."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return sum(name == tag and wanted.items() <= found.items() for name, found in self.tags)
