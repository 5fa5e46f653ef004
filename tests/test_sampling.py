"""From logits to names: the small pieces, the knobs, and the lecture's own names."""
import collections
import json
import math

import pytest
import torch

import makemore


def seeded(n=5):
    return torch.Generator().manual_seed(n)


@pytest.fixture(scope='module')
def lecture(request, command_line, tmp_path_factory):
    """The bigram lecture, counted: a fake count of 1, no split."""
    folder = tmp_path_factory.mktemp('lecture')
    result = command_line('-i', request.config.rootpath / 'names.txt', '--type', 'ngram', '--block-size', 1,
                          '--smoothing', 'add:1', '--split', 'all', '-o', folder)
    assert result.code == 0, result.err
    return folder


# ----------------------------------------------------------------------------------------------------------------------
# Pieces

LOGITS = torch.tensor([[1.0, 3.0, 2.0, 0.0, 2.5]])


def test_probabilities():
    exact = [math.exp(x) for x in LOGITS[0].tolist()]
    p = makemore.probabilities(LOGITS)
    assert p.dtype == torch.float64 and p[0].tolist() == pytest.approx([x / sum(exact) for x in exact], rel=1e-6)


@pytest.mark.parametrize('temperature', [0.1, 0.5, 1, 2, 100])
def test_temperature_divides_the_logits(temperature):
    exact = [math.exp(x / temperature) for x in LOGITS[0].tolist()]
    p = makemore.probabilities(LOGITS, temperature=temperature)[0]
    assert p.tolist() == pytest.approx([x / sum(exact) for x in exact])


@pytest.mark.parametrize('temperature', [0, 1e-310, 1e-9])
def test_temperature_zero_and_its_neighbours_take_the_likeliest(temperature):
    p = makemore.probabilities(LOGITS, temperature=temperature)
    assert makemore.draw(p, seeded()).tolist() == [1] and p[0, 1] == p.sum()


EVERYTHING = {0, 1, 2, 3, 4}


@pytest.mark.parametrize('k, left', [(1, {1}), (2, {1, 4}), (3, {1, 2, 4}), (5, EVERYTHING), (1000, EVERYTHING)])
def test_top_k_keeps_the_k_likeliest(k, left):
    """More than there are tokens is all of them; the original ends in a traceback."""
    p = makemore.probabilities(LOGITS, top_k=k)
    assert set(p[0].nonzero().flatten().tolist()) == left


def test_top_k_keeps_k_of_equals():
    p = makemore.probabilities(torch.zeros(2, 5), top_k=2)
    assert (p > 0).sum(1).tolist() == [2, 2]


@pytest.mark.parametrize('share, left', [(1e-9, {1}), (0.5, {1, 4}), (0.74, {1, 4}), (0.9, {1, 2, 4}), (1, EVERYTHING)])
def test_top_p_keeps_the_fewest_that_make_up_p(share, left):
    """0.46, 0.28, 0.17, 0.06, 0.02: the one that crosses the line is in."""
    p = makemore.probabilities(LOGITS, top_p=share)
    assert set(p[0].nonzero().flatten().tolist()) == left


def test_rows_are_cut_one_by_one():
    logits = torch.cat([LOGITS, LOGITS.flip(1), torch.tensor([[0.0, 0, 9, 0, 0]])])
    for how in (dict(top_k=2), dict(top_p=0.6), dict(temperature=0), dict(top_k=3, top_p=0.8, temperature=2)):
        together = makemore.probabilities(logits, **how)
        for row, p in zip(logits, together):
            torch.testing.assert_close(makemore.probabilities(row[None], **how)[0], p)


def test_draw_is_the_place_in_the_cumulative_sum():
    p, generator = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).double().repeat(500, 1), seeded(1)
    u = torch.rand(500, 1, dtype=torch.float64, generator=seeded(1)).flatten().tolist()
    expected = [0 if x < 0.2 else 2 if x < 0.7 else 3 for x in u]
    assert makemore.draw(p, generator).tolist() == expected and set(expected) == {0, 2, 3}


def test_draw_needs_no_sum_of_one():
    p = torch.tensor([[2.0, 6.0]]).double().repeat(4000, 1)
    assert makemore.draw(p, seeded()).double().mean().item() == pytest.approx(0.75, abs=0.03)


# ----------------------------------------------------------------------------------------------------------------------
# The lecture's bigram

def test_the_loss_of_the_counted_bigram(lecture):
    """The lecture prints 2.4543561935: the same sum, accumulated in float32 in the order of the words."""
    result = json.loads((lecture / 'result.json').read_text())
    assert result['train'] == result['dev'] == pytest.approx(2.45457682, abs=5e-9) and result['test'] is None


def test_the_lectures_names(lecture):
    model, words = makemore.load(lecture)
    assert makemore.sample(model, words, 5, seed=2147483647) == 'mor axx minaymoryles kondlaisah anchshizarie'.split()


def test_the_lectures_names_at_the_command_line(lecture, run):
    result = run('--sample-only', '-o', lecture, '--num-samples', 5, '--seed', 2147483647)
    assert (result.code, result.out) == (0, 'mor\naxx\nminaymoryles\nkondlaisah\nanchshizarie\n')


def test_the_counts_are_the_lectures(lecture, request):
    """The table of the lecture, row by row, from zip(word, word[1:])."""
    model, words = makemore.load(lecture)
    texts = (request.config.rootpath / 'names.txt').read_text().split()
    counts = collections.Counter(pair for text in texts for pair in zip('.' + text, text + '.'))
    letters = '.abcdefghijklmnopqrstuvwxyz'
    table = torch.tensor([[counts[a, b] + 1 for b in letters] for a in letters]).double()
    p = model.logits(torch.arange(27)[:, None])[:, 0].exp()
    torch.testing.assert_close(p.double(), table / table.sum(1, keepdim=True), rtol=1e-7, atol=0)


# ----------------------------------------------------------------------------------------------------------------------
# Samples

@pytest.fixture(scope='module')
def anything(finished):
    """A model that has learnt next to nothing, so that it writes all sorts of things."""
    return makemore.load(finished('gru'))


def test_a_seed_repeats_the_samples(anything):
    a, b, c = (makemore.sample(*anything, 20, seed=seed) for seed in (1, 1, 2))
    assert a == b != c and len(a) == 20


@pytest.mark.parametrize('n', [0, 1, 50, 51, 600])
def test_as_many_as_asked_for(anything, n):
    assert len(makemore.sample(*anything, n)) == n


def test_a_prompt_begins_every_sample(anything):
    for n in (3, 60):
        texts = makemore.sample(*anything, n, prompt='chr')
        assert all(text.startswith('chr') for text in texts) and len(set(texts)) > 1


def test_a_prompt_longer_than_the_window(finished):
    for kind in makemore.MODELS:
        texts = makemore.sample(*makemore.load(finished(kind)), 2, prompt='ab' * 40)
        assert all(text.startswith('ab' * 40) for text in texts)


def test_an_unknown_character_is_named(anything, finished, run):
    with pytest.raises(makemore.UserError, match="'é'.*abcdefghijklmnopqrstuvwxyz"):
        makemore.sample(*anything, 1, prompt='aé')
    result = run('--sample-only', '-o', finished('gru'), '--prompt', 'xé!')
    assert (result.code, result.out) == (2, '') and "'!'" in result.err and 'abcdefghijklm' in result.err


def test_greedy_is_the_same_every_time(anything):
    texts = makemore.sample(*anything, 5, temperature=0)
    assert len(set(texts)) == 1
    assert makemore.sample(*anything, 2, top_k=1) == texts[:2] == makemore.sample(*anything, 2, top_p=1e-9)


def test_new_only_has_no_repeats_and_nothing_from_the_data(finished, names):
    """Of an ngram, which likes to repeat what it has read; without the knob the test would prove nothing."""
    model, words = makemore.load(finished('ngram'))
    known = set(names.read_text().split('\n'))
    plain, new = makemore.sample(model, words, 300), makemore.sample(model, words, 300, new_only=True)
    assert known & set(plain) and len(set(plain)) < 300
    assert not known & set(new) and len(set(new)) == len(new) == 300 and '' not in new


def test_new_only_gives_up_and_says_so(run, tmp_path):
    """A model that knows one line by heart has not a thousand new ones in it."""
    (tmp_path / 'one.txt').write_text('abcdefghijklmnop')
    assert run('-i', 'one.txt', '--type', 'ngram', '-o', 'x').code == 0
    result = run('--sample-only', '-o', 'x', '--new-only', '--num-samples', 100000, '--temperature', 0.05)
    found = result.out.splitlines()
    assert result.code == 0 and len(found) < 100000 and str(len(found)) in result.err.replace(',', '')


def test_sampling_ends_though_a_model_never_does(build):
    _, words, model = build('bigram')
    model.table.weight.data[:, 0] = -math.inf      # the end never comes
    texts = makemore.sample(model, words, 3)
    assert len(texts) == 3 and all(len(text) < 100 for text in texts)


def test_sampling_leaves_the_mode_as_it_was(build):
    _, words, model = build('bn-mlp')
    makemore.sample(model.train(), words, 1)
    assert model.training
    makemore.sample(model.eval(), words, 1)
    assert not model.training


def test_samples_follow_the_probabilities(lecture):
    """First letters of 4,000 names against the first row of the table."""
    model, words = makemore.load(lecture)
    first = collections.Counter(text[:1] for text in makemore.sample(model, words, 4000))
    p = model.logits(torch.tensor([[0]]))[0, 0].exp().tolist()
    for token, letter in enumerate(' ' + words.symbols):
        if token:
            assert first[letter] / 4000 == pytest.approx(p[token], abs=4 * math.sqrt(p[token] / 4000) + 1e-3)


def test_one_long_stream_has_no_stop(build):
    _, _, model = build('bigram')
    made = list(makemore.generate(model, torch.zeros(2, 1).long(), seeded(), 40, stop=None))
    assert len(made) == 40 and all(rows == [0, 1] for rows, _ in made)
