import copy

import numpy as np
import pytest
import torch
from torch import nn

from dinopl.core.random import stream_seed
from dinopl.core.schedules import CosineSchedule
from dinopl.core.types import ImageShape
from dinopl.distillation.heads import ProjectionHead
from dinopl.distillation.losses import CrossEntropyViews
from dinopl.distillation.network import draw_network
from dinopl.distillation.student_start import TeacherCopy
from dinopl.distillation.teachers import EMATeacher, FrozenTeacher, PreviousEpochTeacher, set_batch_norm_mode

SHAPE = ImageShape(1, 6, 6)


def encoder(shape):
    layers = [nn.Conv2d(shape.channels, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.BatchNorm1d(128))


def draw(seed):
    return draw_network(encoder, lambda r: ProjectionHead(r, (32,), 16, 64), SHAPE, seed)


def equal(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def save(path, **networks):
    weights = {
        f"{w}.{name}": tensor for w, network in networks.items() for name, tensor in network.state_dict().items()
    }
    torch.save({"state_dict": weights, "dinopl": {"family": "SelfDistillation"}}, path)
    return path


def train(rule, teacher, steps=3):
    """A few steps of distillation as a Lightning module drives them: modes, steps, epoch ends."""
    student = TeacherCopy()(teacher, draw)
    optimizer = torch.optim.AdamW(student.parameters())
    for step in range(1, steps + 1):
        x = torch.randn(16, *SHAPE) + 2
        student.train()
        teacher.train()
        rule.set_mode(teacher, training=True)
        loss = CrossEntropyViews()([student(x)], [teacher(x)])[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rule.after_step(teacher, student, step)
    rule.after_epoch(teacher, student, 0)
    return student


def test_drawn_from_its_stream_and_frozen():
    torch.manual_seed(3)
    teacher = FrozenTeacher().draw(draw)
    assert equal(teacher.state_dict(), draw(stream_seed("teacher")).state_dict())
    assert equal(FrozenTeacher(seed=9).draw(draw).state_dict(), draw(9).state_dict())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(layer.training for layer in teacher.modules())


def test_training_leaves_the_default_teacher_bit_identical():
    rule = FrozenTeacher()
    teacher = rule.draw(draw)
    before = copy.deepcopy(teacher.state_dict())
    student = train(rule, teacher)
    assert rule.static
    assert equal(teacher.state_dict(), before)
    assert all(p.grad is None for p in teacher.parameters())
    for layer in teacher.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert not layer.running_mean.any()
            assert (layer.running_var == 1).all()
    assert student.encoder[1].running_mean.any()
    assert not equal(student.state_dict(), before)


def test_a_static_teacher_does_not_mix_samples():
    rule = FrozenTeacher()
    teacher = rule.draw(draw)
    teacher.train()
    rule.set_mode(teacher)
    x = torch.randn(5, *SHAPE)
    torch.testing.assert_close(teacher(x)[:2], teacher(x[:2]))


def test_batch_statistics_move_buffers_only():
    rule = FrozenTeacher(batch_norm="train")
    teacher = rule.draw(draw)
    before = copy.deepcopy(teacher)
    train(rule, teacher)
    assert not rule.static
    assert equal(dict(teacher.named_parameters()), dict(before.named_parameters()))
    assert teacher.encoder[1].running_mean.any()
    assert teacher.encoder[1].num_batches_tracked == 3
    rule.set_mode(teacher, training=False)
    assert not any(layer.training for layer in teacher.modules())


def test_batch_statistics_leave_dropout_off():
    rule = FrozenTeacher(batch_norm="train")
    teacher = rule.draw(draw)
    rule.set_mode(teacher)
    assert [layer.training for layer in teacher.encoder] == [False, True, False, False, False, True]
    x = torch.randn(5, *SHAPE)
    assert torch.equal(teacher(x), teacher(x))
    expected = draw(stream_seed("teacher"))
    set_batch_norm_mode(expected, batch_statistics=True)
    torch.testing.assert_close(teacher(x), expected(x))


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_from_a_checkpoint(tmp_path, which):
    saved = {"student": draw(11), "teacher": draw(12)}
    train(FrozenTeacher(batch_norm="train"), saved["student"])
    path = save(tmp_path / "last.ckpt", **saved)
    teacher = FrozenTeacher(checkpoint=str(path), which=which).draw(draw)
    assert equal(teacher.state_dict(), saved[which].state_dict())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.training


def test_a_checkpoint_of_another_shape(tmp_path):
    other = draw_network(encoder, lambda r: ProjectionHead(r, (32,), 16, 65), SHAPE, 0)
    rule = FrozenTeacher(checkpoint=save(tmp_path / "last.ckpt", teacher=other))
    message = r"checkpoint=.*: is not .*: head.last_layer.weight is \(65, 16\) there and \(64, 16\) here; set"
    with pytest.raises(ValueError, match=message) as caught:
        rule.draw(draw)
    assert "\n" not in str(caught.value)


def test_a_missing_checkpoint():
    with pytest.raises(FileNotFoundError, match=r"checkpoint=none\.ckpt: no such file"):
        FrozenTeacher(checkpoint="none.ckpt").draw(draw)


RULES = [
    FrozenTeacher(),
    FrozenTeacher(batch_norm="train"),
    EMATeacher(0.9),
    EMATeacher(0.0),
    EMATeacher(0.9, eval_mode=True),
    EMATeacher(0.9, batch_norm="from_student", eval_mode=True),
    PreviousEpochTeacher(),
    PreviousEpochTeacher(batch_norm="from_student", eval_mode=True),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{type(rule).__name__}-{rule.batch_norm}")
def test_teacher_and_student_never_share_storage(rule):
    teacher = rule.draw(draw)
    student = train(rule, teacher)
    own, others = ({v.data_ptr() for v in network.state_dict().values()} for network in (teacher, student))
    assert not own & others
    assert not any(p.requires_grad for p in teacher.parameters())
    before = copy.deepcopy(teacher.state_dict())
    with torch.no_grad():
        for value in [*student.parameters(), *student.buffers()]:
            value.add_(1)  # a step in place must not reach the teacher
    assert equal(teacher.state_dict(), before)


def test_one_step_of_the_moving_average_by_hand():
    rule = EMATeacher(0.75)
    teacher = rule.draw(draw)
    student = draw(5)
    before = {name: p.detach().double().numpy().copy() for name, p in teacher.named_parameters()}
    buffers = {name: b.clone() for name, b in teacher.named_buffers()}
    rule.after_step(teacher, student, 1)
    for name, p in student.named_parameters():
        expected = 0.75 * before[name] + 0.25 * p.detach().double().numpy()
        np.testing.assert_allclose(dict(teacher.named_parameters())[name].double(), expected, rtol=1e-6, atol=1e-7)
    assert equal(dict(teacher.named_buffers()), buffers)
    rule.after_epoch(teacher, student, 0)
    assert not rule.static


def test_the_averages_momentum_follows_its_schedule():
    rule = EMATeacher(CosineSchedule(0.5, 1.0))
    assert rule.momentum == 0.5
    rule.advance(10, 11, 1)
    teacher = rule.draw(draw)
    before = copy.deepcopy(teacher.state_dict())
    rule.after_step(teacher, draw(5), 11)
    assert rule.momentum == 1.0
    assert equal(teacher.state_dict(), before)  # at the end of DINO's schedule the teacher stands still


def test_running_averages_from_the_student_follow_by_the_same_rule():
    rule = EMATeacher(0.75, batch_norm="from_student", eval_mode=True)
    teacher = rule.draw(draw)
    student = draw(5)
    student.train()
    student(torch.randn(16, *SHAPE) + 2)
    rule.after_step(teacher, student, 1)
    mine, theirs = teacher.encoder[1], student.encoder[1]
    torch.testing.assert_close(mine.running_mean, 0.25 * theirs.running_mean)
    torch.testing.assert_close(mine.running_var, 0.75 + 0.25 * theirs.running_var)
    assert mine.num_batches_tracked == 1
    rule.set_mode(teacher)
    assert not any(layer.training for layer in teacher.modules())


@pytest.mark.parametrize(("eval_mode", "moves"), [(False, True), (True, False)])
def test_running_averages_from_data_are_the_teachers_own(eval_mode, moves):
    rule = EMATeacher(0.9, eval_mode=eval_mode)
    teacher = rule.draw(draw)
    train(rule, teacher)
    assert bool(teacher.encoder[1].running_mean.any()) == moves
    assert teacher.encoder[1].num_batches_tracked == (3 if moves else 0)


def test_the_student_of_an_earlier_epoch():
    rule = PreviousEpochTeacher(every=2, batch_norm="from_student", eval_mode=True)
    teacher = rule.draw(draw)
    start = copy.deepcopy(teacher.state_dict())
    for epoch in range(4):
        student = draw(20 + epoch)
        student.train()
        student(torch.randn(16, *SHAPE) + 2)
        rule.after_step(teacher, student, epoch + 1)
        rule.after_epoch(teacher, student, epoch)
        if epoch == 0:
            assert equal(teacher.state_dict(), start)
        if epoch % 2:
            kept = copy.deepcopy(student.state_dict())
            assert equal(teacher.state_dict(), kept)
        elif epoch:
            assert equal(teacher.state_dict(), kept)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EMATeacher(batch_norm="from_student"), "batch_norm=from_student: needs eval_mode=True"),
        (lambda: PreviousEpochTeacher(batch_norm="from_student"), "batch_norm=from_student: needs eval_mode=True"),
        (lambda: EMATeacher(1.5), r"momentum=1.5: must be in \[0, 1\]"),
        (lambda: EMATeacher(CosineSchedule(0.9, -1)), "momentum=-1: must be in"),
        (lambda: PreviousEpochTeacher(0), "every=0: must be at least 1"),
    ],
)
def test_rules_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
