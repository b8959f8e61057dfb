"""Networks that find things, on samples as they are and on samples moved until the network answers.

For each network with real inputs: on how many samples its answers are given, how far the ranges of its layers reach
compared with those of real inputs, and what the quantized network finds on real inputs, with ranges of least error over
all places and with places weighed by answers. The preprocessing is that of the real inputs, so that nothing else is
seen. The files are run as the runtime computes them without fused kernels, which saturate on processors without VNNI.
"""

import argparse
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from harness import table, write_result
from torch import Tensor
from zoo import add_common_options

from backends.catalog import load_target
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.plan import QuantizationPlan, Scale
from zsq_compile.batchnorm.find_statistics import find_statistics
from zsq_compile.config.compile import CompileConfig
from zsq_compile.config.generators import PixelsConfig, PriorConfig
from zsq_compile.data.preprocessing import Preprocessing, given_preprocessing
from zsq_compile.differentiable.find_answers import find_answers
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.frontend.load import load_model
from zsq_compile.progress import Clock, Silent
from zsq_compile.quantization.calibration import calibrate as calibration
from zsq_compile.quantization.planning import plan_quantization
from zsq_compile.quantization.samples import Samples
from zsq_compile.quantization.state import FloatNetwork
from zsq_compile.stages.calibration_data import answering_share
from zsq_compile.stages.quantize import fold_network, run_steps, steps_for
from zsq_compile.synthesis.images.pictures import draw_pictures
from zsq_compile.synthesis.make_generator import make_generator

_IMAGENET = given_preprocessing(3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_BYTES, _SYMMETRIC = (given_preprocessing(3, input_range=ends) for ends in ((0.0, 255.0), (-1.0, 1.0)))
_FEED = 8


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is known of a network: sizes to work with, and how its real inputs are prepared (None: as they are)."""

    key: str
    shapes: Mapping[str, tuple[int | None, ...]]
    preprocessing: Preprocessing | None
    samples: int


CASES = (
    Case(
        key="yunet_n",
        shapes={"input": (None, 3, 320, 320)},
        preprocessing=replace(_BYTES, channel_order="bgr"),
        samples=32,
    ),
    Case(key="centerface320", shapes={}, preprocessing=_BYTES, samples=16),
    Case(
        key="ppocrv4_det",
        shapes={"x": (None, 3, 320, 320)},
        preprocessing=replace(_IMAGENET, channel_order="bgr"),
        samples=16,
    ),
    Case(
        key="ppocrv4_rec",
        shapes={"x": (None, 3, 48, 320)},
        preprocessing=replace(_SYMMETRIC, channel_order="bgr"),
        samples=16,
    ),
    Case(key="silero_vad_16k_sequence", shapes={}, preprocessing=None, samples=128),
)


class Subject:
    """A network, ready to be quantized on any samples and judged on its real inputs."""

    def __init__(self, case: Case, folder: Path, judge: ModuleType, steps: bool, judged: int | None = None) -> None:
        self.case, self._judge, self._folder, self._all_steps = case, judge, folder, steps
        path = folder / f"{case.key}.onnx"
        self.loaded = load_model(path, input_shapes=case.shapes)
        self._config = CompileConfig(effort="fast")
        self._target = load_target("ort_cpu")
        self.known = find_statistics(self.loaded, checkpoint=None, bn_stats=None, progress=Silent())
        folded, self._statistics = fold_network(
            self.loaded.model, self.known.statistics, equalize=False, target=self._target
        )
        self.plan: QuantizationPlan = plan_quantization(folded, self._target, self._config.quantization, None)
        self.teacher = TorchGraph(folded)
        self._inputs = judge.feeds(case.key, "eval", folder)[:judged]
        self._wanted = judge.outputs(path, self._inputs)

    def real(self) -> dict[str, Tensor]:
        """Real inputs for calibration."""
        parts = self._judge.feeds(self.case.key, "calib", self._folder)
        joined = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}
        return {name: value[: self.case.samples] for name, value in joined.items()}

    def photographs(self) -> dict[str, Tensor]:
        """Synthetic photographs alone, whatever family the network was made for; none where inputs are no pictures."""
        if self.case.preprocessing is None:
            return {}
        spec = next(one for one in self.loaded.inputs if one.is_image)
        pictures = draw_pictures(spec, self.case.samples, torch.Generator().manual_seed(0))
        return {spec.name: self.case.preprocessing.encode(pictures)}

    def made(self, share: float, real: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Synthetic samples, of which a share is moved."""
        statistics: BatchNormStatistics = self.known.statistics
        config = PixelsConfig() if statistics.usable else PriorConfig()
        generator = make_generator(
            config, self.loaded.inputs, self.case.preprocessing, effort="fast", answering_share=share
        )
        teacher, rng = TorchGraph(self.loaded.model), torch.Generator().manual_seed(0)
        inputs = dict(generator.synthesize(teacher, statistics, self.case.samples, rng).inputs)
        whole = {spec.name for spec in self.loaded.inputs if spec.batch_axis is None}
        return {name: real[name] if name in whole else value for name, value in inputs.items()}

    def answering(self, samples: Mapping[str, Tensor]) -> str:
        """Share of the samples that any of the heads answers; heads as they are seen on these samples."""
        batches = Samples(inputs=samples).batches(_FEED)
        heads = find_answers(self.teacher, batches)
        if not heads:
            return "all"
        odds = []
        with torch.no_grad():
            for batch in batches:
                values = self.teacher.run(batch, [head.logits for head in heads])
                odds.append(torch.stack([head.strongest(values[head.logits]) for head in heads]).amax(0))
        return f"{float((torch.cat(odds) > 0.0).float().mean()):.0%}"

    def reach(self, samples: Mapping[str, Tensor]) -> dict[str, Scale]:
        """Ranges that cover all of the values."""
        return calibration.calibrate(self.plan, self.teacher, Samples(inputs=samples).batches(_FEED), "minmax")

    def found(self, samples: Mapping[str, Tensor], *, weighed: bool) -> str:
        """Quantize and judge; in the judge's words."""
        network = FloatNetwork(
            teacher=self.teacher,
            target=self._target,
            statistics=self._statistics,
            calibration=Samples(inputs=samples),
            held_out=Samples(inputs=samples),
        )
        steps = steps_for(self._config)[: None if self._all_steps else 1]
        keep = mock.patch.object(calibration, "weigh_by_answers", lambda *given: None)
        if weighed:
            states, _ = run_steps(network, self.plan, steps, Clock(Silent()))
        else:
            with keep:
                states, _ = run_steps(network, self.plan, steps, Clock(Silent()))
        outputs = _run_unfused(list(states.values())[-1].qdq, self._inputs)
        named = [dict(zip(floats, one, strict=True)) for floats, one in zip(self._wanted, outputs, strict=True)]
        words: str = self._judge.JUDGES[self.case.key][1](self._wanted, named)[1]
        return words.partition(", ")[0].replace(" with IoU > 0.9", "")


def _run_unfused(model: ir.Model, inputs: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [one.name for one in session.get_inputs()]
    return [session.run(None, {name: feed[name] for name in names}) for feed in inputs]


def _spans(plan: QuantizationPlan, scales: Mapping[str, Scale]) -> dict[str, float]:
    formats = {site.group: site.number_format for site in plan.activations}
    return {group: float(scales[group].scale) * one.levels for group, one in formats.items()}


def _reach_words(ratios: Sequence[float]) -> str:
    middle = float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-6)))))
    low, high = np.quantile(ratios, [0.1, 0.9])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def lines_of(subject: Subject) -> list[list[str]]:
    real = subject.real()
    sets = {
        "as drawn": subject.made(0.0, real),
        "moved": subject.made(answering_share(None), real),
        "real": real,
    }
    wanted, lines = _spans(subject.plan, subject.reach(real)), []
    if all(torch.equal(sets["moved"][name], value) for name, value in sets["as drawn"].items()):
        sets.pop("moved")  # no head is silent
    if alone := subject.photographs():
        sets = {"photographs alone": alone, **sets}
    for name, samples in sets.items():
        spans = _spans(subject.plan, subject.reach(samples))
        ratios = [spans[group] / wanted[group] for group in wanted]
        judged = [subject.found(samples, weighed=weighed) for weighed in (False, True)]
        lines.append([subject.case.key, name, subject.answering(samples), _reach_words(ratios), *judged])
        print(f"  {' | '.join(lines[-1])}", file=sys.stderr, flush=True)
    return lines


def load_judge(folder: Path) -> ModuleType:
    """Import judge.py, which lies beside the models."""
    spec = importlib.util.spec_from_file_location("wild_judge", folder / "judge.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", help="models (default: all)")
    parser.add_argument("--all-steps", action="store_true", help="round and correct biases too, not only choose ranges")
    parser.add_argument("--samples", type=int, help="samples to quantize with (default: what the network's case says)")
    parser.add_argument("--judged", type=int, help="real inputs to judge on (default: all)")
    options = parser.parse_args()
    folder, lines = options.assets / "models" / "wild2", []
    judge = load_judge(folder)
    for case in CASES:
        if options.models is None or case.key in options.models:
            print(f"{case.key} ...", file=sys.stderr, flush=True)
            sized = replace(case, samples=options.samples or case.samples)
            lines += lines_of(Subject(sized, folder, judge, options.all_steps, options.judged))
            _write(lines, "all steps" if options.all_steps else "ranges only, weights to the nearest")


def _write(lines: Sequence[Sequence[str]], steps: str) -> None:
    """Write what is measured so far."""
    header = ["network", "samples", "that get an answer", "span of ranges over that of real inputs"]
    header += ["found with plain ranges", "with places weighed by answers"]
    body = (
        "Span: geometric mean over layers, and the tenths at both ends, of ranges that cover all values. Found: 8 "
        f"bits, {steps}.\n\n" + table(header, lines)
    )
    write_result("answering", "Samples that are moved until the network answers", body)


if __name__ == "__main__":
    main()
