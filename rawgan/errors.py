"""The one error that a user's input can cause."""


class UserError(Exception):
    """Something the user gave cannot be used; the message is one sentence that says what, and what to do instead.

    The command lines print it and leave with exit status 2; a library user catches it as any exception.
    """
