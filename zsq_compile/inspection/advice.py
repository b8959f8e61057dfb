"""What an inspection advises, in words: one line for each thing that a user may want to change before compiling."""

from collections.abc import Iterator, Mapping, Sequence

from passes.analysis.find_dead_channels import DeadChannels
from passes.analysis.find_range_risks import BiasRisk, ScaleConflict
from zsq_compile.data.input_spec import FAITHFUL
from zsq_compile.data.posterior import Posterior
from zsq_compile.inspection.findings import InputFacts, Inspection, PlacementFacts, StatisticsFacts


def advise(found: Inspection) -> tuple[str, ...]:
    """Describe what should be changed, the most important first."""
    return (
        *_of_placement(found.placement),
        *_of_inputs(found.inputs),
        *_of_statistics(found.statistics),
        *_of_preprocessing(found.posteriors),
        *_of_signals(found.inputs, found.posteriors),
        *(_of_bias(risk) for risk in found.bias_risks),
        *(_of_scales(conflict) for conflict in found.scale_conflicts),
        *_of_dead(found.dead_channels),
    )


def _of_placement(placement: PlacementFacts) -> Iterator[str]:
    if not placement.layers or len(placement.left_float) == placement.layers:
        yield (
            f"nothing in this model can be quantized for {placement.target}: it needs a Conv, Gemm or MatMul with "
            "constant weights that the target supports"
        )
    elif placement.left_float:
        yield f"{_some(placement.left_float, 'layer')} will not be quantized, see the reasons below"
    if placement.without_kernel:
        yield (
            f"{_some(placement.without_kernel, 'layer')} will be stored in integers and run in float: "
            f"{placement.target} has no integer kernel in their place"
        )


def _of_inputs(inputs: Sequence[InputFacts]) -> Iterator[str]:
    for one in inputs:
        if one.assumed is not None:
            yield (
                f"input '{one.name}' leaves sizes open, and {one.assumed} was chosen to work with: where the network "
                f'is used with quite other ones, give them (--input-shape "{one.name}:{one.assumed}")'
            )
    doubtful = [f"'{one.name}' ({one.kind})" for one in inputs if one.takes_stand_ins and one.kind not in FAITHFUL]
    if doubtful:
        yield (
            f"stand-ins will be fed to {', '.join(doubtful)}, valid values without a meaning: give samples "
            "(--calib FILE.npz), or what is measured says little of real ones"
        )


def _of_statistics(statistics: StatisticsFacts) -> Iterator[str]:
    if statistics.advice is not None:
        yield (
            f"no usable statistics of the training data ({statistics.coverage}): calibration data will be procedural, "
            f"which costs agreement at 4 bits. {statistics.advice}"
        )


def _of_preprocessing(posteriors: Mapping[str, Posterior]) -> Iterator[str]:
    for name, posterior in posteriors.items():
        best, *others = posterior.plausible
        if not others and best.preprocessing.is_certain:
            continue
        listed = ", ".join(f"{one.preprocessing.words()} ({one.probability:.0%})" for one in others)
        doubt = f"; it may be {listed} as well" if others else ""
        yield (
            f"preprocessing of '{name}' is uncertain: {best.preprocessing.describe()}{doubt}; give --mean and --std, "
            "or --input-range, if you know it, or real samples with --like"
        )


def _of_signals(inputs: Sequence[InputFacts], posteriors: Mapping[str, Posterior]) -> Iterator[str]:
    unknown = [f"'{one.name}' ({one.kind})" for one in inputs if one.is_signal and one.name not in posteriors]
    if unknown:
        yield (
            f"the scale of {', '.join(unknown)} was not found here: compiling looks longer; samples (--like, --calib) "
            "tell it, and so do their --mean and --std"
        )


def _of_bias(risk: BiasRisk) -> str:
    return (
        f"bias overflow: {_count(len(risk.channels), 'channel')} of {risk.node} would need integer biases up to "
        f"{risk.largest:.1e} (int32 ends at 2.1e+09); compiling gives their weights larger scales instead"
    )


def _of_scales(conflict: ScaleConflict) -> str:
    return (
        f"scale conflict: {conflict.members} values share one scale, and the range of '{conflict.narrowest}' is "
        f"{conflict.bits_lost:.1f} bits narrower than that of '{conflict.widest}'"
    )


def _of_dead(dead: Sequence[DeadChannels]) -> Iterator[str]:
    constant, silent = (sum(len(getattr(one, kind)) for one in dead) for kind in ("constant", "silent"))
    if constant:
        zero = f", {silent} of them always 0" if silent else ""
        yield (
            f"{_count(constant, 'dead channel')} in {_count(len(dead), 'layer')}: their filters are (nearly) zero, so "
            f"their outputs are constant{zero}. They take bytes and time; pruning them before the export is free"
        )


def _some(names: Sequence[str], kind: str) -> str:
    shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    return f"{_count(len(names), kind)} ({shown})"


def _count(number: int, kind: str) -> str:
    return f"{number} {kind}{'' if number == 1 else 's'}"
