"""How configs become objects: settings of jsonargparse that every parser of the project shares."""

from __future__ import annotations

from jsonargparse import set_parsing_settings

from minifold_pl.modules.optim import LRSchedule


def configure_parsing() -> None:
    """Docstrings under fields become help texts, and a schedule is chosen by ``class_path``."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True, subclasses_enabled=[LRSchedule])
