"""A user's mistake, told in a line or two."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: the message says what is wrong and what to do.

    Args:
        message: One or two lines; printed after ``error:`` without a traceback.
        exit_code: 1 for work that failed, 2 for wrong use.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
