"""Beam search on a vocabulary of four: which candidates finish, and when a question is over."""

import torch

from hadpo.generation.beam import _NEVER, _Search, decode_beams
from hadpo.generation.decoding import Decoding

END = 3


def ends(written):
    return written[:, :, -1] == END


def step(search, rows, length, penalty=1.0):
    """One token: `rows` are the probabilities of each beam's next one."""
    return search.step(torch.tensor(rows).log(), length, ends, penalty)


def begun(longest=5):
    """Two beams, "0" and "1", of log-probability log 0.5 and log 0.3."""
    search = _Search(1, 2, longest, torch.device("cpu"))
    step(search, [[0.5, 0.3, 0.15, 0.05]] * 2, 1)
    assert search.running[0, :, 0].tolist() == [0, 1]
    return search


def test_a_candidate_of_the_second_half_stands_by_and_does_not_finish():
    """Candidates: 00 .30, 11 .27, 0E .15, 02 .03: the end is third of four."""
    search = begun()
    step(search, [[0.6, 0.04, 0.06, 0.3], [0.05, 0.9, 0.04, 0.01]], 2)
    assert search.is_finished.tolist() == [[False, False]]
    assert search.scores.max() <= _NEVER / 2
    assert search.running[0, :, :2].tolist() == [[0, 0], [1, 1]]
    torch.testing.assert_close(search.sums.exp(), torch.tensor([[0.3, 0.27]]))


def test_a_candidate_of_the_first_half_finishes_with_its_length_and_leaves_its_place():
    """Candidates: 0E .35, 11 .18, 00 .10, 13 .06: the end is first of four."""
    search = begun()
    step(search, [[0.2, 0.06, 0.04, 0.7], [0.1, 0.6, 0.1, 0.2]], 2, penalty=2.0)
    assert search.is_finished.tolist() == [[True, False]]
    torch.testing.assert_close(search.scores[0, 0], torch.tensor(0.35).log() / 2**2.0)
    assert search.best(0) == [0, END]
    assert search.running[0, :, :2].tolist() == [[1, 1], [0, 0]]  # the third steps in


def test_what_finished_before_is_kept_only_while_it_is_among_the_best():
    search = begun()
    step(search, [[0.2, 0.06, 0.04, 0.7], [0.1, 0.6, 0.1, 0.2]], 2)  # 0E: log .35 / 2 = -.525
    step(search, [[0.05, 0.04, 0.01, 0.9], [0.05, 0.04, 0.01, 0.9]], 3)
    # 11E: log(.18 * .9) / 3 = -.607; 00E: log(.1 * .9) / 3 = -.803, the second of four
    assert search.best(0) == [0, END]
    expected = [torch.tensor(0.35).log() / 2, torch.tensor(0.162).log() / 3]
    torch.testing.assert_close(search.scores[0], torch.stack(expected))
    assert search.finished[0, 1, :3].tolist() == [1, 1, END]


def test_a_question_is_over_when_no_running_beam_beats_its_worst_finished_one():
    search, decoding = begun(), Decoding(name="b", beams=2, max_new_tokens=5)

    def over(running, scores, finished, length, penalty=1.0):
        search.sums = torch.tensor([running])
        search.scores, search.is_finished = torch.tensor([scores]), torch.tensor([finished])
        own = Decoding(name="b", beams=2, max_new_tokens=5, length_penalty=penalty)
        return search.is_over(length, own)[0]

    assert decoding.length_penalty == 1.0
    assert not over([-1.0, -9.0], [-0.1, _NEVER], [True, False], 2)  # one place is free
    assert not over([-1.0, -9.0], [-0.1, -0.6], [True, True], 2)  # -0.5 beats -0.6
    assert over([-1.0, -9.0], [-0.1, -0.4], [True, True], 2)  # it beats the worst no more
    assert over([-1.0, -9.0], [-0.1, -0.5], [True, True], 2)  # nor if it is as good
    assert over([-1.0, -0.1], [-0.1, -0.4], [True, True], 2)  # the first of them is the best
    assert not over([-1.0, -9.0], [-0.1, -0.4], [True, True], 2, penalty=2.0)  # -0.25 beats -0.4
    assert over([-1.0, -9.0], [-0.1, -0.4], [True, True], 2, penalty=0.0)  # -1 does not


class Told:
    """Stands for a backbone, and for what its questions have read: each says its own token.

    A question says it until its answer has the length that it was told, and ends there.
    """

    def __init__(self, lengths, questions=None):
        self.lengths = lengths
        self.questions = [*range(len(lengths))] if questions is None else questions
        self.ends, self.said = ends, 0

    def logits(self, beams):
        shares = torch.full((len(self.questions), 4), 0.04)
        for row, question in enumerate(self.questions):
            shares[row, question % 3] = 0.9
            if self.said + 1 == self.lengths[question]:
                shares[row] = torch.tensor([0.01, 0.01, 0.01, 0.97])
        return shares.log().repeat_interleave(beams, dim=0)

    def slots(self, beams):
        return self

    def select(self, rows):
        self.questions = [self.questions[row] for row in rows]
        return self

    def follow(self, parents):
        assert parents.shape == (len(self.questions), 2)
        return self

    def extend(self, slots, tokens):
        assert tokens.shape == (len(self.questions), 2)
        self.said += 1
        return self.logits(2), slots


def test_questions_that_are_over_leave_and_the_others_go_on_with_their_own_beams():
    lengths = (2, 6, 4, 3, 7)
    told, decoding = Told(lengths), Decoding(name="b", beams=2, max_new_tokens=9)
    found = decode_beams(told, told.logits(1), told, decoding)
    assert found == [[k % 3] * (length - 1) + [END] for k, length in enumerate(lengths)]
    assert told.questions == [4]  # the last that was read on
