"""Hooks that read and edit the residual stream of a running model. skgate has no others.

Each hook only acts on forward passes of the thread that set it. It is removed when its context
ends, even by an error.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from skgate.model._blocks import list_modules

if TYPE_CHECKING:
    from transformers import Cache

_HARMLESS_HOOK_MODULES = (__name__, "transformers.utils.output_capturing")


class _Stop(Exception):  # noqa: N818  (not an error: everything wanted has been read)
    """Ends a forward pass after the deepest block that is read."""


@torch.no_grad()
def read_blocks(
    backbone: nn.Module,
    blocks: nn.ModuleList,
    layers: Sequence[int],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    indices: Sequence[torch.Tensor | None],
    *,
    past_key_values: Cache | None = None,
    feed_forward: nn.Module | None = None,
) -> dict[int, torch.Tensor]:
    """Run one batch up to the deepest of ``layers``; read some tokens of each prompt and layer.

    Parameters
    ----------
    backbone : torch.nn.Module
        The model without its head.
    blocks : torch.nn.ModuleList
        The backbone's blocks.
    layers : sequence of int
        0-based blocks whose outputs are read (before the final norm).
    input_ids, attention_mask : Tensor of shape (n_prompts, n_tokens)
        Right-padded prompts.
    indices : sequence of Tensor of shape (n_prompts,) or None
        The tokens to read in each prompt; None for the mean over the unmasked tokens.
    past_key_values : Cache or None, default=None
        Keys and values of tokens before each prompt. Those of the prompts are added to it.
    feed_forward : torch.nn.Module or None, default=None
        The feed-forward part of the deepest block, if a single token is read. If given, it only
        gets that token of each prompt: (n_prompts, 1, d) instead of (n_prompts, n_tokens, d). The
        residual connection broadcasts its output to all tokens, and is correct at the one that is
        read.

    Returns
    -------
    rows : dict of int to Tensor of shape (n_prompts, n_indices, d)
        float32, on the CPU.

    Raises
    ------
    RuntimeError
        If the hook of a block never fires, as in a compiled model.
    """
    deepest = max(layers)
    rows: dict[int, torch.Tensor] = {}
    owner = threading.get_ident()

    def make_hook(layer: int) -> Any:
        def read(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() != owner:
                return
            hidden = _hidden_of(output)
            _check_shape(hidden, attention_mask.shape)
            rows[layer] = _select(hidden, attention_mask, indices)  # a copy, which frees the rest
            if layer == deepest:
                raise _Stop

        return read

    def narrow(module: nn.Module, args: Any) -> Any:
        if threading.get_ident() != owner or not args:
            return None
        (index,), (hidden, *others) = indices, args
        if index is None or hidden.shape[:2] != attention_mask.shape:
            return None  # (all prompts' tokens may be in one dimension)
        return _pick(hidden, index)[:, None], *others

    handles = [blocks[layer].register_forward_hook(make_hook(layer)) for layer in layers]
    if feed_forward is not None:
        handles.append(feed_forward.register_forward_pre_hook(narrow))
    try:
        with eval_mode(backbone), _innermost(rows):
            backbone(input_ids=input_ids, **_options(backbone, attention_mask, past_key_values))
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
    missing = sorted(set(layers) - set(rows))
    if missing:
        raise RuntimeError(
            f"Got no activations at layer {missing} of {type(backbone).__name__}: the hooks never "
            "fired. Compiled blocks ignore hooks; pass the model as it was before torch.compile."
        )
    return {layer: row.cpu() for layer, row in rows.items()}


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

_running = threading.local()


@contextmanager
def _innermost(user: object) -> Iterator[None]:
    """Let only the hooks of ``user`` act in this thread, except inside nested contexts."""
    stack: list[object] = _running.__dict__.setdefault("stack", [])
    stack.append(user)
    try:
        yield
    finally:
        stack.pop()


def _acts(user: object) -> bool:
    stack: list[object] = _running.__dict__.get("stack", [])
    return bool(stack) and stack[-1] is user


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
        if _acts(steering):
            given = signature.bind_partial(*args, **kwargs).arguments
            steering.begin({**given, **given.get("kwargs", {})})

    def make_hook(layer: int) -> Any:
        def read(module: nn.Module, args: Any, output: Any) -> None:
            if _acts(steering):
                steering.read(layer, _hidden_of(output))

        return read

    def edit(module: nn.Module, args: Any, output: Any) -> Any:
        if not _acts(steering):
            return None
        edited = steering.edit(_hidden_of(output))
        if isinstance(output, tuple | list):
            return type(output)((edited, *output[1:]))
        return edited

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if _acts(steering):
            steering.check_fired()

    with ExitStack() as hooks:
        for handle in (
            stack.register_forward_pre_hook(before, with_kwargs=True),
            *(blocks[layer].register_forward_hook(make_hook(layer)) for layer in earlier),
            blocks[deepest].register_forward_hook(edit, prepend=_only_captured(blocks[deepest])),
            stack.register_forward_hook(after),
        ):
            hooks.callback(handle.remove)
        hooks.enter_context(_innermost(steering))
        yield
        steering.check_fired()


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
            self.rows[layer] = _select(hidden.detach(), mask, indices)

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
        _check_shape(hidden, (self.current.n_rows, self.current.stop - self.current.start))
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
    return all(getattr(hook, "__module__", None) in _HARMLESS_HOOK_MODULES for hook in hooks)


def is_edited(module: nn.Module) -> bool:
    """Whether something may edit what ``module`` computes without changing its fingerprints.

    That is: forward hooks of others, a ``forward`` replaced on an object (except by accelerate),
    parametrizations, or autocast.
    """
    if any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")):
        return True
    registries: list[Any] = [
        torch_module._global_forward_hooks,  # noqa: SLF001  (torch: no public way)
        torch_module._global_forward_pre_hooks,  # noqa: SLF001
    ]
    for child in list_modules(module):
        if "forward" in child.__dict__ and not hasattr(child, "_hf_hook"):
            return True
        if child._modules.get("parametrizations"):  # noqa: SLF001  (is_parametrized is slow)
            return True
        # Torch has no public way to list hooks; None and empty dicts are left out.
        registries += filter(None, (child._forward_hooks, child._forward_pre_hooks))  # noqa: SLF001
    return any(
        getattr(hook, "__module__", None) not in _HARMLESS_HOOK_MODULES
        for hooks in registries
        for hook in hooks.values()
    )


def _hidden_of(output: Any) -> torch.Tensor:
    """Find the residual stream in what a block returns, perhaps with attention weights."""
    hidden = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(hidden, torch.Tensor):
        raise RuntimeError(
            f"Got a block that returns {type(hidden).__name__}, expected a Tensor, alone or first "
            "in a tuple or list. This architecture is not supported."
        )
    return hidden


def _check_shape(hidden: torch.Tensor, expected: Sequence[int]) -> None:
    n_prompts, n_tokens = expected
    if hidden.dim() != 3:
        raise RuntimeError(
            f"Got a block's output of shape {tuple(hidden.shape)}, expected ({n_prompts}, "
            f"{n_tokens}, d): prompts, tokens, and one vector for each token. Architectures with "
            "several residual streams, or without one, are not supported."
        )
    if tuple(hidden.shape[:2]) != (n_prompts, n_tokens):
        raise RuntimeError(
            f"Got a block's output of shape {tuple(hidden.shape)}, expected ({n_prompts}, "
            f"{n_tokens}) prompts and tokens first. Models whose blocks use another order are not "
            "supported."
        )


def _select(
    hidden: torch.Tensor, attention_mask: torch.Tensor, indices: Sequence[torch.Tensor | None]
) -> torch.Tensor:
    """Read some tokens of each prompt, or their mean, shape (n_prompts, n_indices, d)."""
    rows = [
        _average(hidden, attention_mask) if index is None else _pick(hidden, index).float()
        for index in indices
    ]
    return torch.stack(rows, dim=1)


def _average(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Average over the unmasked tokens of each prompt, shape (n_prompts, d)."""
    weight = attention_mask.to(hidden.device, torch.float32)
    total = torch.einsum("nt,ntd->nd", weight, hidden.float())
    return total / weight.sum(1, keepdim=True)


def _pick(hidden: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Pick one token of each prompt, shape (n_prompts, d)."""
    return hidden[torch.arange(len(hidden), device=hidden.device), index.to(hidden.device)]


def _options(
    backbone: nn.Module, attention_mask: torch.Tensor, past_key_values: Cache | None
) -> dict[str, Any]:
    """Choose the arguments of a forward pass, as far as the backbone accepts them.

    They continue from given keys and values, and switch off outputs that are not needed.
    """
    wanted: dict[str, Any] = {
        "attention_mask": attention_mask,
        "use_cache": past_key_values is not None,
        "output_hidden_states": False,
        "output_attentions": False,
    }
    if past_key_values is not None:
        n_prompts, n_tokens = attention_mask.shape
        n_past = past_key_values.get_seq_length()
        positions = torch.arange(n_past, n_past + n_tokens, device=attention_mask.device)
        wanted |= {
            "attention_mask": torch.cat(
                [attention_mask.new_ones(n_prompts, n_past), attention_mask], dim=1
            ),
            "past_key_values": past_key_values,
            "position_ids": positions.expand(n_prompts, n_tokens),
        }
    parameters = inspect.signature(backbone.forward).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return wanted
    return {name: value for name, value in wanted.items() if name in parameters}


_in_eval: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = WeakKeyDictionary()
_in_eval_lock = threading.Lock()


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout off; restore all training flags when the last thread is done."""
    with _in_eval_lock:
        users, training = _in_eval.get(module, (0, []))
        training = training + [child for child in list_modules(module) if child.training]
        for child in training:
            child.training = False
        _in_eval[module] = (users + 1, training)
    try:
        yield
    finally:
        with _in_eval_lock:
            users, training = _in_eval.pop(module)
            if users > 1:
                _in_eval[module] = (users - 1, training)
            else:
                for child in training:
                    child.training = True
