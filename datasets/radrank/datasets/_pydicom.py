"""pydicom, loaded when it is needed."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

from radrank.core.errors import MissingExtra


@cache
def pydicom() -> ModuleType:
    """The module. Raises MissingExtra where it is not installed."""
    try:
        module = import_module("pydicom")
        import_module("pydicom.encaps")
        import_module("pydicom.pixels")
    except ModuleNotFoundError:
        raise MissingExtra("pydicom", "dicom") from None
    # Its validation warns with the values it finds odd: names and ids that belong in no log.
    module.config.settings.reading_validation_mode = module.config.IGNORE
    return module
