"""What a label is called, and the captions that are made of it where a picture has none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from limoe.config import SetParams
from limoe.data.formats.classes import Classes, read_list, read_mapping
from limoe.data.verify import BadImage


@dataclass(frozen=True)
class ClassNames:
    """Label -> names, as the set's YAML file `classes` says; without one a label is its own name, with spaces for underscores."""

    templates: tuple[str, ...]
    names_of: Classes | None = None

    @classmethod
    def read(cls, params: SetParams, root: Path) -> ClassNames:
        """UserError if the file is missing or says no names. A list in it names the classes 0, 1, 2 and so on."""
        if not params.classes:
            return cls(params.templates)
        file = root / params.classes
        listed = read_list(file)
        numbered = {str(number): names for number, names in enumerate(listed or ())}
        return cls(params.templates, numbered or read_mapping(file))

    def names(self, label: str | None) -> tuple[str, ...]:
        """The label's names, at least one; none if there is no label. BadImage for one that the file does not name."""
        if label is None or label == "-1":  # how test sets hide theirs
            return ()
        if self.names_of is None:
            return (label.replace("_", " "),)
        if label not in self.names_of:
            raise BadImage("unknown-class", f"the file of classes has no name for {label[:80]!r}")
        return self.names_of[label]

    def captions(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Each name in each template.

        >>> ClassNames(("a photo of a {}",)).captions(("cat", "tom"))
        ('a photo of a cat', 'a photo of a tom')
        """
        return tuple(dict.fromkeys(template.replace("{}", name) for template in self.templates for name in names))
