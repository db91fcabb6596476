"""The sweep of benchmarks/tune/__main__.py: compile, check, time, choose, write."""

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from benchmarks.common.command import Command
from benchmarks.common.facts import reason
from benchmarks.steps.cases import CASES
from benchmarks.tune.candidates import POINTER_MOST, RULE, Candidate, candidates
from benchmarks.tune.candidates import reduced as reduced_candidate
from benchmarks.tune.launches import COPY, Wanted, collect
from benchmarks.tune.problem import Problem, no_arrays, random_arrays, reduced
from benchmarks.tune.timer import Timer, time_steps
from rawgan.errors import UserError
from rawgan.files import write_whole
from rawgan.kernels.gemm_table import (
    SPLITS,
    GemmKey,
    entry_of,
    measured_table,
    path_of,
    problem_of,
    use_table,
)
from rawgan.kernels.runtime import launch
from rawgan.kernels.runtime.compile import Compiler, Job

COMPARE = 40.0  # seconds kept for the whole steps, if --minutes allow it
DRY_SMS = 132  # of an H100 and an H200


class Sweep:
    """One run of the command: its launches, results and table."""

    def __init__(self, command: Command, args: argparse.Namespace):
        self.command, self.args, self.start = command, args, time.monotonic()
        device = command.result["device"]
        self.dry, self.capability = args.dry_run, device["capability"]
        self.multiprocessors = device.get("multiprocessors", DRY_SMS)
        self.most = args.candidates or (1 if self.dry else None)
        self.path = args.table or path_of(self.capability)
        self.table = dict(measured_table(self.capability))
        self.results = command.result.setdefault("tune", {})
        self.checked: dict[tuple, str | None] = {}  # of a dry run: the error of a reduced launch
        self.timer = None if self.dry else Timer()

    def run(self) -> int:
        """Do it all; return 1 if a launch had no right candidate, or on an interrupt."""
        wanted, counts = collect(
            self.args.case, self.args.precision, self.capability, self.multiprocessors
        )
        self.print_launches(wanted, counts)
        plan = [(one, [*self.choices(one.key)]) for one in wanted]
        jobs = [job for _, choices in plan for _, jobs in choices for job in jobs]
        print(
            f"{sum(len(choices) for _, choices in plan)} candidates, "
            f"{len({job.key for job in jobs})} kernels to compile",
            flush=True,
        )
        done, failed = 0, []
        try:
            with Compiler(jobs, self.capability) as compiler, self.stream():
                for one, choices in plan:
                    if not self.tune(one, choices, compiler):
                        failed.append(str(one.key))
                    done += 1
        except TimeoutError as error:
            print(f"{error}: the launches after it keep what they have", flush=True)
        except KeyboardInterrupt:
            failed.append("interrupted: what was measured is written")
        else:
            print("all launches were reached")
        if self.timer and not failed:
            self.compare_steps()
        print(
            f"{done} of {len(plan)} launches in {time.monotonic() - self.start:.0f} s, "
            f"{len(failed)} failed",
            *failed,
            sep="\n  ",
        )
        print(self.command.path if self.dry else f"{self.path}\n{self.command.path}")
        return bool(failed)

    def stream(self):
        """Return the context in which arrays are made and launches run."""
        return self.timer.stream if self.timer else nullcontext()

    def left(self) -> float:
        """Return the seconds until the sweep has to end: the rest is for whole steps."""
        return self.command.left() - (0.0 if self.dry else COMPARE)

    def print_launches(self, wanted: list[Wanted], counts) -> None:
        """Print how many launches of each step are covered, and the launches by value."""
        for name, precision in dict.fromkeys(key[:2] for key in counts):
            gemms, every = (counts[name, precision, of] for of in ("GEMMs", "all"))
            keys = sum((name, precision) in one.uses for one in wanted)
            print(
                f"{name} {precision}: {every} launches, {gemms} GEMMs of {keys} keys; "
                f"the other {every - gemms} have one configuration each, in their files"
            )
        for one in wanted if self.dry else ():
            print(f"{one.us:8.1f} us  {sum(one.uses.values()):3}x  {one.key}")

    def choices(self, key: GemmKey) -> Iterator[tuple[Candidate, list[Job]]]:
        """Yield the candidates that the wrapper takes, with their jobs, the rule first."""
        problem, seen, taken = Problem(key, no_arrays), set(), Counter()
        launches = self.record(problem, RULE)
        split = launches[0].grid[1] if key.operation in SPLITS else 1
        for candidate in candidates(key, split, self.capability):
            limit = POINTER_MOST if candidate.impl == "pointer" and taken["tma"] else None
            if taken[candidate.impl] in (self.most, limit):
                continue
            try:
                jobs = [*map(Job.of, self.record(problem, candidate))]
            except ValueError:  # the sizes do not suit this implementation or tile
                continue
            if (at := tuple(job.key for job in jobs)) not in seen:
                seen.add(at)
                taken[candidate.impl] += 1
                yield candidate, jobs

    def record(self, problem: Problem, candidate: Candidate) -> list[launch.Launch]:
        """Return the launches of a candidate on this GPU, without launching anything."""
        target = launch.compile_only(self.capability, self.multiprocessors)
        with target, use_table(self.capability, {}), launch.record(dry=True) as recording:
            problem.run(*candidate)
        return recording

    def tune(self, one: Wanted, choices, compiler: Compiler) -> bool:
        """Check and time the candidates of a launch, write the fastest; return whether it has one.

        In a dry run: whether all are right. Raises TimeoutError where the time is up before they
        are compiled, RuntimeError where a candidate has made the GPU unusable for this process.
        """
        rows, problem, expected = [], None, None
        if self.left() <= 0:
            raise TimeoutError("no time was left")
        if not self.dry:
            problem = Problem(one.key, random_arrays(self.timer.clock.xp))
            expected = problem.expected()
        for candidate, jobs in choices:
            row = {"impl": candidate.impl, "config": candidate.config}
            try:
                self.compiled(jobs, compiler)
                if self.dry:
                    self.check_reduced(one.key, candidate)
                else:
                    row |= self.measure(problem, candidate, expected)
            except TimeoutError:
                raise
            except Exception as error:
                row |= reason(error)
                if self.timer:
                    self.timer.clock.synchronize()  # raises where the GPU is lost
            rows.append(row)
            compiler.poll(0)
        wrong = [row for row in rows if "not_measured" in row]
        self.results[str(one.key)] = {
            "uses": {" ".join(use): n for use, n in one.uses.items()},
            "modelled_us": round(one.us, 1),
            "rows": rows,
        }
        if not self.dry and len(wrong) < len(rows):
            self.choose(one.key, rows)
        self.command.save()
        for row in wrong:
            print(f"{one.key}: {row['impl'] or 'rule'} {row['config']}: {row['not_measured']}")
        return not wrong if self.dry else len(wrong) < len(rows)

    def compiled(self, jobs: list[Job], compiler: Compiler) -> None:
        """Wait until jobs are compiled. Raises RuntimeError for one that does not compile."""
        while missing := [job for job in jobs if job.key not in compiler.results]:
            if self.left() <= 0:
                raise TimeoutError(f"{missing[0].name} was not compiled in time")
            compiler.poll(1.0)
        for job in jobs:
            if "error" in (result := compiler.results[job.key]):
                raise RuntimeError(f"{job.name} does not compile: {result['error']}")

    def check_reduced(self, key: GemmKey, candidate: Candidate) -> None:
        """Check the implementation of a candidate at a reduced size, once for each such launch."""
        small = reduced(key)
        if (at := (small, candidate.impl)) not in self.checked:
            problem = Problem(small, random_arrays(np))
            try:
                with use_table(self.capability, {}):
                    outputs = problem.run(*reduced_candidate(candidate))
                problem.check(outputs, problem.expected())
                self.checked[at] = None
            except Exception as error:
                self.checked[at] = reason(error)["not_measured"]
        if self.checked[at]:
            raise ArithmeticError(f"reduced to {small}: {self.checked[at]}")

    def measure(self, problem: Problem, candidate: Candidate, expected: list) -> dict:
        """Return what was chosen, and the times of a candidate, which is checked first."""
        with use_table(self.capability, {}), launch.record() as recording:
            outputs = problem.run(*candidate)
        problem.check(outputs, expected)
        row = entry_of(*chosen(problem.key, recording)) | self.timer.time(recording)
        if problem.key.epilogue == "partials":  # the optimizer reads them
            row["partials_us"] = round(1e6 * outputs[0].nbytes / COPY, 3)
        return {"entry": row}

    def choose(self, key: GemmKey, rows: list[dict]) -> None:
        """Put the fastest candidate into the table, and write it."""
        entries = [row["entry"] for row in rows if "entry" in row]
        best = min(entries, key=lambda e: e["us"] + e.get("partials_us", 0.0))
        entry = {name: value for name, value in best.items() if name != "partials_us"}
        if "entry" in rows[0]:
            entry["rule_us"] = rows[0]["entry"]["us"]
        if problem := problem_of(str(key), entry, self.capability):
            raise ValueError(problem)
        self.table[str(key)] = entry
        print(f"{entry['us']:8.2f} us, rule {entry.get('rule_us', '-')}: {key}", flush=True)
        result = self.command.result
        facts = {
            "device": result["device"]["name"],
            "multiprocessors": self.multiprocessors,
            "triton": result["versions"]["triton"],
            "commit": result["commit"],
            "date": result["date"],
        }
        write_table(self.path, facts, self.table)

    def compare_steps(self) -> None:
        """Time whole steps with the rule and with the table, as long as there is time."""
        steps = self.command.result.setdefault("tuned_steps", {})
        for name in self.args.case:
            for precision in self.args.precision:
                if self.command.left() <= 0:
                    return
                try:
                    row = time_steps(CASES[name], precision, self.capability, self.table)
                except UserError as error:
                    row = reason(error)
                steps[f"{name} {precision}"] = row
                self.command.save()
                print(f"{name} {precision}: {row}", flush=True)


def chosen(key: GemmKey, launches: list[launch.Launch]) -> tuple[str, dict]:
    """Return the implementation and the configuration that a wrapper launched."""
    first = launches[0]
    impl = next((one for one in ("tma", "small_c") if f"_{one}_" in first.name), "pointer")
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages", "maxnreg")
    split = {"SPLIT_K": first.grid[1]} if key.operation in SPLITS else {}
    return impl, {name: first.constants[name] for name in names} | split


def write_table(path: Path, facts: dict[str, str], table: dict[str, dict]) -> None:
    """Write a table, a line per entry in the order of the keys. facts: of the measurement."""
    lines = ["# Measured by python -m benchmarks.tune: fastest configurations by launch"]
    lines += [f"{name} = {_toml(value)}" for name, value in facts.items()]
    lines += ["", "[gemm]"]
    for key, entry in sorted(table.items()):
        fields = ", ".join(f"{name} = {_toml(value)}" for name, value in entry.items())
        lines.append(f"{_toml(key)} = {{ {fields} }}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "\n".join([*lines, ""]).encode())


def _toml(value: str | float) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value}"
