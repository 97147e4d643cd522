"""Which parts of its forward passes a model can be spared, found by trying them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from torch import nn

from skgate.activations._forward import PLAIN, Shortcuts, read_batch
from skgate.activations._prefix import compute_prefix, is_worthwhile, reason_against, shared_length
from skgate.model._batching import widest_pair
from skgate.model._rope import length_boundaries
from skgate.model._trials import differ, is_exact, note_verdict, verdict

if TYPE_CHECKING:
    from skgate.activations._forward import Rows
    from skgate.activations._transformer import Request
    from skgate.model._loading import LanguageModel

_FEED_FORWARD = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
# A trial runs four prompts; narrowing saves about this share of a block's work.
_PROMPTS_PER_TRIAL = 4
_SHARE_SAVED = 0.7


def find_shortcuts(
    language_model: LanguageModel,
    requests: Sequence[Request],
    layers: Sequence[int],
    report: Callable[[str], None] = lambda message: None,
) -> Shortcuts:
    """Find what the forward passes of ``requests`` can do without, where that saves work.

    In the deepest of ``layers``, the feed-forward part needs only the tokens that are read. The
    tokens that all requests begin with need to run only once. Whether the model gives the same
    activations then is tried once per model, the latter once per depth, on the longest and the
    shortest request.

    Parameters
    ----------
    language_model : LanguageModel
        The model.
    requests : sequence of Request
        Token ids, and the token to read or None for the mean over all.
    layers : sequence of int
        The blocks to read.
    report : callable, optional
        Told why a shortcut is not taken where the model is to blame.

    Returns
    -------
    shortcuts : Shortcuts
        For :func:`read_batch` with any of the requests.
    """
    if not requests:
        return PLAIN
    trial = _Trial(language_model, requests, layers)
    kind = type(language_model.backbone).__name__
    shortcuts = PLAIN

    deepest = language_model.blocks[max(layers)]
    part = find_feed_forward(deepest)
    if part is not None and requests[0].index is not None:
        names = "narrow", type(deepest).__qualname__, type(part).__qualname__
        saved = _SHARE_SAVED * len(requests) / (max(layers) + 1)
        if verdict(language_model.backbone, *names) is not None or saved >= _PROMPTS_PER_TRIAL:
            narrowed = Shortcuts(feed_forward=part)
            reason = trial.settle(lambda: narrowed, *names)
            if reason:
                report(
                    f"the feed-forward part of block {max(layers)} of {kind} runs on all tokens: "
                    f"{reason}"
                )
            else:
                shortcuts = narrowed

    length = shared_length(requests)
    if is_worthwhile(length, len(requests), language_model.input_device):
        prefixed: list[Shortcuts] = []

        def add_prefix() -> Shortcuts:
            prefix = compute_prefix(language_model, requests[0].ids[:length], layers)
            prefixed.append(shortcuts._replace(prefix=prefix))
            return prefixed[0]

        reason = reason_against(language_model)
        # what follows a token may change it one block later
        reason = reason or trial.settle(add_prefix, "prefix", str(max(layers)))
        if reason:
            report(
                f"the {length} tokens that all prompts begin with are not reused with {kind}: "
                f"{reason}"
            )
        else:
            shortcuts = prefixed[0]
    return shortcuts


def find_feed_forward(block: nn.Module) -> nn.Module | None:
    """Find the part of a block that follows attention and treats every token by itself."""
    parts = [getattr(block, name, None) for name in _FEED_FORWARD]
    return next((part for part in parts if isinstance(part, nn.Module)), None)


class _Trial:
    """Compares the longest and the shortest request with plain passes of their own.

    Of those that may be in one batch.
    """

    def __init__(
        self, language_model: LanguageModel, requests: Sequence[Request], layers: Sequence[int]
    ) -> None:
        self.language_model = language_model
        self.layers = layers
        boundaries = length_boundaries(language_model.backbone.config)
        pair = widest_pair([len(request.ids) for request in requests], boundaries)
        self.pair = [requests[i] for i in pair]

    def settle(self, make: Callable[[], Shortcuts], *names: str) -> str:
        """Make shortcuts and try them unless that was done before; the reason against, or ""."""
        backbone = self.language_model.backbone
        reason = verdict(backbone, *names)
        if reason:
            return reason
        try:
            shortcuts = make()
            if reason is None:
                reason = self._compare(shortcuts)
                # without padding nothing is known about padding
                if reason or len(self.pair[0].ids) > len(self.pair[1].ids):
                    note_verdict(backbone, *names, reason=reason)
        except Exception as error:  # whatever an architecture raises: plain passes will do
            reason = f"{type(error).__name__}: {error}"
            note_verdict(backbone, *names, reason=reason)
        return reason

    @cached_property
    def _alone(self) -> list[Rows]:
        return [read_batch(self.language_model, [request], self.layers) for request in self.pair]

    def _compare(self, shortcuts: Shortcuts) -> str:
        actual = read_batch(self.language_model, self.pair, self.layers, shortcuts)
        exact = is_exact(self.language_model.backbone)
        if any(
            differ(actual[layer][j], rows[layer][0], exact)
            for j, rows in enumerate(self._alone)
            for layer in self.layers
        ):
            return "it gives other activations that way"
        return ""
