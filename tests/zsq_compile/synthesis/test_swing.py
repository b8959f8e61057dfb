import torch

from tests import models
from tests.zsq_compile.synthesis.networks import seeded, teacher_of
from zsq_compile.synthesis.swing import swing

PICTURES = torch.linspace(-1.0, 1.0, 2 * 3 * 9 * 9).sin().reshape(2, 3, 9, 9)


def test_the_rewritten_teacher_is_the_first_one_until_offsets_are_drawn() -> None:
    teacher, _ = teacher_of(models.depthwise())
    before = [node.op_type for node in teacher.model.graph]
    moving = swing(teacher)
    assert moving.axes == {"conv0.swing": 2} and not moving.refusals
    assert torch.equal(moving.teacher.run({"x": PICTURES})["logits"], teacher.run({"x": PICTURES})["logits"])
    seen = {tuple(moving.draw(rng)["conv0.swing"].tolist()) for rng in [seeded()] for _ in range(200)}
    assert seen == {(y, x) for y in range(3) for x in range(3)}
    corner = moving.teacher.run({"x": PICTURES}, ["c0"], replace={"conv0.swing": torch.tensor((0, 2))})["c0"]
    wide = torch.nn.functional.pad(PICTURES, (1, 1, 1, 1), mode="reflect")
    torch.testing.assert_close(corner, teacher.run({"x": wide[:, :, :9, 2:]}, ["c0"])["c0"])
    assert [node.op_type for node in teacher.model.graph] == before


def test_weights_are_shared_with_what_the_teacher_holds_now() -> None:
    teacher, _ = teacher_of(models.depthwise())
    teacher.initializers["w0"] = torch.zeros_like(teacher.initializers["w0"])
    moving = swing(teacher).teacher
    assert all(moving.initializers[name] is value for name, value in teacher.initializers.items())


def test_a_strided_convolution_passes_gradients_to_every_pixel_when_it_swings() -> None:
    """A 1x1 kernel with stride 2 reads a quarter of the pixels; the others take their turns with the offsets."""
    model = models.parse(
        "g (float[N,1,8,8] x) => (float[N,1,4,4] y) <float[1,1,1,1] w> { [conv] y = Conv<strides=[2,2]>(x, w) }"
    )
    teacher, _ = teacher_of(model)
    moving, rng, reached = swing(teacher), seeded(), torch.zeros(8, 8)
    for _ in range(40):
        picture = torch.zeros(1, 1, 8, 8, requires_grad=True)
        moving.teacher.run({"x": picture}, replace=moving.draw(rng))["y"].sum().backward()
        assert picture.grad is not None
        reached += picture.grad[0, 0].ne(0.0)
    assert bool((reached > 0).all())
