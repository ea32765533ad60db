"""Everything that can go wrong, on one page.

    AppError
    ├── Malformed      400  the request cannot be read
    ├── NotSignedIn    401  nobody is signed in, or no longer
    ├── OutOfCredits   402  the balance or a budget does not reach
    ├── NotAllowed     403  signed in, but not for this
    ├── NotFound       404  not there, or another user's
    ├── Conflict       409  clashes with what is stored
    ├── TooLarge       413  more bytes than are accepted
    ├── Invalid        422  readable, but not acceptable
    ├── TooMany        429  a limit; carries `retry_after_seconds`
    └── Unavailable    503  not now; carries `retry_after_seconds`

Leaves live where they are raised (`credits/holds.py`: HoldEnded). A leaf owns its words:
raise it with facts. Each has a stable `code`, a sentence for a person that ends with the next
step, and `facts` for a program. Edges map families once: `api/errors.py` to a status,
`ui/errors.py` to a toast. Anything that is not an AppError is a bug.
"""

from typing import ClassVar


class AppError(Exception):
    """A refusal that a person can understand. `str(error)` is the sentence."""

    code: ClassVar[str] = "error"
    message: ClassVar[str] = "Something went wrong. Please try again."

    def __init__(self, message: str | None = None, **facts: object) -> None:
        super().__init__(message or self.message)
        self.facts = facts


class Malformed(AppError):
    """The request cannot be read."""

    code = "malformed"
    message = "The request could not be read. Check its format and send it again."


class NotSignedIn(AppError):
    """Nobody is signed in, or the session has ended."""

    code = "not_signed_in"
    message = "Please sign in to go on."


class OutOfCredits(AppError):
    """The balance does not reach. Amounts in the facts are decimal strings of credits."""

    code = "out_of_credits"
    message = "There are not enough credits for this. Add credits and send it again."


class NotAllowed(AppError):
    """Signed in, but without the right."""

    code = "not_allowed"
    message = "Your account may not do this. Ask an administrator if you need it."


class NotFound(AppError):
    """It is not there, or it belongs to somebody else: the answer is the same."""

    code = "not_found"
    message = "This could not be found. It may have been deleted."


class Conflict(AppError):
    """It clashes with what is stored."""

    code = "conflict"
    message = "This clashes with an earlier change. Reload and try again."


class TooLarge(AppError):
    """More bytes than are accepted."""

    code = "too_large"
    message = "This is too large. Shorten it and send it again."


class Invalid(AppError):
    """Readable, but not acceptable."""

    code = "invalid"
    message = "This is not valid. Correct it and send it again."


class TooMany(AppError):
    """A limit was reached. Always carries `retry_after_seconds`."""

    code = "too_many"
    message = "Too many requests. Wait a moment and try again."

    def __init__(
        self, message: str | None = None, *, retry_after_seconds: int = 5, **facts: object
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds, **facts)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(AppError):
    """Not now. Always carries `retry_after_seconds`."""

    code = "unavailable"
    message = "This is not available right now. Try again in a moment."

    def __init__(
        self, message: str | None = None, *, retry_after_seconds: int = 5, **facts: object
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds, **facts)
        self.retry_after_seconds = retry_after_seconds
