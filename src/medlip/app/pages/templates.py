"""Pages are Jinja templates beside this file; what is put into them is escaped."""

from __future__ import annotations

from typing import Any


def fill_template(template: str, **values: Any) -> str:
    """Return the page that a template of this package gives, such as "compare.html"."""
    from jinja2 import Environment, PackageLoader

    return Environment(loader=PackageLoader("medlip.app", "pages"), autoescape=True).get_template(template).render(**values)
