"""From a name on the command line to a subject."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from quicksilver.errors import ConfigError
from quicksilver.evaluation.subject import Subject
from quicksilver.evaluation.subjects.settings import Settings

TRANSFORMERS, LLAMA_CPP = "transformers:", "llama.cpp:"
SPEC_HELP = f"NAME or FOLDER, {TRANSFORMERS}FOLDER, {LLAMA_CPP}FILE.gguf, http://HOST:PORT/v1[#MODEL]"


def make_subject(
    spec: str, settings: Settings | None = None, *, progress: Callable[[int, int], None] | None = None
) -> Subject:
    """Load or reach a subject.

    Args:
        spec: a checkpoint folder or a bundled model's name, for this project's engine; ``transformers:FOLDER``;
            ``llama.cpp:FILE``; or the URL of a server, behind ``#`` perhaps which of its models.
        settings: how it decodes; None: everything is its own choice.
        progress: told the bytes loaded and those of all weights, where this project loads them.

    Raises:
        ConfigError: there is no such kind of subject, or it cannot honour a setting.
        CheckpointError: there is no such model.
    """
    chosen = settings or Settings()
    # Each kind needs libraries that the others do not.
    if spec.startswith(("http://", "https://")):
        from quicksilver.evaluation.subjects.http import http_subject

        _refuse_others(spec, chosen, "layout", "decoding")
        url, _, model = spec.partition("#")
        return http_subject(url, model=model or None, layout=chosen.layout, decoding=chosen.decoding)
    if spec.startswith(TRANSFORMERS):
        from quicksilver.evaluation.subjects.transformers_generate import transformers_subject

        _refuse_others(spec, chosen, "device", "dtype", "context")
        name = spec.removeprefix(TRANSFORMERS)
        return transformers_subject(name, device=chosen.device, dtype=chosen.dtype, context=chosen.context)
    if spec.startswith(LLAMA_CPP):
        from quicksilver.evaluation.subjects.llamacpp import llama_cpp_subject

        _refuse_others(spec, chosen, "context")
        return llama_cpp_subject(Path(spec.removeprefix(LLAMA_CPP)), context=chosen.context)
    from quicksilver.evaluation.subjects.engine import load_subject

    return load_subject(spec, chosen, progress)


def _refuse_others(spec: str, settings: Settings, *known: str) -> None:
    """Raise ConfigError if a setting is given that is none of ``known``."""
    plain = Settings()
    unknown = [
        name
        for name in (each.name for each in fields(Settings))
        if name not in known and getattr(settings, name) != getattr(plain, name)
    ]
    if unknown:
        raise ConfigError(f"{spec} has its own {', '.join(unknown)}, which cannot be chosen from here")
