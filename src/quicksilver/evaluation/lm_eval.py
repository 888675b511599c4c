r"""Models of this project for EleutherAI's lm-evaluation-harness, as ``--model quicksilver``.

Its own command does not know the name until this module is imported, so this module is a command too, with all of its
options:

    python -m quicksilver.evaluation.lm_eval run --model quicksilver \
        --model_args pretrained=quicksilver-coder,reading=chain --tasks my_task --include_path tasks/

Log-likelihoods are of one reading, which results must name: see ``likelihood.Reading``. Generation is the engine's.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from quicksilver.api import DecodingOptions, GenerateRequest, Model, load
from quicksilver.api.loading import find_model
from quicksilver.api.network import PairLogits
from quicksilver.api.stopping import cut_at_stop
from quicksilver.checkpoints.folder import model_hash
from quicksilver.diffusion.likelihood import chain_rule_steps, mask_bound
from quicksilver.diffusion.spec import Layout, Objective
from quicksilver.errors import ConfigError, InputError, QuicksilverError, UsageError
from quicksilver.evaluation.likelihood import Reading, readings

if find_spec("lm_eval") is None:
    raise ConfigError("quicksilver.evaluation.lm_eval needs the harness: pip install 'quicksilver-lm[lm-eval]'")

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

_log = logging.getLogger(__name__)

BATCH_SIZE = 16
"""Requests that the engine has at once."""
MOST_TOKENS = 256
"""Of an answer whose task names no limit, the harness's own default."""
_HARNESS_DEVICE = "cuda:0"
"""What the harness's command asks for where nobody named a device."""
_SAMPLING = frozenset({"do_sample", "until", "max_gen_toks", "temperature", "top_p", "top_k"})


@register_model("quicksilver")
class QuicksilverLM(TemplateLM):
    """A checkpoint in this project's engine."""

    def __init__(
        self,
        pretrained: str = "quicksilver-coder",
        *,
        reading: str | None = None,
        num_subsets: int = 4,
        batch_size: int | str = BATCH_SIZE,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        quantize: str | None = None,
        seed: int = 0,
        policy: str | None = None,
        threshold: float | None = None,
        steps: int | None = None,
        block_length: int | None = None,
    ) -> None:
        """Load a checkpoint; the names are those of ``--model_args``.

        Args:
            pretrained: a bundled model or a checkpoint folder, ours or published.
            reading: of log-likelihoods: ``exact`` (next-token), ``chain`` (left to right within blocks) or ``bound``
                (any order, averaged). None: exact if autoregressive; chain if trained by blocks; else bound.
            num_subsets: random masks of the bound per masked count.
            batch_size: requests that the engine has at once.
            max_batch_size: the harness's for a batch size that it finds itself, which it need not here.
            device: as ``quicksilver.load`` takes it; likewise ``dtype`` and ``quantize``.
            dtype: see ``device``.
            quantize: see ``device``.
            seed: of generation and of the bound's masks.
            policy: of generation; like the three that follow as in ``DecodingOptions``.
            threshold: see ``policy``.
            steps: see ``policy``.
            block_length: see ``policy``; also of the readings chain and bound.

        Raises:
            CheckpointError, ConfigError: as ``quicksilver.load``; or the checkpoint has no such reading, or the batch
                size is no number.
        """
        super().__init__()
        if max_batch_size is not None or not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ConfigError(f"batch_size is a number of requests from 1 on, and fixed; got {batch_size!r}")
        if device == _HARNESS_DEVICE and not torch.cuda.is_available():
            _log.warning("%s is not available here, the model runs on the CPU", device)
            device = None
        self.model: Model = load(pretrained, device=device, dtype=dtype, quantize=quantize)
        self.options = DecodingOptions(
            policy=policy, threshold=threshold, steps=steps, block_length=block_length, seed=seed
        )
        self.options.resolve_policy(self.model.spec)
        self.batch_size, self.num_subsets = int(batch_size), num_subsets
        self.reading = _reading(self.model, reading)
        self._about = {"model_sha256": model_hash(find_model(pretrained)), "reading": self.reading.value}

    def get_model_info(self) -> dict[str, object]:
        """For the harness's report."""
        return {**self._about, "policy": repr(self.options.resolve_policy(self.model.spec))}

    @property
    def max_length(self) -> int:
        return self.model.max_length

    @property
    def eot_token_id(self) -> int:
        return self.model.spec.special.eos

    @property
    def prefix_token_id(self) -> int:
        """What a text without context is conditioned on: the checkpoint's start of a file, else its end of text."""
        start = self.model.spec.special.file
        return self.eot_token_id if start is None else start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: object) -> list[int]:
        """Ids of a text; never a special one, whatever is asked."""
        return self.model.tokenizer.encode(string)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Every token once, in windows as long as the context; the first of a later window sees the one before."""
        found = []
        for (text,) in tqdm([each.args for each in requests], desc="rolling log-likelihoods", disable=disable_tqdm):
            windows = get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, max_seq_len=self.max_length - 2, context_len=1
            )
            total = sum(self._score(*make_disjoint_window(window))[0] for window in windows)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            found.append(total)
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: object
    ) -> list[tuple[float, bool]]:
        found = []
        for texts, context, continuation in tqdm(requests, desc="log-likelihoods", disable=disable_tqdm):
            scored = self._score(context, continuation)
            self.cache_hook.add_partial("loglikelihood", texts, scored)
            found.append(scored)
        return found

    def _score(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """Log-likelihood of a continuation, and whether greedy decoding left to right would write it.

        What the context's beginning leaves no room for is cut there, as the harness does.
        """
        start = self.model.spec.special.file
        begin = [] if start is None else [start]
        given = list(context[1:] if context[:1] == begin else context)
        room = self.max_length - len(begin) - len(continuation)
        if room < 0 or not continuation:
            raise InputError(
                f"a continuation of {len(continuation)} tokens cannot be scored in a context of {self.max_length}"
            )
        if len(given) > room:
            _log.warning("%d tokens of a context are cut at its beginning", len(given) - room)
        canvas = [*begin, *given[max(len(given) - room, 0) :], *continuation]
        if len(canvas) == len(continuation):
            raise InputError("a continuation needs something before it, and the context leaves no room for it")
        if self.reading is Reading.EXACT:
            return self._exact(canvas, len(continuation))
        return self._denoised(canvas, len(continuation))

    def _exact(self, canvas: list[int], num_targets: int) -> tuple[float, bool]:
        spec = self.model.spec
        if spec.special.file is not None:
            rows = self.model.next_token_logprobs(canvas[1:])
        else:
            rows = self.model.logits(canvas, layout=Layout.BLOCK_CAUSAL)[:-1].log_softmax(-1)
        rows, labels = rows[-num_targets:], torch.tensor(canvas[-num_targets:])
        nats = rows.gather(-1, labels[:, None]).double().sum()
        return float(nats), bool((rows.argmax(-1) == labels).all())

    @torch.inference_mode()
    def _denoised(self, canvas: list[int], num_targets: int) -> tuple[float, bool]:
        denoiser, spec = self.model.engine.denoiser, self.model.spec
        token_ids = torch.tensor([canvas], device=denoiser.model.embed_tokens.weight.device)
        is_target = torch.zeros_like(token_ids, dtype=torch.bool)
        is_target[:, -num_targets:] = True
        logits_fn = PairLogits(denoiser, spec)
        is_by_blocks = Layout.BLOCK_CAUSAL in spec.layouts
        block_length = self.options.block_length or (spec.block_length if is_by_blocks else len(canvas))
        steps = chain_rule_steps(logits_fn, token_ids, is_target, block_length=block_length, mask_id=spec.special.mask)
        if self.reading is Reading.CHAIN:
            nats, is_greedy = _summed(steps, token_ids)
            return -nats, is_greedy
        bound = mask_bound(
            logits_fn,
            token_ids,
            is_target,
            block_length=block_length,
            mask_id=spec.special.mask,
            num_subsets=self.num_subsets,
            seed=self.options.seed or 0,
        )
        # The first step that differs decides, and mostly that is the first.
        is_greedy = all(_is_greedy(is_read, log_probs, token_ids) for is_read, log_probs in steps)
        return -float(bound.nats[0]), is_greedy

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedily, or as a task's ``generation_kwargs`` say; the beginning of a prompt that is too long is cut."""
        texts: list[str] = []
        bar = tqdm(total=len(requests), desc="generating", disable=disable_tqdm)
        for first in range(0, len(requests), self.batch_size):
            some = requests[first : first + self.batch_size]
            asked = [self._generation(*each.args) for each in some]
            results = self.model.engine.run([self.model.engine_request(request) for request in asked])
            for each, request, result in zip(some, asked, results, strict=True):
                text = cut_at_stop(self.model.tokenizer.decode(result.token_ids), request.options.stop)
                self.cache_hook.add_partial("generate_until", each.args, text)
                texts.append(text)
                bar.update()
        bar.close()
        return texts

    def _generation(self, prompt: str, given: Mapping[str, Any]) -> GenerateRequest:
        asked: dict[str, Any] = {**normalize_gen_kwargs(dict(given), MOST_TOKENS)}
        unknown = sorted(set(asked) - _SAMPLING)
        if unknown:
            raise ConfigError(f"generation_kwargs {', '.join(unknown)} are not known here")
        most = asked["max_gen_toks"]
        # A start token, and blocks that are only written whole.
        room = self.max_length - 1 - most - self.model.spec.block_length
        if room < 1:
            raise ConfigError(
                f"max_gen_toks {most} leaves no room for a prompt in a context of {self.max_length}: give "
                f"--gen_kwargs max_gen_toks=N"
            )
        ids = self.model.tokenizer.encode(prompt)
        if len(ids) > room:
            _log.warning("%d tokens of a prompt are cut at its beginning", len(ids) - room)
        options = replace(
            self.options,
            temperature=asked.get("temperature", 0.0),
            top_p=asked.get("top_p"),
            top_k=asked.get("top_k"),
            stop=tuple(each for each in asked["until"] if each),
        )
        return GenerateRequest(prompt_ids=tuple(ids[-room:]), max_tokens=most, options=options)


def _reading(model: Model, name: str | None) -> Reading:
    spec = model.spec
    if name is None:
        if spec.objective is Objective.AUTOREGRESSIVE:
            return Reading.EXACT
        return Reading.CHAIN if Layout.BLOCK_CAUSAL in spec.layouts else Reading.BOUND
    known = readings(spec)
    if name not in known:
        raise ConfigError(f"{model.name} has the readings {', '.join(known)}, not {name!r}")
    return Reading(name)


def _summed(steps: Iterator[tuple[Tensor, Tensor]], token_ids: Tensor) -> tuple[float, bool]:
    nats, is_greedy = 0.0, True
    for is_read, log_probs in steps:
        found = log_probs.gather(-1, token_ids[..., None])[..., 0].double()
        nats -= float(found[is_read].sum())
        is_greedy = is_greedy and _is_greedy(is_read, log_probs, token_ids)
    return nats, is_greedy


def _is_greedy(is_read: Tensor, log_probs: Tensor, token_ids: Tensor) -> bool:
    return bool((log_probs.argmax(-1) == token_ids)[is_read].all())


def _main() -> None:
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except QuicksilverError as error:
        sys.stderr.write(f"quicksilver: error: {error}\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)


if __name__ == "__main__":
    _main()
