import jax
import pytest

from benchmarks import parts
from benchmarks.parts import Part

TEXT = """
  %fusion.1 = f32[2]{0} fusion(%a), metadata={op_type="dot" op_name="jit(f)/while/body/closed_call/transpose(jvp(CNN))/Conv_1/cond/dot_general" stack_frame_id=3}
  ROOT %dot.2 = f32[2]{0} dot(%a, %b), metadata={op_name="jit(f)/jvp(CNN)/Dense_0/dot_general"}
  %copy.3 = f32[2]{0} copy(%a)
"""  # noqa: E501


def test_what_ran_inside_of_another_is_not_its_own_time():
    spans = [("b", 2.0, 5.0), ("a", 0.0, 10.0), ("c", 3.0, 4.0), ("d", 10.0, 11.0)]
    assert parts.alone(spans) == [("a", 7), ("b", 2), ("c", 1), ("d", 1)]


def test_the_longest_operation_is_the_first():
    threads = [
        [("while.9", 0.0, 9e6), ("dot.2", 0.0, 2e6), ("dot.2", 3e6, 5e6)],
        [("fusion.1", 0.0, 6e6)],
    ]
    assert parts.parts(threads, 2, TEXT) == [
        Part("fusion.1", 3, 0.5, "backward/Conv_1/cond/dot_general"),
        Part("dot.2", 2, 1, "jvp(CNN)/Dense_0/dot_general"),
    ]


def test_operations_of_a_kind_are_summed_forward_and_backward_apart():
    found = [
        Part("a", 3, 1, "backward/Conv_1/dot_general"),
        Part("b", 2, 1, "Conv_1/cond/dot_general"),
        Part("c", 4, 2, "dot_general"),
        Part("d", 1, 1),
    ]
    assert parts.kinds(found) == [
        ("dot_general", 6, 3),
        ("backward dot_general", 3, 1),
        ("without a source", 1, 1),
    ]


def test_the_operations_of_a_program():
    f = jax.jit(lambda x: jax.lax.fori_loop(0, 8, lambda i, y: y @ x, x))
    x = jax.numpy.eye(400)

    def run(steps):
        for _ in range(steps):
            f(x).block_until_ready()

    found = parts.profile(run, f.lower(x).compile().as_text(), 0.1)
    first = found["parts"][0]
    assert "dot" in first.source and first.times == pytest.approx(8, rel=0.1)
    # one product at a time: theirs is nearly all of the time, and none counts twice
    assert 0.1 * found["ms"] < found["all"] < 1.1 * found["ms"]
    assert f"| {first.name} | {first.ms:.3f} |" in parts.table(found)
