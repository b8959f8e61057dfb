"""A small vision transformer, trained for a moment to tell bright from dark and warm from cold pictures."""

import onnx
import onnx_ir as ir
import torch

from tests import models
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.images.dead_leaves import prior_images

SIDE, PATCH, WIDTH, HEADS, BLOCKS = 16, 4, 32, 4, 2
_TOKENS, _EACH, _HIDDEN = (SIDE // PATCH) ** 2, WIDTH // HEADS, 2 * WIDTH
_TURNS, _BATCH = 150, 64


def vision_transformer() -> onnx.ModelProto:
    """Pictures (N, 3, 16, 16) with mean and deviation of ImageNet taken out -> (N, 4) logits; no statistics kept."""
    model = models.parse(_text())
    rng = torch.Generator().manual_seed(0)
    graph = ir.from_proto(model)
    teacher = TorchGraph(graph)
    weights = {
        name: tensor.clone().requires_grad_()
        for name, tensor in teacher.initializers.items()
        if tensor.is_floating_point() and tensor.ndim > 0
    }
    optimizer = torch.optim.Adam(list(weights.values()), lr=3e-3)
    pictures = prior_images(1024, 3, SIDE, SIDE, rng)
    labels = picture_classes(pictures)
    for _ in range(_TURNS):
        rows = torch.randint(len(pictures), (_BATCH,), generator=rng)
        logits = teacher.run({"x": (pictures[rows] - 0.45) / 0.225}, ("logits",), replace=weights)["logits"]
        loss = torch.nn.functional.cross_entropy(logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for initializer in model.graph.initializer:
        if initializer.name in weights:
            trained = weights[initializer.name].detach().numpy()
            initializer.CopyFrom(onnx.numpy_helper.from_array(trained, initializer.name))
    return model


def picture_classes(pictures: torch.Tensor) -> torch.Tensor:
    """Classes 0 to 3 of (N, 3, H, W) pictures: bright or not, and red above blue or not."""
    red, _, blue = pictures.mean((2, 3)).unbind(1)
    return 2 * (pictures.mean((1, 2, 3)) > 0.45) + (red > blue)


def _text() -> str:
    blocks = [_block(index) for index in range(BLOCKS)]
    declared = ", ".join(
        [
            f"float[{WIDTH},3,{PATCH},{PATCH}] w_patch, float[{WIDTH}] b_patch, float[1,{_TOKENS},{WIDTH}] places",
            f"float[{WIDTH}] scale_end, float[{WIDTH}] shift_end, float[{WIDTH},4] w_end, float[4] b_end",
            *(one for one, _ in blocks),
        ]
    )
    return f"""
        vit (float[N,3,{SIDE},{SIDE}] x) => (float[N,4] logits)
        <{declared},
         int64[3] as_tokens = {{0, {WIDTH}, -1}}, int64[4] as_heads = {{0, {_TOKENS}, {HEADS}, {_EACH}}},
         int64[3] joined = {{0, {_TOKENS}, {WIDTH}}}, int64[1] over_tokens = {{1}},
         float root = {{{_EACH**-0.5}}}, float half = {{0.5}}, float one = {{1.0}}, float square = {{{0.5**0.5}}}>
        {{
            patches = Conv<strides=[{PATCH},{PATCH}]>(x, w_patch, b_patch)
            rows = Reshape(patches, as_tokens)
            tokens = Transpose<perm=[0,2,1]>(rows)
            t0 = Add(tokens, places)
            {"".join(nodes for _, nodes in blocks)}
            ended = LayerNormalization(t{BLOCKS}, scale_end, shift_end)
            pooled = ReduceMean<keepdims=0>(ended, over_tokens)
            product = MatMul(pooled, w_end)
            logits = Add(product, b_end)
        }}
        """


def _block(i: int) -> tuple[str, str]:
    """Weights and nodes of one block: attention and a perceptron with GELU spelt out, as exporters do."""
    declared = (
        f"float[{WIDTH}] scale_a{i}, float[{WIDTH}] shift_a{i}, float[{WIDTH}] scale_m{i}, float[{WIDTH}] shift_m{i}, "
        + "".join(f"float[{WIDTH},{WIDTH}] w_{kind}{i}, float[{WIDTH}] b_{kind}{i}, " for kind in "qkvo")
        + f"float[{WIDTH},{_HIDDEN}] w_up{i}, float[{_HIDDEN}] b_up{i}, "
        + f"float[{_HIDDEN},{WIDTH}] w_down{i}, float[{WIDTH}] b_down{i}"
    )
    heads = "".join(
        f"""
            {kind}p{i} = MatMul(a{i}, w_{kind}{i})
            {kind}b{i} = Add({kind}p{i}, b_{kind}{i})
            {kind}h{i} = Reshape({kind}b{i}, as_heads)
            {kind}{i} = Transpose<perm={"[0,2,3,1]" if kind == "k" else "[0,2,1,3]"}>({kind}h{i})"""
        for kind in "qkv"
    )
    return (
        declared,
        f"""
            a{i} = LayerNormalization(t{i}, scale_a{i}, shift_a{i}){heads}
            match{i} = MatMul(q{i}, k{i})
            scaled{i} = Mul(match{i}, root)
            attention{i} = Softmax(scaled{i})
            seen{i} = MatMul(attention{i}, v{i})
            seent{i} = Transpose<perm=[0,2,1,3]>(seen{i})
            seenj{i} = Reshape(seent{i}, joined)
            op{i} = MatMul(seenj{i}, w_o{i})
            o{i} = Add(op{i}, b_o{i})
            u{i} = Add(t{i}, o{i})
            m{i} = LayerNormalization(u{i}, scale_m{i}, shift_m{i})
            up{i} = MatMul(m{i}, w_up{i})
            ub{i} = Add(up{i}, b_up{i})
            us{i} = Mul(ub{i}, square)
            erf{i} = Erf(us{i})
            erfo{i} = Add(erf{i}, one)
            gated{i} = Mul(ub{i}, erfo{i})
            gelu{i} = Mul(gated{i}, half)
            down{i} = MatMul(gelu{i}, w_down{i})
            db{i} = Add(down{i}, b_down{i})
            t{i + 1} = Add(u{i}, db{i})""",
    )
