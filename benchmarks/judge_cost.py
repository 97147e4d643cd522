"""What LatentJudge costs beside generating the replies that it judges.

    python benchmarks/judge_cost.py MODEL [--block 15] [--dtype float32]

MODEL is the folder of a chat model. 16 English prompts of PolyRefuse, 24 new tokens. Both are timed
in turn, after one warm-up round.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
import torch
from sklearn.pipeline import make_pipeline

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.datasets import fetch_polyrefuse
from skgate.judges import LatentJudge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--block", type=int, default=15)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    prompts = fetch_polyrefuse(languages=["en"]).frame.query("split == 'train'")
    prompts = prompts.groupby("harmful").head(8)
    reader = ActivationTransformer(
        args.model, layer=args.block, position="last", dtype=args.dtype, store=False
    )
    wrapper = SteeringWrapper(
        make_pipeline(reader, LatentGate()), on_harmful=None, on_harmless=None
    )
    wrapper.fit(prompts["prompt"], prompts["harmful"], language="en")
    replies = wrapper.generate(prompts["prompt"], max_new_tokens=24)
    X = pd.DataFrame({"prompt": prompts["prompt"].to_numpy(), "reply": replies})
    judge = LatentJudge(reader).fit(X, prompts["harmful"].to_numpy())
    times: dict[str, list[float]] = {"generate": [], "judge": []}
    for round_ in range(args.rounds + 1):
        for name, call in (
            ("generate", lambda: wrapper.generate(prompts["prompt"], max_new_tokens=24)),
            ("judge", lambda: judge.predict(X)),
        ):
            start = time.perf_counter()
            call()
            if round_:
                times[name].append(time.perf_counter() - start)
    generate, judged = np.array(times["generate"]), np.array(times["judge"])
    print(f"block {args.block}, {args.dtype}, {torch.get_num_threads()} threads")
    print(
        f"generate {np.median(generate):.1f} s, judge {np.median(judged):.1f} s, "
        f"judge / generate {np.median(judged / generate):.2f} "
        f"({(judged / generate).min():.2f} to {(judged / generate).max():.2f})"
    )


if __name__ == "__main__":
    main()
