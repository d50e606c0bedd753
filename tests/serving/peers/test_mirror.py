"""Who has which blocks of the peer that leads."""

from __future__ import annotations

from silva.serving.peers.mirror import Mirror


def test_who_is_new_lacks_all_blocks_until_it_has_read_or_written_them() -> None:
    mirror = Mirror()
    mirror.meet([7, 8])
    assert mirror.lacks(7, [1, 2]) == [1, 2]
    mirror.written([2, 3], by=[7])
    mirror.learned([7], [1, 2, 3])
    assert mirror.lacks(7, [1, 2, 3, 4]) == [4]
    assert mirror.lacks(8, [3, 1]) == [3, 1]


def test_what_the_leader_wrote_without_somebody_is_lacking_there() -> None:
    mirror = Mirror()
    mirror.meet([7, 8])
    mirror.learned([7, 8], [1, 2, 3])
    mirror.written([2], by=[8])
    assert (mirror.lacks(7, [1, 2, 3]), mirror.lacks(8, [1, 2, 3])) == ([2], [])
    mirror.written([3])
    assert (mirror.lacks(7, [1, 2, 3]), mirror.lacks(8, [1, 2, 3])) == ([2, 3], [3])


def test_who_shared_a_pass_of_the_draft_module_alone_still_lacks_what_it_wrote_to() -> None:
    mirror = Mirror()
    mirror.meet([7])
    mirror.written([1])  # the model's pass
    mirror.written([1], by=[7])  # the module's
    assert mirror.lacks(7, [1]) == [1]


def test_another_process_in_the_place_of_one_that_has_gone_has_nothing() -> None:
    mirror = Mirror()
    mirror.meet([7, 8])
    mirror.learned([7, 8], [1])
    mirror.meet([8, 9])
    assert (mirror.lacks(8, [1]), mirror.lacks(9, [1])) == ([], [1])
    mirror.meet([7])
    assert mirror.lacks(7, [1]) == [1]
