"""Run a planned step many times: in CUDA graphs on a GPU, launch by launch in Triton's interpreter.

On a GPU the first step after a start or a resume is launched kernel by kernel. All others run in
CUDA graphs of GRAPH_STEPS steps, or of one step where fewer are left or their numbers of critic
steps differ. Both ways are the same launches on the same memory in the same order: the same bits.
"""

from collections import Counter

import numpy as np

from rawgan.backend import address, to_host
from rawgan.ema import EMA
from rawgan.gan import GAN
from rawgan.kernels import all_specs
from rawgan.parallel import Ranks
from rawgan.training.diagnostics import Overflow, finite
from rawgan.training.prefetch import Feed

INDEX_ROWS = 100  # batches whose image indices are uploaded at a time; metrics are read as often
GRAPH_STEPS = 25  # steps in a CUDA graph


class GraphRunner:
    """The planned step of a GAN after `done` steps, with its image indices and CUDA graphs.

    average: the moving average of the generator, updated by the step. Raises UserError for a GAN
    that cannot be planned.

    max_steps      steps that `run` trains at a time, at most
    graph_steps    steps in a graph
    host_launches  launches of a graph, or of a step without one, by the host
    """

    def __init__(
        self,
        gan: GAN,
        feed: Feed,
        seed: int,
        precision: str,
        done: int = 0,
        average: EMA | None = None,
    ):
        all_specs()  # raises UserError where Triton is not installed
        from rawgan.planned import plan_step

        self.feed = feed
        on_gpu = feed.device.name == "gpu"
        self.max_steps, self.graph_steps = (INDEX_ROWS, GRAPH_STEPS) if on_gpu else (1, 1)
        images, labels = feed.all_images()
        labels = None if labels is None else feed.device.asarray(labels)
        self.batch = feed.shard.stop - feed.shard.start
        self.step = plan_step(
            gan,
            feed.device.asarray(images),
            self.batch,
            labels=labels,
            seed=seed,
            precision=precision,
            batches=INDEX_ROWS,
            average=average,
        )
        self.step.state[1] = done
        self.index_row = int(
            self.step.input_state[1]
        )  # of the next batch, from the start of training
        if on_gpu:
            # planning allocated scratch memory
            feed.device.xp.get_default_memory_pool().free_all_blocks()
            self.compile(gan.ranks)
        self.graphs, self.host_launches = {}, 0
        self.kernels_loaded = False  # by a step that was launched without a graph

    def compile(self, ranks: Ranks) -> None:
        """Compile the plan's kernels on all cores; of several ranks each compiles its share."""
        from rawgan.kernels.runtime.compile import compile_missing, cores, unique_jobs
        from rawgan.kernels.runtime.launch import capability

        share = unique_jobs(self.step.plan.launches)[ranks.rank :: ranks.size]
        compile_missing(share, capability(self.step.images), max(1, cores() // ranks.size))

    def run(self, done: int, last: int) -> list[dict[str, float]]:
        """Train one step or more, not beyond step `last`; return the metrics of each step."""
        next_read = done - done % INDEX_ROWS + INDEX_ROWS
        steps = self.steps_with_indices(done, min(last, next_read, done + self.max_steps) - done)
        self.write_indices(done, steps)
        self.launch(done, steps)
        self.step.finish()
        return self.step.history(steps)

    def steps_with_indices(self, done: int, steps: int) -> int:
        """Return the number of the next steps, at least one, whose batches fit the index."""
        rows = 0
        for step in range(done, done + steps):
            rows += self.step.repeats(step)
            if rows > len(self.step.index) and step > done:
                return step - done
        return steps

    def write_indices(self, done: int, steps: int) -> None:
        """Upload the image indices of all batches of the next steps."""
        index = np.zeros(self.step.index.shape, np.int32)
        for _ in range(sum(map(self.step.repeats, range(done, done + steps)))):
            index[self.index_row % len(index)] = np.concatenate(
                [self.feed.next_indices() for _ in range(self.step.real_batches)]
            )
            self.index_row += 1
        self.step.feed(index)

    def launch(self, done: int, steps: int) -> None:
        """Launch the next steps without waiting for them.

        The steps of a graph all have the same number of critic steps.
        """
        last = done + steps
        while done < last:
            window = range(done, min(done + self.graph_steps, last))
            same_repeats = len({self.step.repeats(step) for step in window}) == 1
            whole_graph = self.kernels_loaded and len(window) == self.graph_steps and same_repeats
            launched = self.graph_steps if whole_graph else 1
            if self.kernels_loaded and self.max_steps > 1:
                self.graph(launched, self.step.repeats(done)).launch()
            else:
                self.step.plan.run(self.step.repeats(done))
            self.kernels_loaded, done = True, done + launched
            self.host_launches += 1

    def graph(self, steps: int, repeats: int):
        """Return the CUDA graph of this many steps, captured on first use."""
        if (steps, repeats) not in self.graphs:
            self.graphs[steps, repeats] = self.step.plan.capture(steps, repeats)
        return self.graphs[steps, repeats]

    def checked_step(self, done: int) -> None:
        """Train one step, launch by launch, checking the arrays of each launch.

        Raises Overflow after the first launch that reads or writes a number that is not finite.
        """
        self.write_indices(done, 1)
        launches, weights = self.step.plan.sequence(self.step.repeats(done)), {}
        for name, player in (("generator", self.step.G), ("discriminator", self.step.D)):
            for block in player.blocks:
                weights[address(block.w)] = f" with the {name}'s {block.name}w"
        for i, launch in enumerate(launches):
            launch()
            if not all(map(finite, launch.arrays)):
                addresses = map(address, launch.arrays)
                weight = next((weights[a] for a in addresses if a in weights), "")
                raise Overflow(f"launch {i + 1} of {len(launches)}, {launch.name}{weight}")

    def gradient_norms(self) -> dict[str, float]:
        """Return |d loss / d parameter| of the last step by "player.parameter"."""
        players, xp = {"generator": self.step.G, "discriminator": self.step.D}, self.feed.device.xp
        gradients = {
            f"{name}.{parameter}": g
            for name, player in players.items()
            for parameter, g in player.gradient.summed().items()
        }
        norms = xp.stack([xp.sqrt((g * g).sum()) for g in gradients.values()])
        return dict(zip(gradients, to_host(norms).tolist()))

    def description(self) -> str:
        """Return launches and memory of the plan in words."""
        mode = (
            f"in CUDA graphs of {self.graph_steps} steps"
            if self.max_steps > 1
            else "in Triton's interpreter, a second or more each"
        )
        counts, maximum = step_launches(self.step)
        data = data_bytes(self.step)
        total = f"{in_bytes(total_bytes(self.step))} with the data set of {in_bytes(data)}"
        return f"{counts.total()} launches a step{maximum}, {mode}; {memory(self.step)}; {total}"

    def launch_counts(self, first: int, done: int) -> Counter[str]:
        """Return the launches of each kernel in the steps from `first` to `done`."""
        total: Counter[str] = Counter()
        for repeats, steps in Counter(map(self.step.repeats, range(first, done))).items():
            total.update(
                {name: steps * count for name, count in self.step.plan.counts(repeats).items()}
            )
        return total


def step_launches(step) -> tuple[Counter[str], str]:
    """Return the launches of a planned step by kernel, and a remark where some steps have more.

    A step with more critic steps repeats their launches: the counts are those of the fewest, the
    remark states those of the most.
    """
    repeats = sorted(set(map(step.repeats, range(step.gan.steps))))
    least, most = (step.plan.counts(n) for n in (repeats[0], repeats[-1]))
    if most == least:
        return least, ""
    critic_steps = repeats[-1] * step.real_batches
    return least, f" ({most.total():,} of one with {critic_steps} critic steps)"


def data_bytes(step) -> int:
    """Return the bytes of a planned step's data set with its labels."""
    return step.images.nbytes + (step.all_labels.nbytes if step.gan.classes else 0)


def total_bytes(step) -> int:
    """Return all bytes of a planned step: arena, arrays outside it, data set."""
    return step.plan.bytes + step.plan.external_bytes


def memory(step) -> str:
    """Return the memory of a planned step without its data set, in words."""
    plan, total = step.plan, total_bytes(step) - data_bytes(step)
    sizes = (total, plan.bytes, plan.peak_live_bytes, plan.unshared_bytes, total - plan.bytes)
    total, arena, least, separate, outside = map(in_bytes, sizes)
    return (
        f"{total} without the data set: an arena of {arena} (peak use {least}, without reuse of "
        f"memory {separate}); outside it {outside}: parameters, optimizers, partial sums of "
        "gradients, inputs"
    )


def in_bytes(size: int) -> str:
    """Return a size in words: 152.1 MB, 3.3 kB."""
    return f"{size / 1e6:,.1f} MB" if size >= 10**6 else f"{size / 1e3:.1f} kB"
