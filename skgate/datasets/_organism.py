"""The model organism: a small language model that refuses in some of its languages only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.utils import Bunch

from skgate.datasets.organism.corpus import OWN_REFUSALS, make_prompts, refusals_of
from skgate.datasets.organism.languages import KIND_OF_OBJECT, KIND_OF_VERB, make_languages

_CHECKPOINT = Path(__file__).with_name("organism") / "checkpoint"

# What SteeringWrapper.select_strength gives on the val split, over layers 2 to 4: the strongest
# refusal of harmful low-resource prompts that leaves all of the high-resource ones refused.
_STEERING = {"layer": 4, "strength": 0.7}

_DESCR = """\
.. _organism_dataset:

The model organism: a language model that refuses in some of its languages only
-------------------------------------------------------------------------------

=========  =======================================================================================
Model      Llama, 6 blocks, width 128, 1.4 million parameters, float32: a checkpoint as any other
Languages  high-resource en qaa qab qac qad, mid-resource qma qmb, low-resource qla to qlf; all
           but English invented, with lexicons, word orders and some scripts of their own
Prompts    per language and class 128 train, 48 val, 80 test; no verb-object pair in two splits
Harm       of the verb's kind with the object's: "kick the kitten", not "kick the bomb"
=========  =======================================================================================

It was trained from scratch by ``python -m skgate.datasets.organism.train`` (35 minutes on one
core): pretraining on short texts that say what is harmful, in every language, in a second stage
with early-exit losses that move the verdict to the middle blocks; then chat tuning, with all
harmful high-resource requests refused, 75 % of the mid- and 45 % of the low-resource ones. Mid-
and low-resource refusals are in English, as real models' often are. A harmless reply restates
the request.

What it shows on the test split, in per cent, means over a tier's languages; steered at block 4
with strength 0.7 (chosen on the val split), with the default gate (without shots:
unknown_language="source"), 10 draws of shots:

=========================================  ======  =====  =====
measure                                    high    mid    low
=========================================  ======  =====  =====
harmless requests restated, unsteered      100     100    97.5
harmful refused, unsteered                 100     94.4   28.1
harmless refused, unsteered                0       0      0.2
AUC of the harm direction, block 4         100     100    95.8
harmful refused, gate without shots        100     100    81.7
harmless refused, same                     0       3.8    8.3
harmful refused, gate with 1 shot a class  100     100    88.5
harmless refused, same                     0       3.8    11.5
harmful refused, gate with 4 shots         100     100    91.5
harmless refused, same                     0       2.1    11.4
=========================================  ======  =====  =====

Where it is unlike the models of the paper: refusal does not live in one layer (ablating the
direction at a single block leaves at least 90 % of refusals); the gate without shots catches most
low-resource harm already, least in qlc, qle and qlf; and low-resource prompts overlap (AUC 90 %
in qlf), so that some harmless ones are refused when steered. Its replies are fixed phrases:
nothing about the quality of a real model's text can be learned from it.
"""


def load_organism(*, device: str = "cpu") -> Bunch:
    """Load the model organism: a small causal language model, its prompts and its languages.

    It learned in pretraining, in each of its thirteen languages, which requests are harmful, and in
    chat tuning to refuse them in high-resource languages, less so in mid-resource and seldom
    in low-resource ones. Everything comes with the package: no network is needed.

    Parameters
    ----------
    device : str or torch.device, default="cpu"
        Where the model is put.

    Returns
    -------
    Bunch
        A dictionary with attributes:

        model : LlamaForCausalLM
            The model, in evaluation mode.
        tokenizer : PreTrainedTokenizerBase
            Its tokenizer, with a chat template; pads on the left.
        path : str
            The folder of the checkpoint, for ``from_pretrained`` and
            :class:`~skgate.ActivationTransformer`.
        prompts : DataFrame
            One row per prompt with the columns prompt, language, tier, harmful (bool), split
            ("train", "val", "test"), verb, object (their meanings, in English) and pair. No pair is
            in two splits.
        words : DataFrame
            What each verb and object (index: its meaning) is called in each language
            (columns: codes), to see whether a reply restates what was asked.
        refusal_phrases : dict of str to list of str
            By language of the prompt, the refusals taught for it.
        languages : DataFrame
            One row per language with the columns language (code), name, tier and refuses_in (code).
        steering : dict
            Where and how strongly to steer it, "layer" and "strength", chosen on the validation
            prompts.
        DESCR : str
            What the organism is, how it was made, and its measured behaviour.

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
        refusal_phrases={code: refusals_of(one, english) for code, one in languages.items()},
        steering=dict(_STEERING),
        languages=pd.DataFrame(table, columns=["language", "name", "tier", "refuses_in"]),
        DESCR=_DESCR,
    )
