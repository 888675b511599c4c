"""The exception tree. The command line turns the *usage* branch into exit status 2, the rest into 1.

QuicksilverError
├── UsageError            the caller can mend it: bad value, bad input, missing file
│   ├── ConfigError       a configuration value or combination is invalid
│   │   ├── UnsupportedConstraintError  a schema or grammar says what cannot be held to; names the keyword
│   │   ├── UnsatisfiableConstraintError  no text satisfies the constraint
│   │   └── ConstraintTooLargeError     compiling it passed a limit; says which
│   ├── InputError        a prompt, template or file cannot be used
│   │   └── ContextLengthError  it is longer than the model's context
│   ├── MergeError        an edit does not say for certain what becomes of the file
│   └── CheckpointError   a model folder is missing, incomplete or contradicts itself
├── SandboxError          untrusted code cannot be run here, or a sandbox broke
├── CheckError            a check of what was written could not be run, or a file does not pass it
├── CorpusError           the corpus could not be rebuilt as pinned
├── AccessError           a request is refused for whose it is, not for what it asks
│   ├── AuthenticationError  no API key, an unknown one or a revoked one
│   ├── QuotaError           the tokens granted to the key do not cover the request
│   └── RateLimitError       the key asks too much in a minute; try again later
├── StorageError          the database of keys and usage cannot be read or written
├── ServerError           a server that was asked refused or failed, or could not be reached; see client.errors
├── EngineError           the engine's accounts are wrong, or a resource is spent
│   ├── OverloadedError   the queue is full; try again later
│   └── RankError         the processes that hold a model together are out of step, or one is gone
└── TrainingError         a run cannot start, resume or go on
"""


class QuicksilverError(Exception):
    """Base of everything raised on purpose; the message names value, limit and remedy."""


class UsageError(QuicksilverError, ValueError):
    """The caller can mend it."""


class ConfigError(UsageError):
    """A configuration value, or a combination of values, is invalid."""


class UnsupportedConstraintError(ConfigError):
    """A constraint uses a keyword or construct that cannot be kept exactly; the message names it."""


class UnsatisfiableConstraintError(ConfigError):
    """No text satisfies the constraint."""


class ConstraintTooLargeError(ConfigError):
    """Compiling a constraint passed a limit; the message says which, and what to do."""


class InputError(UsageError):
    """A prompt, template or file cannot be used as given."""


class ContextLengthError(InputError):
    """A request takes more positions than the model's context has."""


class MergeError(UsageError):
    """An edit cannot be merged into its file without guessing or losing code; the message is the reason."""


class CheckError(QuicksilverError):
    """A check of what was written could not be run, or what was written does not pass it."""


class CheckpointError(UsageError):
    """A model folder is missing, incomplete or contradicts itself."""


class SandboxError(QuicksilverError):
    """Untrusted code cannot be run here as safely as asked, or a sandbox broke; no verdict on the code."""


class CorpusError(QuicksilverError):
    """The corpus could not be rebuilt as pinned."""


class AccessError(QuicksilverError):
    """A request is refused for whose it is, not for what it asks."""


class AuthenticationError(AccessError):
    """No API key, an unknown one or a revoked one."""


class QuotaError(AccessError):
    """The tokens granted to the key do not cover the request."""


class RateLimitError(AccessError):
    """The key asks too much in a minute; the same request fits later.

    Attributes:
        retry_after_s: seconds after which it fits, if nothing else of the key comes first.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageError(QuicksilverError):
    """The database of keys and usage cannot be read or written."""


class ServerError(QuicksilverError):
    """A server refused or failed, or could not be reached."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        kind: str | None = None,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """State what came back.

        Args:
            message: the server's, or why there is none.
            status: of HTTP; 200 if a stream had begun; None: there was no answer.
            kind: OpenAI's ``type``.
            code: for programs.
            param: the field that is wrong.
            request_id: names the request in the server's log.
        """
        super().__init__(message)
        self.status, self.kind, self.code, self.param, self.request_id = status, kind, code, param, request_id


class EngineError(QuicksilverError):
    """The engine lacks a resource, or its accounts contradict each other."""


class OverloadedError(EngineError):
    """The queue is full; the same request may be accepted later."""


class RankError(EngineError):
    """The processes that hold one model together are out of step, or one is gone; all must be started again."""


class TrainingError(QuicksilverError):
    """A training run cannot start, resume or go on."""
