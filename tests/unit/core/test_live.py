from __future__ import annotations

import threading

import pytest

from radrank.core.live import Live, Shared


def test_the_old_value_is_closed_when_its_last_lease_ends():
    closed: list[str] = []
    live = Live(Shared("old", closed.append))
    with live.lease() as first:
        with live.lease():
            live.swap(Shared("new", closed.append))
        assert (first, closed) == ("old", [])
        with live.lease() as late:
            assert late == "new"
    assert closed == ["old"]


def test_an_unused_value_is_closed_at_once():
    closed: list[str] = []
    live = Live(Shared("old", closed.append))
    live.swap(Shared("new", closed.append))
    assert closed == ["old"]
    live.close()
    assert closed == ["old", "new"]


def test_a_lease_ends_even_if_its_user_fails():
    closed: list[int] = []
    live = Live(Shared(1, closed.append))
    with pytest.raises(ZeroDivisionError), live.lease():
        1 / 0  # noqa: B018
    live.close()
    assert closed == [1]


def test_nobody_ever_holds_a_closed_value():
    class Value:
        open = True

        def close(self) -> None:
            self.open = False

    live, stop, faults = Live(Shared(Value(), Value.close)), threading.Event(), []

    def use() -> None:
        while not stop.is_set():
            with live.lease() as value:
                if not value.open:
                    faults.append(value)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(2_000):
        live.swap(Shared(Value(), Value.close))
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
