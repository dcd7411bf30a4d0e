"""Which edition of the report and its library this is, and how to cite it."""

from dataclasses import dataclass
from datetime import date
from functools import cache

import yaml

from analysis import paths


@dataclass(frozen=True)
class Edition:
    """What `CITATION.cff` says; an author is a name as BibTeX reads it."""

    title: str
    authors: tuple[str, ...]
    version: str
    released: date
    license: str

    def byline(self) -> str:
        """Who, when and which, for the head of a page."""
        authors = ", ".join(
            " ".join(reversed(author.strip("{}").split(", "))) for author in self.authors
        )
        return f"{authors} · {self.released:%-d %B %Y} · version {self.version}"

    def bibtex(self) -> str:
        """An entry for a bibliography; the double braces keep its capitals."""
        fields = {
            "title": f"{{{self.title}}}",
            "author": " and ".join(self.authors),
            "year": self.released.year,
            "month": self.released.month,
            "note": f"Version {self.version}",
        }
        lines = (f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@misc{{analysis-{self.version},\n" + ",\n".join(lines) + "\n}"


@cache
def edition() -> Edition:
    """This edition.

    Raises:
        KeyError: where `CITATION.cff` lacks a field.
    """
    facts = yaml.safe_load(paths.CITATION.read_text(encoding="utf-8"))
    return Edition(
        title=facts["title"],
        authors=tuple(_bibtex_name(author) for author in facts["authors"]),
        version=str(facts["version"]),
        released=facts["date-released"],
        license=facts["license"],
    )


def _bibtex_name(author: dict[str, str]) -> str:
    """A person's name in its parts; a group's in braces, so that it is not taken apart."""
    if "name" in author:
        return f"{{{author['name']}}}"
    return f"{author['family-names']}, {author['given-names']}"
