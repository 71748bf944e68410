"""Frame stacks, of chunks and of single steps."""

import torch

from world_model.frame_stack import last_frames, push, stack_chunk


def test_every_frame_is_stacked_on_its_predecessors_of_the_same_episode() -> None:
    frames = torch.arange(1, 6, dtype=torch.float32).view(1, 5, 1, 1, 1).expand(1, 5, 3, 2, 2)  # frame t is full of t
    is_first = torch.tensor([[True, False, False, True, False]])
    found = stack_chunk(frames, is_first, 3)[0, :, :, 0, 0].tolist()
    expected = [[1, 1, 1], [2, 1, 1], [3, 2, 1], [4, 4, 4], [5, 4, 4]]
    assert found == [[place for place in row for _ in range(3)] for row in expected]


def test_steps_are_stacked_as_chunks_are() -> None:
    torch.manual_seed(0)
    frames, is_first = torch.randn(2, 6, 3, 4, 4), torch.rand(2, 6) < 0.3
    is_first[:, 0] = True
    expected = stack_chunk(frames, is_first, 4)
    earlier = tuple(torch.zeros(2, 3, 4, 4) for _ in range(3))
    for t in range(6):
        places = push(frames[:, t], is_first[:, t], earlier)
        torch.testing.assert_close(torch.cat(places, 1), expected[:, t], rtol=0, atol=0)
        earlier = places[:-1]


def test_a_stack_of_one_is_the_frame() -> None:
    frames = torch.randn(2, 3, 3, 4, 4)
    assert stack_chunk(frames, torch.ones(2, 3, dtype=torch.bool), 1) is frames


def test_the_last_frames_continue_a_chunk() -> None:
    torch.manual_seed(0)
    frames, is_first = torch.randn(2, 7, 3, 4, 4), torch.zeros(2, 7, dtype=torch.bool)
    is_first[0, 3] = True
    for count in (1, 2, 4):
        earlier = last_frames(frames[:, :5], is_first[:, :5], count)
        found = stack_chunk(frames[:, 5:], is_first[:, 5:], count, earlier)
        torch.testing.assert_close(found, stack_chunk(frames, is_first, count)[:, 5:], rtol=0, atol=0)
