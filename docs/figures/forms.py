"""Figures of the trilinear form, and of a convolution and its adjoint."""

import numpy as np
from matplotlib.patches import FancyArrowPatch, Rectangle

from docs.figures import BLUE, GREEN, GREY, INK, ORANGE, drawing
from rawgan.ops.conv import conv2d, conv2d_dx


def plain(axes) -> None:
    """Hide the axes and set equal scales."""
    axes.set_aspect("equal")
    axes.axis("off")


def grid(axes, left, top, values, shade=None, size=0.42, lines=INK) -> None:
    """Draw a table of cells with `values` (None: empty).

    shade[i][j]: (colour, alpha) that fills a cell, or None.
    """
    rows, columns = np.shape(values)
    for i in range(rows):
        for j in range(columns):
            colour, alpha = (
                shade[i][j] if shade is not None and shade[i][j] is not None else ("none", 0)
            )
            axes.add_patch(
                Rectangle(
                    (left + j, top - i - 1), 1, 1, facecolor=colour, alpha=alpha, edgecolor="none"
                )
            )
            axes.add_patch(
                Rectangle((left + j, top - i - 1), 1, 1, fill=False, edgecolor=lines, linewidth=0.7)
            )
            if values[i][j] is not None:
                axes.text(
                    left + j + 0.5,
                    top - i - 0.5,
                    values[i][j],
                    ha="center",
                    va="center",
                    fontsize=20 * size,
                )


def arrow(axes, start, end, colour=INK, bend=0.0, style="-|>") -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=style,
            mutation_scale=13,
            color=colour,
            linewidth=1.5,
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=3,
            shrinkB=3,
        )
    )


@drawing(7, 2.7)
def three_contractions(figure):
    axes = figure.subplots()
    rows = (
        ("y = C(x, w)", "dT/dy", ("x", "w"), "y", BLUE),
        ("dx = Cx(dy, w)", "dT/dx", ("dy", "w"), "dx", ORANGE),
        ("dw = Cw(x, dy)", "dT/dw", ("x", "dy"), "dw", GREEN),
    )
    for i, (formula, name, operands, out, colour) in enumerate(rows):
        x = 3.4 * i
        axes.add_patch(
            Rectangle((x + 0.75, 0.55), 0.9, 0.9, facecolor=colour, alpha=0.25, edgecolor=colour)
        )
        axes.text(x + 1.2, 1.0, "T", ha="center", va="center", fontsize=15, style="italic")
        for text, height in zip(operands, (1.55, 0.45)):
            axes.text(x, height, text, ha="center", va="center", fontsize=12)
            arrow(axes, (x + 0.12, height), (x + 0.75, 1.0 + (height - 1) * 0.5))
        arrow(axes, (x + 1.65, 1.0), (x + 2.25, 1.0), colour)
        axes.text(x + 2.45, 1.0, out, ha="center", va="center", fontsize=12)
        axes.text(x + 1.2, 2.05, name, ha="center", fontsize=12, color=colour)
        axes.text(x + 1.2, -0.2, formula, ha="center", fontsize=11)
    axes.set(xlim=(-0.4, 9.6), ylim=(-0.5, 2.5))
    plain(axes)


@drawing(7, 3.0)
def conv_and_adjoint(figure):
    """3x3 convolution, stride 2, pad 1: the inputs of one output pixel.

    Its cotangent is added to the same pixels of dx.
    """
    forward, adjoint = figure.subplots(1, 2)
    H, P, stride, pad = 6, 3, 2, 1
    forward.set_title("conv2d reads: y[1,1] gathers nine pixels")
    adjoint.set_title("conv2d_dx writes: dy[1,1] adds to nine pixels")
    for axes in (forward, adjoint):
        empty = [[None] * H for _ in range(H)]
        p = q = 1
        touched = {(p * stride + r - pad, q * stride + s - pad) for r in range(3) for s in range(3)}
        colour = BLUE if axes is forward else ORANGE
        shade = [
            [(colour, 0.35) if (i, j) in touched else None for j in range(H)] for i in range(H)
        ]
        grid(axes, 0, H, empty, shade)
        small = [[(colour, 0.8) if (i, j) == (p, q) else None for j in range(P)] for i in range(P)]
        grid(axes, 8.6, 4.5, [[None] * P for _ in range(P)], small)
        ends = ((4.0, 3.5), (9.6, 3.0))
        arrow(
            axes,
            *(ends if axes is forward else ends[::-1]),
            colour,
            0.15 if axes is forward else -0.15,
        )
        axes.text(3, -0.7, "x  (6 x 6)" if axes is forward else "dx  (6 x 6)", ha="center")
        axes.text(10.1, 0.8, "y  (3 x 3)" if axes is forward else "dy  (3 x 3)", ha="center")
        axes.set(xlim=(-0.3, 12), ylim=(-1.1, 6.3))
        plain(axes)


@drawing(7, 3.0)
def conv_matrix(figure):
    """Matrices of a one-dimensional convolution and of the transposed one, from unit vectors."""
    left, right = figure.subplots(1, 2, width_ratios=(8, 4))
    H, R, stride, pad = 8, 3, 2, 1
    w = np.array([1.0, 2.0, 3.0]).reshape(1, R, 1, 1)
    unit = np.eye(H).reshape(H, H, 1, 1)
    matrix = conv2d(unit, w, None, (stride, 1), (pad, 0)).reshape(H, -1).T
    P = len(matrix)
    back = (
        conv2d_dx(np.eye(P).reshape(P, P, 1, 1), w, (H, 1), (stride, 1), (pad, 0)).reshape(P, H).T
    )
    colours = {1: BLUE, 2: GREEN, 3: ORANGE}
    for axes, values, title in (
        (left, matrix, "conv2d: y = A x"),
        (right, back, "conv2d_dx: dx = A' dy"),
    ):
        names = [[f"w{int(v) - 1}" if v else None for v in row] for row in values]
        grid(
            axes,
            0,
            len(values),
            names,
            [[(colours[int(v)], 0.4) if v else None for v in row] for row in values],
            0.5,
            GREY,
        )
        axes.set_title(title)
        axes.set(xlim=(-0.2, values.shape[1] + 0.2), ylim=(-0.2, len(values) + 0.2))
        plain(axes)


@drawing(7, 2.9)
def overlaps(figure):
    """Draw the number of taps per pixel of a transposed convolution: its checkerboard and gaps."""
    cases = (
        (4, 2, "4 taps, stride 2: even"),
        (3, 2, "3 taps, stride 2: a checkerboard"),
        (2, 3, "2 taps, stride 3: some never"),
    )
    for axes, (R, stride, title) in zip(figure.subplots(1, 3), cases):
        P, pad = 4, 1 if R == 4 else 0
        H = (P - 1) * stride + R - 2 * pad
        H = H if R != 2 else P * stride
        counts = conv2d_dx(np.ones((1, P, P, 1)), np.ones((1, R, R, 1)), (H, H), stride, pad)[
            0, :, :, 0
        ].astype(int)
        shade = [[(ORANGE, 0.15 + 0.13 * v) if v else None for v in row] for row in counts]
        grid(axes, 0, H, [[str(v) for v in row] for row in counts], shade, 0.34, GREY)
        axes.set_title(title)
        axes.set(xlim=(-0.2, H + 0.2), ylim=(-0.2, H + 0.2))
        plain(axes)
