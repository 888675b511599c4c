"""The rules that may change a draft again: editing, renoising, remasking. Pure functions, one parameter per row."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.draws import Purpose, draw
from quicksilver.decoding.rules import entropy_bound, first_best
from quicksilver.decoding.window import Decision, Window


def token_edits(
    window: Window,
    commit: Bool[Tensor, "B W"],
    *,
    threshold: Float[Tensor, " B"],
    max_changes: Int[Tensor, " B"],
    max_post_steps: Int[Tensor, " B"],
) -> Decision:
    """Edit drafts whose candidate differs with confidence enough, in the same step that commits masks.

    Settled when a step without masks changes nothing or ``max_post_steps`` of them are spent. A position changes at
    most ``max_changes`` times, which bounds any oscillation; the sampler also stops at a state it has seen.
    Source: LLaDA2.1, arXiv:2602.08676. Differs from it: >= instead of >, and the limit per position.
    """
    edit = _suspects(window, threshold, max_changes)
    return Decision(
        commit=commit,
        edit=edit,
        remask=torch.zeros_like(edit),
        is_settled=~window.is_masked.any(dim=-1) & (~edit.any(dim=-1) | _is_last_post_step(window, max_post_steps)),
    )


def mask_and_repredict(
    window: Window,
    commit: Bool[Tensor, "B W"],
    *,
    threshold: Float[Tensor, " B"],
    max_changes: Int[Tensor, " B"],
    max_post_steps: Int[Tensor, " B"],
) -> Decision:
    """Put the mask back on the drafts that ``token_edits`` would edit, so that they are predicted anew, together.

    The last of the ``max_post_steps`` remasks nothing. Source: token-to-mask correction, arXiv:2605.26436. Differs from
    it: the same suspicion as for edits, and the limits.
    """
    remask = _suspects(window, threshold, max_changes)
    has_masks = window.is_masked.any(dim=-1)
    remask &= (has_masks | ~_is_last_post_step(window, max_post_steps))[:, None]
    return Decision(
        commit=commit,
        edit=torch.zeros_like(remask),
        remask=remask,
        is_settled=~has_masks & ~remask.any(dim=-1),
    )


def _suspects(window: Window, threshold: Float[Tensor, " B"], max_changes: Int[Tensor, " B"]) -> Bool[Tensor, "B W"]:
    """Drafts that may still change, and whose candidate is another token with confidence enough."""
    is_other = window.is_draft & (window.candidate_ids != window.token_ids)
    return is_other & (window.confidence >= threshold[:, None]) & (window.num_edits < max_changes[:, None])


def _is_last_post_step(window: Window, max_post_steps: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
    return window.num_post_steps + 1 >= max_post_steps


def renoise(
    window: Window, *, bound: Float[Tensor, " B"], settle_entropy: Float[Tensor, " B"], max_steps: Int[Tensor, " B"]
) -> Decision:
    """Accept positions by the entropy bound over the whole window and put fresh noise on all others.

    Accepted drafts take the new candidate if it differs; drafts that are no longer accepted become noise again. At the
    end (argmax unchanged for a step and mean entropy below ``settle_entropy``, or ``max_steps``) everything takes its
    argmax. Source: DiffusionGemma's sampler in transformers (2026); its bound on the entropy is EB-Sampler's
    (arXiv:2505.24857).
    """
    is_open = window.is_masked | window.is_draft
    mean_entropy = (window.entropy * is_open).sum(dim=-1) / is_open.sum(dim=-1).clamp(min=1)
    is_stable = ((window.argmax_ids == window.previous_argmax_ids) | ~is_open).all(dim=-1)
    is_settled = (is_stable & (mean_entropy < settle_entropy)) | (window.step + 1 >= max_steps)
    accept = entropy_bound(window.entropy, is_open, bound)
    sampled = Decision(
        commit=accept & window.is_masked,
        edit=accept & window.is_draft & (window.candidate_ids != window.token_ids),
        remask=~accept & window.is_draft,
        is_settled=is_settled,
    )
    return take_argmax(sampled, window, is_settled)


def take_argmax(decision: Decision, window: Window, where: Bool[Tensor, " B"]) -> Decision:
    """The decision, but in some rows everything that is open takes its argmax and is settled."""
    rows = where[:, None]
    return Decision(
        commit=torch.where(rows, window.is_masked, decision.commit),
        edit=torch.where(rows, window.is_draft & (window.argmax_ids != window.token_ids), decision.edit),
        remask=decision.remask & ~rows,
        is_settled=decision.is_settled | where,
        takes_argmax=where if decision.takes_argmax is None else decision.takes_argmax | where,
    )


def held_alpha(
    progress: Float[Tensor, " B"], start: Float[Tensor, " B"], stop: Float[Tensor, " B"], level: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Share of tokens kept at ``progress`` in [0, 1]: up to ``level``, flat from ``start`` to ``stop``, up to 1."""
    rising = level * progress / start.clamp(min=1e-12)
    ending = level + (1 - level) * (progress - stop) / (1 - stop).clamp(min=1e-12)
    return torch.where(progress < start, rising, torch.where(progress < stop, level, ending))


def remdm(
    window: Window,
    *,
    steps: Int[Tensor, " B"],
    eta: Float[Tensor, " B"],
    is_rescaled: Bool[Tensor, " B"],
    is_by_confidence: Bool[Tensor, " B"],
    is_looped: Bool[Tensor, " B"],
    loop_start: Float[Tensor, " B"],
    loop_stop: Float[Tensor, " B"],
    loop_alpha: Float[Tensor, " B"],
) -> Decision:
    """Ancestral sampling in ``steps`` steps in which drafts go back to the mask with probability sigma.

    From alpha_t to alpha_s a mask is unmasked with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), a draft
    is remasked with probability sigma, see ``remask_chance``. With the loop, alpha stays at ``loop_alpha`` between two
    points of the trajectory and remasking happens only there. The last step unmasks everything. Source: ReMDM, Wang et
    al. 2025, arXiv:2503.00307. Differs from it: a step in which no mask was drawn commits the most confident one.
    """
    now, after = window.step / steps, (window.step + 1) / steps
    loop = (loop_start, loop_stop, loop_alpha)
    alpha_t = torch.where(is_looped, held_alpha(now, *loop), now).double()[:, None]
    alpha_s = torch.where(is_looped, held_alpha(after, *loop), after).double()[:, None]
    may_remask = ~is_looped | ((now >= loop_start) & (now < loop_stop))
    is_last = window.step + 1 >= steps
    sigma = may_remask[:, None] * remask_chance(
        window, alpha_t, alpha_s, eta=eta, is_rescaled=is_rescaled, is_by_confidence=is_by_confidence
    )
    unmask = ((alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t).clamp(min=1e-12)).masked_fill(is_last[:, None], 1.0)
    key = (window.seed[:, None], window.positions, window.step[:, None])
    commit = window.is_masked & (draw(Purpose.UNMASK, *key) < unmask)
    commit |= first_best(window.confidence, window.is_masked) & ~commit.any(dim=-1, keepdim=True)
    remask = window.is_draft & (draw(Purpose.REMASK, *key) < sigma)
    return Decision(commit=commit, edit=torch.zeros_like(commit), remask=remask, is_settled=is_last)


def remask_chance(
    window: Window,
    alpha_t: Float[Tensor, "B 1"],
    alpha_s: Float[Tensor, "B 1"],
    *,
    eta: Float[Tensor, " B"],
    is_rescaled: Bool[Tensor, " B"],
    is_by_confidence: Bool[Tensor, " B"],
) -> Float[Tensor, "B W"]:
    """Probability with which a draft becomes a mask when the share of visible tokens goes from alpha_t to alpha_s.

    With sigma_max = min(1, (1 - alpha_s) / alpha_t): min(eta, sigma_max) (cap) or eta sigma_max (rescale), times
    softmax(-confidence at commit) over the drafts when by confidence. Source: ReMDM, arXiv:2503.00307.
    """
    sigma_max = ((1 - alpha_s) / alpha_t.clamp(min=1e-12)).clamp(min=0, max=1)
    sigma = torch.where(is_rescaled[:, None], eta[:, None] * sigma_max, torch.minimum(eta[:, None].double(), sigma_max))
    # A window without drafts gives softmax over nothing: NaN, replaced by zero.
    weight = torch.softmax((-window.commit_confidence.double()).masked_fill(~window.is_draft, -torch.inf), dim=-1)
    weight = torch.where(is_by_confidence[:, None], weight.nan_to_num(0.0), torch.ones_like(weight))
    return sigma * weight


def random_remasks(
    window: Window,
    commit: Bool[Tensor, "B W"],
    *,
    eta: Float[Tensor, " B"],
    is_rescaled: Bool[Tensor, " B"],
    is_by_confidence: Bool[Tensor, " B"],
    max_changes: Int[Tensor, " B"],
) -> Decision:
    """Remask drafts as ReMDM does, beside whatever commits masks.

    alpha is not a schedule's but the share of tokens that are visible before this step's commits and after them; so the
    step that commits the last mask remasks nothing.
    """
    num_open = (window.is_masked | window.is_draft).sum(dim=-1, keepdim=True).clamp(min=1).double()
    alpha_t = window.is_draft.sum(dim=-1, keepdim=True) / num_open
    alpha_s = alpha_t + commit.sum(dim=-1, keepdim=True) / num_open
    sigma = remask_chance(window, alpha_t, alpha_s, eta=eta, is_rescaled=is_rescaled, is_by_confidence=is_by_confidence)
    chance = draw(Purpose.REMASK, window.seed[:, None], window.positions, window.step[:, None])
    is_left = ~(commit | ~window.is_masked).all(dim=-1)
    # Sums of fractions may miss 1 by their last bit.
    remask = window.is_draft & (chance < sigma) & (window.num_edits < max_changes[:, None]) & is_left[:, None]
    return Decision(commit=commit, edit=torch.zeros_like(commit), remask=remask, is_settled=~is_left)
