"""What makes a training impossible and needs no image to know."""

from dataclasses import replace

from rawgan.data import summary
from rawgan.errors import UserError
from rawgan.models.recipe_file import check_networks, code_of
from rawgan.parallel import Ranks
from rawgan.training.options import Options


def check_before_loading(options: Options) -> None:
    """Raise UserError for everything that makes a training impossible and needs no image to know.

    That is a data set that is not there or too small, a size or width that the networks cannot
    have, a batch larger than the data, and labels that a recipe needs and the data do not have.
    """
    recipe, about = options.recipe_with_overrides(), summary(options.data)
    if about.count < 2:
        raise UserError(
            f"{options.data} holds {about.count} picture: a training needs at least 2, and for any "
            "variety hundreds"
        )
    if options.batch and options.batch > about.count:
        raise UserError(
            f"A batch of {options.batch} cannot be drawn from the {about.count} pictures of "
            f"{options.data}: choose 2 to {about.count}."
        )
    if recipe.classes and (not about.labelled or about.classes == 1):
        raise UserError(
            f"{recipe.name} needs labels, which {options.data} does not have: give a folder with a "
            "folder for each class, IDX files or a .npz file with labels, or train an "
            "unconditional recipe"
        )
    shape = options.natural_size(), options.channels or 1, options.width or recipe.width
    with code_of(recipe):
        try:
            recipe.generator(*shape, z=recipe.z), recipe.discriminator(*shape)
        except UserError as error:
            natural = f" ({options.data} has images of {about.side}x{about.side})"
            remark = "" if options.size or not about.side else natural
            raise UserError(f"{error}{remark}: give another --size") from error
        if recipe.file:
            check_networks(recipe, *shape)


def with_batch(options: Options, N: int, ranks: Ranks) -> Options:
    """Return the options with a batch that N images have, and print where it is a smaller one.

    The batch of a recipe is lowered; one that was given is left, and refused if it is too large.
    """
    usual = options.declared.batch
    if options.batch or usual <= N:
        return options
    batch = N - N % ranks.size
    print(f"Batch: {batch} in the place of {usual}, since there are only {N} images.")
    return replace(options, batch=batch)
