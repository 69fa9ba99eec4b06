"""Timing in quiet: nobody else computes meanwhile, and nobody waits for ever."""

import itertools
import threading
import time

import pytest

from compress_cli.search.quiet import Quiet


class Worker(threading.Thread):
    """Computes batch after batch, each counted at its beginning and at its end."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.quiet, self.at_work, self.batches, self.ended = Quiet(folder), False, 0, False

    def run(self):
        with self.quiet.computing():
            while not self.ended:
                self.at_work = True
                time.sleep(0.001)
                self.at_work, self.batches = False, self.batches + 1
                self.quiet.make_way()


@pytest.fixture
def workers(tmp_path):
    workers = [Worker(tmp_path) for _ in range(3)]
    for worker in workers:
        worker.start()
    yield workers
    for worker in workers:
        worker.ended = True
        worker.join(10)
        assert not worker.is_alive()


def batches(workers):
    return [worker.batches for worker in workers]


def test_while_one_worker_times_a_model_the_others_wait(workers, tmp_path):
    timer = Quiet(tmp_path)
    with timer.computing():
        for _ in range(5):
            before = batches(workers)
            while any(now == then for now, then in zip(batches(workers), before, strict=True)):
                time.sleep(0.001)  # all compute beside the timer, which is not timing now
            with timer.alone():
                during = batches(workers)
                assert not any(worker.at_work for worker in workers)
                time.sleep(0.03)
                assert batches(workers) == during


def test_two_that_time_at_once_take_turns(workers, tmp_path):
    timing, spans = [Quiet(tmp_path) for _ in range(2)], []

    def measure(quiet):
        with quiet.computing():
            for _ in range(5):
                with quiet.alone():
                    begun = time.monotonic()
                    time.sleep(0.01)
                    spans.append((begun, time.monotonic()))
                quiet.make_way()

    threads = [threading.Thread(target=measure, args=(quiet,)) for quiet in timing]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    spans.sort()
    assert len(spans) == 10
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))
