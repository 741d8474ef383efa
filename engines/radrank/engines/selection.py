"""Which engine serves each model: the best that opens here and passes the gate."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

from radrank.core.errors import MissingExtra, RadrankError, Unavailable
from radrank.engines.deferred import Deferred
from radrank.engines.engine import Engine, Model
from radrank.engines.models import GRAPHS
from radrank.engines.parity import Agreement, Golden, check
from radrank.engines.runtimes import RUNTIMES, TRIALS, EngineSettings, choices
from radrank.engines.slot import Slot

_log = logging.getLogger(__name__)


class Selection:
    """A slot for every model. They start on the last runtime that the settings allow: the one that is always there.

    Where there is a choice, an encoder's is opened when it is first needed: its weights may be half a gigabyte.
    """

    def __init__(self, models: Mapping[str, Model], settings: EngineSettings) -> None:
        self._choices = choices(settings)
        self._models = models
        self._held = dict.fromkeys(models, len(self._choices) - 1)  # places among the choices
        self.slots: dict[str, Slot] = {}
        try:
            for name, model in models.items():
                last = partial(self._open, self._held[name], model)
                defers = self._held[name] > 0 and not name.startswith(GRAPHS)
                self.slots[name] = Slot(Deferred(last) if defers else last())
        except BaseException:
            for slot in self.slots.values():
                slot.close()
            raise

    def choose(self, golden: Mapping[str, Golden]) -> None:
        """Lets what is better than what is held answer the golden queries, and where nothing is, what is held.

        A better engine that passes takes the place of the one before; one that doesn't is refused, and that one stays.
        Raises Mismatch where what is held does not pass.
        """
        for name, slot in self.slots.items():
            for place in range(self._held[name]):
                found = self._tried(place, self._models[name], golden[name])
                if found is not None:
                    engine, agreed = found
                    slot.exchange(engine)
                    self._held[name] = place
                    break
            else:
                slot.warm_up(golden[name].shapes_for(slot))
                agreed = check(name, golden[name], slot)
            _log.info("%s runs on %s, %s: %s", name, slot.manifest.runtime, slot.manifest.precision, agreed)

    def _tried(self, place: int, model: Model, golden: Golden) -> tuple[Engine, Agreement] | None:
        runtime, settings = self._choices[place]
        try:
            engine = self._open(place, model)
        except (MissingExtra, Unavailable) as error:  # not installed, or nothing here that it runs on
            _log.debug("%s: no %s: %s", model.name, runtime, error)
            return None
        except RadrankError as error:  # it could serve, had it been given what fits
            _log.warning("%s does not run on %s in %s: %s", model.name, runtime, settings.precision, error)
            return None
        try:
            engine.warm_up(golden.shapes_for(engine))
            return engine, check(model.name, golden, engine)
        except Exception as error:  # noqa: BLE001 - whatever it does wrong, it must not serve
            level = logging.INFO if runtime in TRIALS else logging.WARNING
            _log.log(level, "%s is refused on %s: %s", model.name, runtime, error)
            engine.close()
            return None

    def _open(self, place: int, model: Model) -> Engine:
        runtime, settings = self._choices[place]
        return RUNTIMES[runtime](model, settings)
