"""Work on single images is handed out in order, and only so much of it is done ahead."""

import threading
import time

import pytest

from sdkd_plugin.data.threads import in_order


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def make(item: int) -> int:
        time.sleep(0.002 * (item % 3 == 0))  # so that later ones are ready first
        return -item

    assert list(in_order(make, range(40), workers, 8)) == [-item for item in range(40)]


@pytest.mark.parametrize("ahead", [1, 5])
def test_no_more_is_made_than_may_be_ahead(ahead: int) -> None:
    made: list[int] = []
    results = in_order(made.append, range(100), 3, ahead)
    next(results)
    time.sleep(0.3)  # in which all could be made
    assert len(made) <= 1 + ahead


def test_without_threads_nothing_is_made_before_it_is_asked_for() -> None:
    made: list[int] = []
    results = in_order(made.append, range(100), 0, 50)
    next(results)
    assert made == [0]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_where_its_item_would(workers: int) -> None:
    results = in_order(lambda item: 1 / (3 - item), range(9), workers, 8)
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_threads_end_where_interest_is_lost() -> None:
    before = threading.active_count()
    results = in_order(lambda item: item, range(1000), 3, 8)
    next(results)
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before
