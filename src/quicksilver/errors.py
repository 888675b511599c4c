"""The exception tree. The command line turns the *usage* branch into exit status 2, the rest into 1.

QuicksilverError
├── UsageError            the caller can mend it: bad value, bad input, missing file
│   ├── ConfigError       a configuration value or combination is invalid
│   ├── InputError        a prompt, template or file cannot be used
│   ├── MergeError        an edit does not say for certain what becomes of the file
│   └── CheckpointError   a model folder is missing, incomplete or contradicts itself
├── CorpusError           the corpus could not be rebuilt as pinned
├── EngineError           the engine's accounts are wrong, or a resource is spent
│   └── OverloadedError   the queue is full; try again later
└── TrainingError         a run cannot start, resume or go on
"""


class QuicksilverError(Exception):
    """Base of everything raised on purpose; the message names value, limit and remedy."""


class UsageError(QuicksilverError, ValueError):
    """The caller can mend it."""


class ConfigError(UsageError):
    """A configuration value, or a combination of values, is invalid."""


class InputError(UsageError):
    """A prompt, template or file cannot be used as given."""


class MergeError(UsageError):
    """An edit cannot be merged into its file without guessing or losing code; the message is the reason."""


class CheckpointError(UsageError):
    """A model folder is missing, incomplete or contradicts itself."""


class CorpusError(QuicksilverError):
    """The corpus could not be rebuilt as pinned."""


class EngineError(QuicksilverError):
    """The engine lacks a resource, or its accounts contradict each other."""


class OverloadedError(EngineError):
    """The queue is full; the same request may be accepted later."""


class TrainingError(QuicksilverError):
    """A training run cannot start, resume or go on."""
