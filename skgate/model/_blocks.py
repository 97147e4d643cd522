"""Find the blocks of a model's text part, whose outputs are the residual stream."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_OTHER_MODALITIES = ("vision", "visual", "audio", "speech", "image")


def named_text_modules(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Name the modules of a model, except those of its parts for images and sound.

    Of a list of modules only the first is gone into, as the others are like it.
    """
    yield name, module
    children = list(module.named_children())
    for child_name, child in children[:1] if isinstance(module, nn.ModuleList) else children:
        if not any(word in child_name for word in _OTHER_MODALITIES):
            yield from named_text_modules(child, f"{name}.{child_name}" if name else child_name)


def list_modules(module: nn.Module) -> list[nn.Module]:
    """List a module and all inside it as ``modules()`` does, several times as fast."""
    found: dict[nn.Module, None] = {}
    pending: list[nn.Module | None] = [module]
    while pending:
        one = pending.pop()
        if one is not None and one not in found:
            found[one] = None
            pending += reversed(one._modules.values())  # noqa: SLF001  (torch: no public way)
    return list(found)


def find_blocks(backbone: nn.Module, n_layers: int) -> tuple[nn.Module, nn.ModuleList]:
    """Find the outermost list of ``n_layers`` modules of the text model, and its owner."""
    lists: list[tuple[str, nn.ModuleList]] = [
        (name, module)
        for name, module in named_text_modules(backbone)
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not lists:
        raise ValueError(
            f"Got a {type(backbone).__name__} without a list of num_hidden_layers={n_layers} "
            "blocks, expected one module per layer."
        )
    name, blocks = min(
        lists, key=lambda found: ("language_model" not in found[0], found[0].count("."))
    )
    first: dict[nn.Module, int] = {}
    for i, block in enumerate(blocks):
        if first.setdefault(block, i) != i:
            raise ValueError(
                f"Got a {type(backbone).__name__} whose layers {first[block]} and {i} are the same "
                "block, expected a separate block for each layer, as copy.deepcopy makes. A hook "
                "can't tell the runs of one block apart."
            )
    return backbone.get_submodule(name.rpartition(".")[0]), blocks
