"""The two halves of a training step: forward computation, and the extent of each gradient."""

from matplotlib.patches import Rectangle

from docs.figures import BLUE, GREEN, GREY, INK, ORANGE, drawing


def box(axes, x, y, text, colour) -> None:
    axes.add_patch(Rectangle((x, y), 1.5, 1, facecolor=colour, alpha=0.25, edgecolor=colour))
    axes.text(x + 0.75, y + 0.5, text, ha="center", va="center", fontsize=14)


def line(axes, start, end, colour=INK, style="-") -> None:
    axes.annotate(
        "",
        end,
        start,
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.8, "linestyle": style},
    )


def network(axes, title: str) -> None:
    """Draw z -> G -> fake -> D -> c."""
    box(axes, 1.2, 0, "G", ORANGE)
    box(axes, 5.2, 0, "D", BLUE)
    for x, text in ((0.15, "z"), (3.95, "fake"), (7.75, "c")):
        axes.text(x, 0.75, text, ha="center", va="center", fontsize=12)
    for start, end in ((0.35, 1.15), (2.75, 3.5), (4.4, 5.15), (6.75, 7.5)):
        line(axes, (start, 0.75), (end, 0.75))
    axes.set_title(title)
    axes.set(xlim=(-0.3, 9.2), ylim=(-1.1, 2.6))
    axes.axis("off")


@drawing(9, 2.6)
def two_steps(figure):
    discriminator, generator = figure.subplots(1, 2)
    network(discriminator, "D's step: the fakes are constants")
    discriminator.text(3.95, 1.9, "real", ha="center", va="center", fontsize=12)
    discriminator.text(7.75, 1.9, "a", ha="center", va="center", fontsize=12)
    line(discriminator, (4.4, 1.9), (5.4, 1.1))
    line(discriminator, (6.4, 1.1), (7.5, 1.9))
    line(discriminator, (7.5, 0.25), (6.75, 0.25), GREEN)
    discriminator.text(7.9, 0.2, "dc, da", color=GREEN, va="center")
    discriminator.text(5.95, -0.55, "dw of D", color=GREEN, ha="center")
    discriminator.text(2.0, -0.55, "nothing", color=GREY, ha="center")
    network(generator, "G's step: D stays as it is")
    for start, end in ((7.5, 6.75), (5.15, 4.4), (3.5, 2.75)):
        line(generator, (start, 0.25), (end, 0.25), GREEN)
    generator.text(7.9, 0.2, "dc", color=GREEN, va="center")
    generator.text(5.95, -0.55, "dx alone", color=GREEN, ha="center")
    generator.text(2.0, -0.55, "dw of G", color=GREEN, ha="center")
    generator.text(3.95, 0.2, "dfake", color=GREEN, ha="center", va="center", fontsize=9)
