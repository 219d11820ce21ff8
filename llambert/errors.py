"""What a user did, or has, that llambert cannot work with."""


class InputError(ValueError):
    """A wrong recipe, a missing file, an unreadable URI, a model that is not there.

    The message is one clear line: what was wrong, where, and what to do. Jobs and the command line
    print it and exit with status 2; any other exception is a fault of ours and keeps its traceback.
    """


def one_line(error: BaseException) -> str:
    """What another library's exception says, short enough to stand in a line of ours."""
    return " ".join(str(error).split())[:300] or type(error).__name__
