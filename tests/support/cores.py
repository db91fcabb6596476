"""The number of cores that over_batch computes on, for tests."""

from rawgan import cpu


def set_cores(monkeypatch, cores: int, started: int | None = None) -> None:
    """Let over_batch compute on `cores` cores, with `started` threads besides the caller's.

    By default all are started: cores - 1.
    """
    threads = cpu._start_threads(cores - 1 if started is None else started), cores
    monkeypatch.setattr(cpu, "_threads", lambda: threads)
