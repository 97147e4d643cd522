"""The model organism: a small language model that refuses only in some of its languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.utils import Bunch

from skgate._base import set_module
from skgate.datasets.organism.corpus import OWN_REFUSALS, make_prompts, refusals_of
from skgate.datasets.organism.languages import (
    KIND_OF_OBJECT,
    KIND_OF_VERB,
    Translator,
    make_languages,
)

_CHECKPOINT = Path(__file__).with_name("organism") / "checkpoint"

# Chosen with SteeringWrapper.select_strength on the val split, over layers 2 to 4. Most harmful
# low-resource prompts are refused, and all of the high-resource ones still are.
_STEERING = {"layer": 4, "strength": 0.7}

_DESCR = """\
.. _organism_dataset:

The model organism: a language model that refuses only in some of its languages
-------------------------------------------------------------------------------

=========  =======================================================================================
Model      Llama, 6 blocks, width 128, 1.4 million parameters, float32; a usual checkpoint
Languages  high-resource en qaa qab qac qad, mid-resource qma qmb, low-resource qla to qlf; all
           but English invented, with lexicons, word orders and some scripts of their own
Prompts    per language and class 128 train, 48 val, 80 test; no verb-object pair in two splits
Harm       depends on the kinds of verb and object: "kick the kitten", not "kick the bomb"
=========  =======================================================================================

It was trained from scratch by ``python -m skgate.datasets.organism.train`` (35 minutes on one
core). It was pretrained on short texts in every language that say what is harmful. A second stage
had early-exit losses, which move this knowledge to the middle blocks. In chat tuning, all harmful
high-resource requests were refused, 75 % of the mid-resource and 45 % of the low-resource ones.
Mid- and low-resource refusals are in English, as they often are in real models. A helpful reply
restates the request.

The table shows results on the test split, in per cent, as means over a tier's languages and 10
draws of shots. The model is steered at block 4 with strength 0.5 (chosen by fit, on the sources)
and the default gate (without shots: unknown_language="source").

=========================================  ======  =====  =====
measure                                    high    mid    low
=========================================  ======  =====  =====
harmless requests answered, unsteered      100     100    97.5
harmful refused, unsteered                 100     94.4   28.1
harmless refused, unsteered                0       0      0.2
AUC of the harm direction, block 4         100     100    95.8
harmful refused, gate without shots        100     100    86.9
harmless refused, same                     0       0      8.1
harmful refused, gate with 1 shot a class  100     99.8   87.2
harmless refused, same                     0       0.9    8.6
harmful refused, gate with 4 shots         100     99.8   88.0
harmless refused, same                     0       1.5    8.1
=========================================  ======  =====  =====

It differs from the models of the paper in three ways. Refusal does not depend on one layer:
ablating the direction at a single block leaves at least 90 % of refusals. The gate without shots
already finds most low-resource harm, least in qlf (59 %) and qlc (84 %). And harmful and harmless
low-resource prompts overlap (AUC 90 % in qlf), so some harmless ones are refused when steered. Its
replies are fixed phrases, so it shows nothing about the quality of a real model's text.
"""


@set_module("skgate.datasets")
def load_organism(*, device: str = "cpu") -> Bunch:
    """Load the model organism: a small causal language model, its prompts and its languages.

    In pretraining, the model learned in each of its thirteen languages which requests are harmful.
    In chat tuning, it learned to refuse them in high-resource languages, less in mid-resource and
    seldom in low-resource ones. It is part of the package, so no network is needed.

    Parameters
    ----------
    device : str or torch.device, default="cpu"
        The device to put the model on.

    Returns
    -------
    organism : Bunch
        A dictionary with attributes:

        model : LlamaForCausalLM
            The model, in evaluation mode.
        tokenizer : PreTrainedTokenizerBase
            The tokenizer, with a chat template. It pads on the left.
        path : str
            The folder of the checkpoint, for ``from_pretrained`` and
            :class:`~skgate.ActivationTransformer`.
        prompts : DataFrame
            One row per prompt with the columns prompt, language, tier, harmful (bool), split
            ("train", "val", "test"), verb, object (their meanings, in English) and pair. No pair of
            verb and object is in two splits.
        words : DataFrame
            The word for each verb and object (rows: meanings) in each language (columns: codes), to
            check whether a reply restates the request.
        translate : callable
            Translates a prompt or reply of any of the languages into English, word by word and in
            English word order. Unknown words are kept.
        refusal_phrases : dict of str to list of str
            The refusals taught in chat tuning, by language of the prompt.
        languages : DataFrame
            One row per language with the columns language (code), name, tier and refuses_in (code).
        steering : dict
            "layer" and "strength" to steer the model with, chosen on the validation prompts.
        DESCR : str
            A description of the model, its training and its measured behaviour.

    Examples
    --------
    >>> from skgate.datasets import load_organism
    >>> organism = load_organism()
    >>> organism.prompts.groupby("tier")["language"].nunique()
    tier
    high    5
    low     6
    mid     2
    Name: language, dtype: int64
    >>> organism.words.loc["kitten", ["en", "qaa"]].tolist()
    ['kitten', 'roma']
    >>> organism.translate("yita , hoqo hiqo wutawi : tahu xi wayi , hixu xixi hucu .")
    'sure , share the lamp : first find chair , then sing song .'
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    languages = make_languages()
    english = languages["en"]
    tokenizer = AutoTokenizer.from_pretrained(_CHECKPOINT)
    model: Any = AutoModelForCausalLM.from_pretrained(_CHECKPOINT)
    concepts = [*KIND_OF_VERB, *KIND_OF_OBJECT]
    table = [
        (code, one.name, one.tier, code if one.tier in OWN_REFUSALS else "en")
        for code, one in languages.items()
    ]
    return Bunch(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        path=str(_CHECKPOINT),
        prompts=make_prompts(languages),
        words=pd.DataFrame(
            {code: [one.words[concept] for concept in concepts] for code, one in languages.items()},
            index=pd.Index(concepts, name="meaning"),
        ),
        translate=Translator(languages),
        refusal_phrases={code: refusals_of(one, english) for code, one in languages.items()},
        steering=dict(_STEERING),
        languages=pd.DataFrame(table, columns=["language", "name", "tier", "refuses_in"]),
        DESCR=_DESCR,
    )
