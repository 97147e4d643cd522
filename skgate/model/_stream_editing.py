"""Hooks that edit the residual stream of a running model, by what they read in the prompts.

Each hook only acts on forward passes of the thread that set it. It is removed when its context
ends, even by an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from skgate.model._residual_stream import (
    HARMLESS_HOOK_MODULES,
    acts,
    check_shape,
    hidden_of,
    innermost,
    select_tokens,
)

if TYPE_CHECKING:
    pass


class Edit(NamedTuple):
    """Changes to the rows of a batch along a unit direction ``v``.

    Attributes
    ----------
    add : Tensor of shape (n_rows,)
        Amount to add along ``v``, at the final prompt token and at each generated token.
    ablate : Tensor of shape (n_rows,)
        Share of the component along ``v`` to remove, at each token.
    """

    add: torch.Tensor
    ablate: torch.Tensor


Route = Callable[[torch.Tensor], Edit]


@contextmanager
def steer_block(
    stack: nn.Module,
    blocks: nn.ModuleList,
    layers: Sequence[int],
    direction: torch.Tensor,
    route: Route,
    *,
    offsets: Sequence[int | torch.Tensor | None] = (0,),
    mask: torch.Tensor | None = None,
    generating: bool = True,
) -> Iterator[None]:
    """Read the prompts' rows in the prefill, and edit the deepest block's output from then on.

    Inside the context, this thread's first forward pass of ``stack`` is the prefill. ``route``
    gets the blocks' outputs for the prompts, before any edit, and returns the edit of each row. The
    edits are reused in the following forward passes, each of which must add one token
    (``generating``). The output ``h`` of the deepest block that is read becomes
    ``h + add v - ablate (h.v) v``, computed in float32.

    Parameters
    ----------
    stack : torch.nn.Module
        The part of the model that runs its blocks.
    blocks : torch.nn.ModuleList
        The blocks of ``stack``.
    layers : sequence of int
        0-based blocks whose outputs are read, in any order. That of the deepest one is edited.
    direction : Tensor of shape (d,)
        The unit direction ``v``.
    route : callable
        Takes the prompts' activations, a float32 Tensor of shape (n_rows, n_layers * n_offsets *
        d): for each layer, those at each offset. Returns an :class:`Edit`.
    offsets : sequence of int, Tensor of shape (n_prompts,) or None, default=(0,)
        The tokens to read, counted from each prompt's last one (0 or negative); None for the mean
        over the prompt's tokens.
    mask : Tensor of shape (n_prompts, n_tokens) or None, default=None
        1 at the prompts' tokens and 0 at the padding of the first forward pass. It is used where
        that pass gets its mask in a form of its own, as with a static cache. None if it is not
        known.
    generating : bool, default=True
        Whether tokens are generated after the prompts. If False, there is a single forward pass.

    Raises
    ------
    RuntimeError
        If the forward passes are not the whole prompts followed by one token at a time, or if
        a block's hook never fires. Text is never silently left unsteered.
    """
    steering = _Steering(layers, direction, route, offsets, mask, generating)
    *earlier, deepest = sorted(layers)
    signature = inspect.signature(stack.forward)

    # Without ``kwargs`` it is called in a thread that was about to call it when it was removed.
    def before(module: nn.Module, args: Any, kwargs: Any = None) -> None:
        if acts(steering):
            given = signature.bind_partial(*args, **kwargs).arguments
            steering.begin({**given, **given.get("kwargs", {})})

    def make_hook(layer: int) -> Any:
        def read(module: nn.Module, args: Any, output: Any) -> None:
            if acts(steering):
                steering.read(layer, hidden_of(output))

        return read

    def edit(module: nn.Module, args: Any, output: Any) -> Any:
        if not acts(steering):
            return None
        return _replace_hidden(output, steering.edit(hidden_of(output)))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if acts(steering):
            steering.check_fired()

    with ExitStack() as hooks:
        for handle in (
            stack.register_forward_pre_hook(before, with_kwargs=True),
            *(blocks[layer].register_forward_hook(make_hook(layer)) for layer in earlier),
            blocks[deepest].register_forward_hook(edit, prepend=_only_captured(blocks[deepest])),
            stack.register_forward_hook(after),
        ):
            hooks.callback(handle.remove)
        hooks.enter_context(innermost(steering))
        yield
        steering.check_fired()


@contextmanager
def shift_block(block: nn.Module, shifts: torch.Tensor, first: int) -> Iterator[None]:
    """Add a vector to each row of a block's output, from a token on.

    Parameters
    ----------
    block : torch.nn.Module
        The block.
    shifts : Tensor of shape (n_rows, d)
        What to add.
    first : int
        Column of the first token to move, in every forward pass.
    """
    user = object()

    def shift(module: nn.Module, args: Any, output: Any) -> Any:
        if not acts(user):
            return None
        hidden = hidden_of(output)
        wide = hidden.float()
        moved = wide[:, first:] + shifts[:, None].to(hidden.device, torch.float32)
        return _replace_hidden(output, torch.cat([wide[:, :first], moved], 1).to(hidden.dtype))

    handle = block.register_forward_hook(shift, prepend=_only_captured(block))
    try:
        with innermost(user):
            yield
    finally:
        handle.remove()


def _replace_hidden(output: Any, hidden: torch.Tensor) -> Any:
    """Put another residual stream into what a block returns."""
    if isinstance(output, tuple | list):
        return type(output)((hidden, *output[1:]))
    return hidden


_EXPECTED_PASSES = (
    "Steering needs the whole prompt first, then one token at a time. Chunked prefill, assisted "
    "decoding and other methods that run the model differently are not supported."
)


class _Pass(NamedTuple):
    """The tokens that a forward pass covers: columns ``start`` to ``stop`` of every row."""

    n_rows: int
    start: int
    stop: int
    cache: object  # the keys and values of the tokens before ``start``; None without
    mask: torch.Tensor | None  # (n_rows, stop), 1 at real tokens; None if not known
    masked: bool  # whether a mask of any kind was given

    @classmethod
    def of(cls, given: dict[str, Any], previous: _Pass | None) -> _Pass:
        """Describe the pass that these arguments of the stack request after the previous one."""
        tokens = _first_given(given, "input_ids", "inputs_embeds", "hidden_states")
        if tokens is None:
            raise RuntimeError(
                "Got a model whose blocks receive neither input_ids nor inputs_embeds nor "
                "hidden_states; this architecture can't be steered."
            )
        cache = _first_given(given, "past_key_values", "cache_params", "state")
        start = _count_cached(cache, previous)
        given_mask = given.get("attention_mask")
        known = isinstance(given_mask, torch.Tensor) and given_mask.dim() == 2
        return cls(
            n_rows=tokens.shape[0],
            start=start,
            stop=start + tokens.shape[1],
            cache=cache,
            mask=given_mask if known else None,  # else it is prepared for attention already
            masked=given_mask is not None,
        )


def _first_given(given: dict[str, Any], *names: str) -> Any:
    return next((given[name] for name in names if given.get(name) is not None), None)


def _count_cached(cache: Any, previous: _Pass | None) -> int:
    """Count the tokens that a cache holds. One of recurrent states alone doesn't know by itself."""
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        with suppress(ValueError):  # transformers': it has no layers of attention
            return int(cache.get_seq_length())
    if not callable(getattr(cache, "has_previous_state", None)):
        raise RuntimeError(
            f"Got a cache of type {type(cache).__name__}, which does not tell how many tokens it "
            "holds; this architecture can only be steered with use_cache=False."
        )
    if not cache.has_previous_state():
        return 0
    if previous is None or cache is not previous.cache:
        raise RuntimeError(
            "Got a cache of tokens that were not steered, expected generation to start from the "
            "whole prompt."
        )
    return previous.stop


class _Prompts(NamedTuple):
    """Where the prompts are in the prefill, and which of their tokens are read."""

    mask: torch.Tensor  # (n_rows, n_tokens), 1 at real tokens
    last: torch.Tensor  # (n_rows,), column of every row's final prompt token
    indices: list[torch.Tensor | None]  # columns of the tokens; None for the mean


class _Routed(NamedTuple):
    """The decisions of the prefill."""

    edit: Edit
    last: torch.Tensor  # (n_rows,), column of every row's final prompt token
    stop: int  # the column after the prompts
    idle: bool  # whether no row is edited at all


class _Steering:
    """The state of one steered generation, or of one steered forward pass."""

    def __init__(
        self,
        layers: Sequence[int],
        direction: torch.Tensor,
        route: Route,
        offsets: Sequence[int | torch.Tensor | None],
        mask: torch.Tensor | None,
        generating: bool,
    ) -> None:
        self.layers = layers
        self.mask = mask
        self.direction = direction
        self.route = route
        self.offsets = offsets
        self.generating = generating
        self.current: _Pass | None = None
        self.fired = False
        self.prompts: _Prompts | None = None
        self.rows: dict[int, torch.Tensor] = {}  # (n_rows, n_offsets, d) per layer
        self.routed: _Routed | None = None

    def begin(self, given: dict[str, Any]) -> None:
        """Start a forward pass; raise an error if it can't be steered after the previous one."""
        previous = self.current
        self.current = current = _Pass.of(given, previous)
        self.fired = False
        if previous is None:
            if current.start:
                raise RuntimeError(
                    f"Got past_key_values with {current.start} tokens that were not steered, "
                    "expected generation to start from the whole prompt. A loop of forward passes "
                    "can't be steered; use generate()."
                )
            if self.mask is not None and self.mask.shape[1] != current.stop:
                raise RuntimeError(
                    f"Got a first forward pass over {current.stop} tokens, expected the "
                    f"{self.mask.shape[1]} of the prompts. {_EXPECTED_PASSES}"
                )
            return
        follows = current.stop == previous.stop + 1 and current.start in (0, previous.stop)
        same = current.n_rows == previous.n_rows and current.cache is previous.cache
        if not (self.generating and follows and same):
            raise RuntimeError(
                f"Got a forward pass over tokens {current.start} to {current.stop} of "
                f"{current.n_rows} rows after one of {previous.n_rows} rows that ended at "
                f"{previous.stop}. {_EXPECTED_PASSES}"
            )

    def read(self, layer: int, hidden: torch.Tensor) -> None:
        """Read the prompts' rows from a block's output, of shape (n_rows, n_tokens, d)."""
        current = self._check(hidden)
        if self.routed is None:
            if self.prompts is None:
                self.prompts = self._find_prompts(current, hidden.device)
            mask, _, indices = self.prompts
            self.rows[layer] = select_tokens(hidden.detach(), mask, indices)

    def edit(self, hidden: torch.Tensor) -> torch.Tensor:
        """Edit the deepest block's output, of shape (n_rows, n_tokens, d); route the rows first."""
        current = self._check(hidden)
        self.fired = True
        if self.routed is None:
            self.read(max(self.layers), hidden)
            self.routed = self._route(current, hidden.device)
            self.direction = self.direction.to(hidden.device, torch.float32)
        (add, ablate), last, prompt_stop, idle = self.routed
        if idle:
            return hidden
        amount = add[:, None]
        if current.start < prompt_stop:
            columns = torch.arange(current.start, current.stop, device=hidden.device)
            amount = amount * ((columns == last[:, None]) | (columns >= prompt_stop))
        wide = hidden.float()
        amount = amount - ablate[:, None] * (wide @ self.direction)
        return (wide + amount[..., None] * self.direction).to(hidden.dtype)

    def check_fired(self) -> None:
        """Raise an error if a forward pass skipped the steered block."""
        if not self.fired:
            raise _never_fired("the steered block")

    def _check(self, hidden: torch.Tensor) -> _Pass:
        """Raise an error for a block's output of another shape than that of the current pass."""
        if self.current is None:
            raise RuntimeError("The steered block ran outside its model.")
        check_shape(hidden, (self.current.n_rows, self.current.stop - self.current.start))
        return self.current

    def _find_prompts(self, prompts: _Pass, device: torch.device) -> _Prompts:
        """Find each row's final prompt token, and the tokens to read."""
        mask = prompts.mask
        if mask is None and self.mask is not None:  # beams and several return sequences repeat it
            mask = self.mask.repeat_interleave(prompts.n_rows // len(self.mask), dim=0)
        if mask is None:
            elsewhere = any(  # (tensors are checked)
                offset is None or (isinstance(offset, int) and offset < 0)
                for offset in self.offsets
            )
            if prompts.masked and (elsewhere or not self.generating):
                raise RuntimeError(
                    "Got an attention_mask that is not of shape (n_prompts, n_tokens), expected "
                    "one that distinguishes prompts from padding."
                )
            mask = torch.ones(prompts.n_rows, prompts.stop, dtype=torch.int64)
        mask = mask.to(device, torch.int64)
        last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
        indices = [None if o is None else _find_columns(o, last, mask) for o in self.offsets]
        return _Prompts(mask, last, indices)

    def _route(self, prompts: _Pass, device: torch.device) -> _Routed:
        """Get the edits of the rows, which have been read at every layer."""
        missing = sorted(set(self.layers) - set(self.rows))
        if missing or self.prompts is None:
            raise _never_fired(f"the blocks {missing}, which the gate reads,")
        rows = torch.cat([self.rows[layer].flatten(1).cpu() for layer in self.layers], dim=1)
        edit = self.route(rows)
        idle = not any(bool(part.any()) for part in edit)
        on_device = Edit(*(part.to(device, torch.float32) for part in edit))
        return _Routed(on_device, self.prompts.last.to(device), prompts.stop, idle)


def _find_columns(
    offset: int | torch.Tensor, last: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Find the column of a token that is counted from every row's last one."""
    offset = torch.as_tensor(offset, device=last.device)
    if offset.dim():  # beams and several return sequences repeat every prompt
        offset = offset.repeat_interleave(len(last) // len(offset))
    index = last + offset
    if (index < 0).any() or not mask.gather(1, index[:, None]).all():
        raise RuntimeError(
            "Got a prompt that is too short for the gate's position, expected the position to lie "
            "within every prompt."
        )
    return index


def _never_fired(which: str) -> RuntimeError:
    return RuntimeError(
        f"The model ran, but the hooks of {which} never fired. Compiled models ignore hooks; pass "
        "the model as it was before torch.compile."
    )


def _only_captured(block: nn.Module) -> bool:
    """Whether all hooks on a block's output are those that return ``output_hidden_states``.

    These are to see the output as the next block gets it. Other hooks come before ours.
    """
    hooks = block._forward_hooks.values()  # noqa: SLF001  (torch: no public way)
    return all(getattr(hook, "__module__", None) in HARMLESS_HOOK_MODULES for hook in hooks)
