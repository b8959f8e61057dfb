"""What outputs hold, as the compiler tells it, against what is known of the assets' models and of other folders.

    python benchmarks/tasks.py [--more FOLDER ...]

``--more`` names folders with further models, which are listed without a verdict. Every model is told twice: by its
graph alone, and with its outputs on four synthetic samples.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
from harness import table, write_result
from kinds import files
from zoo import add_common_options

from backends.session import RuntimeModelError, open_session
from zsq_compile.errors import ZsqError
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.inspection.runtime_probe import draw_inputs
from zsq_compile.tasks.find_task import find_task
from zsq_compile.tasks.task import Task, TaskKind

_SAMPLES = 4

# Kind, and the role of each output in order; everything that is not listed is a classifier with one output.
_TRUTH: dict[str, tuple[TaskKind, tuple[str, ...]]] = {
    "deeplab_mnv2_dm05_513": ("segmentation", ("mask",)),
    "dnsmos_sig_bak_ovr": ("regression", ("numbers",)),
    "fastestdet_352": ("detection", ("boxes and scores",)),
    "keypoint_classifier_mlp": ("indices", ("indices",)),
    "pfld_landmark": ("regression", ("landmarks",)),
    "prisma_portrait_seg": ("segmentation", ("mask",)),
    "ultraface_rfb320": ("detection", ("scores", "boxes")),
    "alexa_v0.1": ("decisions", ("probabilities",)),
    "centerface320": ("detection", ("scores", "boxes", "numbers", "landmarks")),
    "crepe_tiny": ("decisions", ("probabilities",)),
    "lstmcell16_shared_weights_repro": ("text", ("characters",)),
    "ppocrv4_det": ("segmentation", ("mask",)),
    "ppocrv4_rec": ("text", ("characters",)),
    "scalar_reshape_repro": ("regression", ("numbers",)),
    "silero_vad_16k_sequence": ("decisions", ("probabilities", "state", "state")),
    "yunet_n": ("detection", (*("scores",) * 3, *("objectness",) * 3, *("boxes",) * 3, *("landmarks",) * 3)),
}
# Form of the boxes, number of the heads, and output and columns of the scores of the first.
_HEADS = {
    "fastestdet_352": ("offsets", 1, [("758", 0, 1), ("758", 5, 85)]),
    "ultraface_rfb320": ("corners", 1, [("scores", 0, 2)]),
    "centerface320": ("offsets", 1, [("537", 0, 1)]),
    "yunet_n": ("offsets", 3, [("cls_8", 0, 1), ("obj_8", 0, 1)]),
}


def run_samples(loaded: LoadedModel) -> dict[str, np.ndarray] | None:
    """Return outputs on synthetic samples, one run for each; None where there are none, or the network does not run."""
    feeds = [draw_inputs(loaded.inputs, 1, np.random.default_rng(seed)) for seed in range(_SAMPLES)]
    try:
        session = open_session(ir.to_proto(loaded.model), threads=1)
        runs = [session.run(one) for one in feeds if one is not None]
    except RuntimeModelError:
        return None
    names = [name for name in session.output_names if name not in loaded.uneven_outputs]
    return {name: np.concatenate([np.atleast_1d(one[name]) for one in runs]) for name in names} if runs else None


def describe(task: Task) -> tuple[TaskKind, tuple[str, ...]]:
    """Kind and roles."""
    return task.kind, tuple(one.role for one in task.outputs)


def describe_heads(task: Task) -> tuple[str, int, list[tuple[str, int, int]]] | None:
    """Form of the boxes, number of the heads, scores of the first; None without."""
    if not task.heads:
        return None
    first = task.heads[0]
    return first.form, len(task.heads), [(one.output, one.start, one.stop) for one in first.scores]


def rows_of(name: str, path: Path, *, judged: bool) -> Iterator[list[str]]:
    """Yield a row for a model; none where it cannot be loaded."""
    try:
        loaded = load_model(path, simplify=False, verify=False)
    except ZsqError as error:
        print(f"{name}: {error}")
        return
    alone = find_task(loaded.model)
    outputs = run_samples(loaded)
    task = alone if outputs is None else find_task(loaded.model, outputs)
    truth = _TRUTH.get(name, ("classification", ("class scores",)))
    right = describe(task) == truth and describe_heads(task) == _HEADS.get(name)
    verdict = "-" if not judged else "right" if right else f"WRONG: {truth[0]} {', '.join(truth[1])}"
    graph = "the same" if describe(alone) == describe(task) else f"{alone.kind}"
    roles = ", ".join(dict.fromkeys(one.role for one in task.outputs))
    yield [name, task.kind, f"{len(task.outputs)}: {roles}", graph, verdict, task.reason]


def main() -> None:
    """Look at all models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument("--more", type=Path, nargs="*", default=())
    options = parser.parse_args()
    rows = [row for name, path in files(options.assets / "models") for row in rows_of(name, path, judged=True)]
    for folder in options.more:
        rows += [row for name, path in files(folder) for row in rows_of(name, path, judged=False)]
    right, wrong = sum(row[4] == "right" for row in rows), sum(row[4].startswith("WRONG") for row in rows)
    header = ["model", "kind", "outputs", "by the graph alone", "verdict", "reason"]
    words = f"{right} of {right + wrong} models are told right: kind, the role of every output, boxes and scores."
    write_result("tasks", "What outputs hold", f"{words}\n\n{table(header, rows)}")


if __name__ == "__main__":
    main()
