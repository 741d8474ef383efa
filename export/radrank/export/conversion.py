"""A bundle's models in another precision, written beside the bundle for its runtimes to find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import NotFound
from radrank.core.studies import Split, split_of
from radrank.datasets import open_dataset
from radrank.datasets.decoding import decoded
from radrank.engines.conversions import converted, keep
from radrank.engines.manifest import BundleManifest, read_manifest
from radrank.engines.models import GRAPHS, models
from radrank.engines.plans import RECIPE, plans_of

INT8 = "int8"
CALIBRATED = 64  # studies
CPUINFO = Path("/proc/cpuinfo")
_VNNI = frozenset(("avx512_vnni", "avx_vnni", "amx_int8"))
Step = Callable[[str], AbstractContextManager[object]]


def write_conversions(
    bundle: Path,
    to: Path | None,
    precision: str,
    *,
    step: Step,
    dataset: str | None = None,
    root: Path | None = None,
) -> Iterator[tuple[Path, bool]]:
    """Converts what is missing into `to`, None for BUNDLE.plans. Yields each file, and whether it was there already.

    dataset, root: whose training studies calibrate int8; None for those that the bundle was trained on
    Raises InvalidQuery for an unknown precision, NotFound where those studies are not there.
    """
    directory = to or plans_of(bundle)
    manifest, _ = read_manifest(bundle)
    pixels: Sequence[NDArray[np.uint8]] = ()
    for name, model in models(bundle, manifest, batches=(1,)).items():
        if precision == INT8 and name.startswith(GRAPHS):
            continue
        try:
            yield converted(directory, model, precision).path, True
        except NotFound:
            with step(f"{name} {precision}"):
                if precision == INT8:
                    from radrank.export.quantization import METHOD, quantize

                    pixels = pixels or _calibration(manifest, dataset, root)
                    content, recipe = quantize(model, pixels), METHOD
                else:
                    from radrank.export.precision import convert

                    content, recipe = convert(model.path, precision).SerializeToString(), f"conversion {RECIPE}"
                made = keep(directory, model, precision, recipe, content)
            yield made, False


def lacks_vnni() -> bool:
    """Whether this machine's x86 processor tells of no instructions for int8; False where it tells nothing."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.is_file() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), None)
    return flags is not None and _VNNI.isdisjoint(flags)


def _calibration(manifest: BundleManifest, dataset: str | None, root: Path | None) -> list[NDArray[np.uint8]]:
    """One radiograph of each of the first studies that encoders may learn from."""
    trained = manifest.training["dataset"]
    where = root or (None if dataset or not trained["root"] else Path(trained["root"]))
    studies = (study for study in open_dataset(dataset or trained["name"], where) if split_of(study) is Split.TRAIN)
    found = decoded(islice(studies, CALIBRATED), manifest.image.size, workers=2)
    pixels = [image for study in found for image in study.pixels[:1]]
    if not pixels:
        raise NotFound(
            "radiograph to calibrate int8 on", "name a data set that has some to train on: --dataset, --root"
        )
    return pixels
