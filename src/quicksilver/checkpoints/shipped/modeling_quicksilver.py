"""A diffusion language model exported by Quicksilver, for ``AutoModelForMaskedLM`` with ``trust_remote_code=True``.

Needs transformers alone. Row i of the logits is about token i. Every position sees every other one, or, where
``block_ids`` are given or the model knows no other layout, those of its own block and of earlier ones.
"""

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, Qwen3Config
from transformers.modeling_outputs import MaskedLMOutput


class QuicksilverForMaskedLM(PreTrainedModel):
    """The layers of ``config.model_type`` under a diffusion model's attention."""

    base_model_prefix = "model"
    config_class = Qwen3Config
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  # the library's own
    _supports_sdpa = True

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__(config)
        self.model = AutoModel.from_config(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        block_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool = True,  # the library's own name and order
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """Logits of every position.

        Args:
            input_ids: token ids [B, L], masks where something is to be found.
            attention_mask: 1 where there is a token, 0 at padding [B, L]; None: no padding.
            position_ids: as the layers take them.
            block_ids: number of each position's block [B, L], never falling; None: see the module.
            labels: token ids [B, L], -100 where nothing is to be learnt; the mean loss comes with the logits.
            return_dict: as everywhere in transformers.
        """
        seen = self._seen(input_ids, block_ids)
        if attention_mask is not None:
            # A padded position sees itself, or its softmax would be over nothing.
            itself = torch.eye(seen.shape[-1], dtype=torch.bool, device=seen.device)
            seen = (seen & attention_mask[:, None, :].bool()) | itself
        dtype = self.model.embed_tokens.weight.dtype
        bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
        hidden = self.model(input_ids, attention_mask=bias[:, None], position_ids=position_ids, use_cache=False)[0]
        logits = self.lm_head(hidden)
        if self.config.quicksilver["prediction_shift"]:
            logits = torch.cat([torch.zeros_like(logits[:, :1]), logits[:, :-1]], dim=1)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        if not return_dict:
            return (logits,) if loss is None else (loss, logits)
        return MaskedLMOutput(loss=loss, logits=logits)

    def _seen(self, input_ids: Tensor, block_ids: Tensor | None) -> Tensor:
        blocks = self._own_blocks(input_ids) if block_ids is None else block_ids
        return blocks[:, :, None] >= blocks[:, None, :]

    def _own_blocks(self, input_ids: Tensor) -> Tensor:
        spec, index = self.config.quicksilver, torch.arange(input_ids.shape[1], device=input_ids.device)
        is_whole = "in_place" in spec["layouts"]
        return (torch.zeros_like(index) if is_whole else index // spec["block_length"]).expand_as(input_ids)
