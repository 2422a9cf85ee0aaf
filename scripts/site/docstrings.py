"""An extension of griffe, which reads docstrings: an entry per argument, and names as links."""

import re

import griffe

JOINT = re.compile(r"^( +)(\w+(?:, \w+)+)(: .*(?:\n\1 +.*)*)", re.MULTILINE)
PAGE = re.compile(r"\bdocs/(\w+\.md)")
NAME = re.compile(r"`([A-Za-z_][\w.]*)`")


class ProjectDocstrings(griffe.Extension):
    """Gives each argument of an entry `a, b: text` its own entry, and links pages of docs/ and names."""

    def on_object(self, *, obj: griffe.Object, **_kwargs: object) -> None:
        if not obj.docstring:
            return

        def link(name: re.Match[str]) -> str:
            try:
                path = obj.resolve(name[1])
            except griffe.NameResolutionError:
                path = name[1]
            # Optional: without a link if the name is on no page.
            return f'<autoref identifier="{path}" optional>`{name[1]}`</autoref>'

        text = JOINT.sub(
            lambda entry: "\n".join(f"{entry[1]}{name}{entry[3]}" for name in entry[2].split(", ")),
            obj.docstring.value,
        )
        obj.docstring.value = NAME.sub(link, PAGE.sub(r"[\1](../../docs/\1)", text))
