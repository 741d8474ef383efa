"""A run's encoders and re-rankers as torch runs them: in eager mode or compiled, from numpy to numpy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from radrank.bench.eager import encoders
from radrank.core.studies import Modality
from radrank.engines.engine import Feed
from radrank.engines.models import IMAGE_ENCODER, RERANKER, TEXT_ENCODER
from radrank.training.runs import Run

Answer = Callable[[Feed], NDArray[np.float32]]
_PRODUCTS = (nn.Linear, nn.Conv2d)


class TorchModels:
    """What a run holds, loaded once. It runs on the first GPU where there is one, else on the CPU."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def answer(self, name: str, *, half: bool = False, compiled: bool = False) -> Answer:
        """The model of this name, as torch's users serve it.

        half: matrix products in fp16, norms and softmax in fp32, as torch's autocast does it; weights are kept in fp16
        compiled: by torch.compile, with CUDA graphs on a GPU; each new shape compiles when it is first asked for
        """
        module = self._module(name)
        if half:
            module = copy.deepcopy(module)
            for part in module.modules():
                if isinstance(part, _PRODUCTS):
                    part.half()
        module = module.to(self.device)
        called: Callable[..., Any] = module
        if compiled:
            mode = "reduce-overhead" if self.device == "cuda" else "default"
            called = torch.compile(module, mode=mode, dynamic=False)

        def ask(feed: Feed) -> NDArray[np.float32]:
            with torch.inference_mode(), torch.autocast(self.device, torch.float16, enabled=half):
                given = {key: torch.from_numpy(array).to(self.device) for key, array in feed.items()}
                found = called(given) if name.startswith(RERANKER) else called(*given.values())
                answered: NDArray[np.float32] = found.float().cpu().numpy()
                return answered

        return ask

    @cached_property
    def _encoders(self) -> dict[str, nn.Module]:
        found = encoders(self._run, self._run.backbone())
        return {IMAGE_ENCODER: found[Modality.IMAGE], TEXT_ENCODER: found[Modality.REPORT]}

    def _module(self, name: str) -> nn.Module:
        if name.startswith(RERANKER):
            return self._run.reranker(name.removeprefix(RERANKER))[0].eval()
        return self._encoders[name]
