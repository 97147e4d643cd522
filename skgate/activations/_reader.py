"""The parameters of an ActivationTransformer, resolved: the loaded model and the layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from skgate._provenance import ActivationSource, list_places
from skgate._validation import check_layers, check_positions
from skgate.model._fingerprint import fingerprint_tokenizer
from skgate.model._loading import LanguageModel, open_language_model
from skgate.model._prompts import PromptFormat, Request, encode_prompts
from skgate.model._templates import check_template_date
from skgate.model._watch import Fingerprints, fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skgate._messages import Prompt


class Readable(Protocol):
    """The parameters of an :class:`ActivationTransformer` that decide what is read."""

    model: Any
    layer: Any
    position: str | int | Sequence[str | int]
    tokenizer: Any
    chat_template: bool
    system_prompt: str | None
    chat_template_kwargs: Mapping[str, Any] | None
    truncate: bool
    template_date: str
    dtype: Any
    device: Any
    revision: str | None
    model_kwargs: Mapping[str, Any] | None
    verify: str


@dataclass(frozen=True)
class PromptReader:
    """A loaded model, and what is read from it: prompt format, layers, token positions.

    Attributes
    ----------
    language_model : LanguageModel
        The model and its parts.
    prompt_format : PromptFormat
        How prompts become text.
    layers : tuple of int
        0-based blocks to read, in the order in which they were given.
    positions : tuple of str or int
        The tokens to read: "last", "instruction", "mean" or negative ints, in the order given.
    verify : {"fast", "full"}
        Whether calls take a cheap look for edits of the model, or read all of its weights.
    """

    language_model: LanguageModel
    prompt_format: PromptFormat
    layers: tuple[int, ...]
    positions: tuple[str | int, ...]
    verify: str

    @property
    def places(self) -> list[tuple[int, str | int]]:
        """The (layer, position) pairs read, in the order of their columns."""
        return list_places(self.layers, self.positions)

    def encode(self, prompts: Sequence[Prompt]) -> list[Request]:
        """Format and tokenize checked prompts.

        Parameters
        ----------
        prompts : sequence of str or list of dict
            Prompts, as :func:`skgate._validation.check_prompts` returns them.

        Returns
        -------
        requests : list of Request
            One per prompt, in the same order.
        """
        return encode_prompts(
            self.language_model.tokenizer,
            prompts,
            self.prompt_format,
            positions=self.positions,
            max_length=self.language_model.max_length,
        )

    def fingerprint(self, *, full: bool = False) -> Fingerprints:
        """Fingerprint the model: weights, and everything besides them.

        Parameters
        ----------
        full : bool, default=False
            Whether to read all weights whatever ``verify`` says.

        Returns
        -------
        fingerprints : Fingerprints
            As :func:`skgate.model._watch.fingerprint` returns them.
        """
        return fingerprint(self.language_model.backbone, full=full or self.verify == "full")

    def source(self, found: Fingerprints | None = None) -> ActivationSource:
        """Describe what is read from the model.

        Parameters
        ----------
        found : Fingerprints or None, default=None
            The model's fingerprints, if they were just taken.

        Returns
        -------
        source : ActivationSource
            What a gate fitted on the activations depends on.
        """
        found, tokenizer = found or self.fingerprint(), self.language_model.tokenizer
        return ActivationSource(
            model=self.language_model.name,
            weights=found.weights,
            tokenizer=fingerprint_tokenizer(tokenizer),
            template=self.prompt_format.fingerprint(tokenizer),
            layer=self.layers,
            position=self.positions if len(self.positions) > 1 else self.positions[0],
            settings=found.structure.settings,
            date=self.prompt_format.date(tokenizer),
        )


def open_reader(transformer: Readable) -> PromptReader:
    """Load the model of an ActivationTransformer and resolve what it reads.

    Parameters
    ----------
    transformer : ActivationTransformer
        The estimator; its parameters must have been validated.

    Returns
    -------
    reader : PromptReader
        The loaded model, the prompt format, the layers and the positions.

    Raises
    ------
    ValueError
        If a layer or position is out of range, the date is none, or a parameter does not go with a
        live model.
    """
    template_date = check_template_date(transformer.template_date)  # before a model is loaded
    positions = check_positions(transformer.position)
    language_model = open_language_model(
        transformer.model,
        tokenizer=transformer.tokenizer,
        dtype=transformer.dtype,
        device=transformer.device,
        revision=transformer.revision,
        model_kwargs=transformer.model_kwargs,
    )
    return PromptReader(
        language_model=language_model,
        prompt_format=PromptFormat(
            chat_template=transformer.chat_template,
            system_prompt=transformer.system_prompt,
            chat_template_kwargs=transformer.chat_template_kwargs or {},
            truncate=transformer.truncate,
            template_date=template_date,
        ),
        layers=check_layers(transformer.layer, len(language_model.blocks)),
        positions=positions,
        verify=transformer.verify,
    )
