"""Figures of convolution as a matrix product, its tiles, its adjoint, and number formats."""

import numpy as np
from matplotlib.patches import Rectangle

from docs.figures import BLUE, GREEN, GREY, INK, ORANGE, RED, drawing
from docs.figures.forms import grid, plain


@drawing(7, 5.2)
def gemm_view(figure):
    """y (M, K) = a (M, R S C) b (R S C, K), with one program's tile and the step of its loop."""
    axes = figure.subplots()
    for x, y, width, height in ((0, 0, 6, 4.4), (6.6, 4.9, 3, 3.2), (6.6, 0, 3, 4.4)):
        axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=INK, linewidth=1))
    axes.add_patch(Rectangle((0, 2.2), 6, 1.1, facecolor=BLUE, alpha=0.18))
    axes.add_patch(Rectangle((2, 2.2), 1, 1.1, facecolor=BLUE, alpha=0.6))
    axes.add_patch(Rectangle((7.6, 4.9), 1, 3.2, facecolor=ORANGE, alpha=0.18))
    axes.add_patch(Rectangle((7.6, 6.5), 1, 0.53, facecolor=ORANGE, alpha=0.6))
    axes.add_patch(Rectangle((7.6, 2.2), 1, 1.1, facecolor=GREEN, alpha=0.6))
    for x, y, text, turn in (
        (3, -0.45, "R S C: taps and channels", 0),
        (-0.4, 2.2, "M = N P Q pixels", 90),
        (8.1, -0.45, "K filters", 0),
        (3, 3.7, "a: patches of x, never stored", 0),
        (8.1, 8.35, "b: the filters", 0),
        (9.95, 1.1, "y", 0),
        (2.5, 2.75, "BLOCK_M x\nBLOCK_K", 0),
        (8.1, 2.75, "acc", 0),
    ):
        axes.text(
            x,
            y,
            text,
            ha="center",
            va="center",
            rotation=turn,
            fontsize=8 if "BLOCK" in text else 10,
        )
    axes.annotate("", (5.6, 1.9), (0.4, 1.9), arrowprops={"arrowstyle": "-|>", "color": INK})
    axes.text(3, 1.55, "for k in range(0, R S C, BLOCK_K)", ha="center", fontsize=8)
    axes.set(xlim=(-0.9, 10.6), ylim=(-0.9, 8.8))
    plain(axes)


@drawing(7, 3.1)
def residue_classes(figure):
    """Which of 4x4 taps contribute to each pixel of dx at stride 2, pad 1: four classes.

    Each class is a dense product with 2x2 taps.
    """
    left, right = figure.subplots(1, 2, width_ratios=(8, 9))
    H, stride, pad, R = 8, 2, 1, 4
    colours = (BLUE, ORANGE, GREEN, RED)
    classes = [[(h + pad) % stride * 2 + (v + pad) % stride for v in range(H)] for h in range(H)]
    grid(
        left,
        0,
        H,
        [[None] * H for _ in range(H)],
        [[(colours[c], 0.5) for c in row] for row in classes],
        lines=GREY,
    )
    left.set(title="pixels of dx by (h mod 2, v mod 2)", xlim=(-0.2, H + 0.2), ylim=(-0.2, H + 0.2))
    for i, colour in enumerate(colours):
        first_r, first_s = divmod(i, 2)
        mine = {(r, s) for r in range(first_r, R, stride) for s in range(first_s, R, stride)}
        shade = [[(colour, 0.6) if (r, s) in mine else None for s in range(R)] for r in range(R)]
        grid(
            right,
            i % 2 * 4.7,
            8.7 - i // 2 * 4.7,
            [[None] * R for _ in range(R)],
            shade,
            lines=GREY,
        )
    right.set(title="the taps of w that reach each class", xlim=(-0.2, 9), ylim=(-0.3, 9))
    for axes in (left, right):
        plain(axes)


@drawing(7, 2.3)
def formats(figure):
    axes = figure.subplots()
    rows = (
        ("float32", 8, 23),
        ("TF32 (a factor in tensor cores)", 8, 10),
        ("bfloat16", 8, 7),
        ("float16", 5, 10),
    )
    for i, (name, exponent, fraction) in enumerate(rows):
        y = -i
        for start, width, colour in (
            (0, 1, GREY),
            (1, exponent, ORANGE),
            (1 + exponent, fraction, BLUE),
        ):
            axes.add_patch(
                Rectangle((start, y), width, 0.7, facecolor=colour, alpha=0.55, edgecolor="none")
            )
            axes.text(start + width / 2, y + 0.35, width, ha="center", va="center", fontsize=8)
        axes.text(-0.4, y + 0.35, name, ha="right", va="center")
    axes.text(5, 0.85, "exponent", ha="center", fontsize=8)
    axes.text(20, 0.85, "fraction", ha="center", fontsize=8)
    axes.set(xlim=(-17, 33), ylim=(-3.1, 1.2))
    axes.axis("off")


@drawing(7, 2.8)
def lost_digits(figure):
    """Draw the relative error of a variance in float32, in one pass and two, as the mean grows."""
    from rawgan.ops.norm import normalize

    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4096, 1))
    means = np.logspace(0, 5, 26)
    one, two = [], []
    for mean in means:
        x = (noise + mean).astype(np.float32)
        true = x.astype(np.float64).var()
        one.append(abs(((x * x).mean() - x.mean() ** 2) / true - 1))
        two.append(abs(normalize(x, (0,), 0)[3].item() / true - 1))
    axes = figure.subplots()
    axes.loglog(means, np.maximum(one, 1e-9), color=RED, label="E(x^2) - E(x)^2")
    axes.loglog(means, np.maximum(two, 1e-9), color=BLUE, label="two passes, as ops/norm.py")
    axes.set(
        xlabel="mean of x, standard deviation 1, float32", ylabel="relative error of the variance"
    )
    axes.legend(loc="upper left")
    axes.grid()
