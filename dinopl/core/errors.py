"""A user's mistake, told in one line."""


class UserMistake(Exception):  # noqa: N818 - it is told as what it is
    """Something that the user can put right: the command prints the message and exits with 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
