"""From logits to samples: the small functions, the options, and the names of the lecture."""

import collections
import itertools
import json
import math
import re

import pytest
import torch

import makemore


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope='module')
def lecture(request, command_line, tmp_path_factory):
    """The counted bigram of the lecture: one added to every count, no split."""
    folder = tmp_path_factory.mktemp('lecture')
    names = request.config.rootpath / 'names.txt'
    line = '--type ngram --block-size 1 --smoothing add:1 --split all'
    result = command_line('-i', names, *line.split(), '-o', folder)
    assert result.code == 0, result.err
    return folder


# -----------------------------------------------------------------------------
# from logits to a token

LOGITS = torch.tensor([[1.0, 3.0, 2.0, 0.0, 2.5]])
ALL_TOKENS = {0, 1, 2, 3, 4}


def possible_tokens(probs):
    """The tokens of the first row that can be drawn."""
    return set(probs[0].nonzero().flatten().tolist())


def test_logits_to_probs():
    exact = [math.exp(x) for x in LOGITS[0].tolist()]
    probs = makemore.logits_to_probs(LOGITS)
    assert probs.dtype == torch.float64
    assert probs[0].tolist() == pytest.approx([x / sum(exact) for x in exact], rel=1e-6)


@pytest.mark.parametrize('temperature', [0.1, 0.5, 1, 2, 100])
def test_temperature_divides_the_logits(temperature):
    exact = [math.exp(x / temperature) for x in LOGITS[0].tolist()]
    probs = makemore.logits_to_probs(LOGITS, temperature=temperature)[0]
    assert probs.tolist() == pytest.approx([x / sum(exact) for x in exact])


@pytest.mark.parametrize('temperature', [0, 1e-310, 1e-9])
def test_temperature_at_or_near_zero_is_greedy(temperature):
    probs = makemore.logits_to_probs(LOGITS, temperature=temperature)
    assert makemore.sample_token(probs, generator()).tolist() == [1]
    assert probs[0, 1] == probs.sum()


@pytest.mark.parametrize(
    'k, left', [(1, {1}), (2, {1, 4}), (3, {1, 2, 4}), (5, ALL_TOKENS), (1000, ALL_TOKENS)]
)
def test_top_k_keeps_the_k_most_probable_tokens(k, left):
    """A k above the number of tokens keeps all; the original makemore ends in a traceback."""
    probs = makemore.logits_to_probs(LOGITS, top_k=k)
    assert possible_tokens(probs) == left


def test_top_k_keeps_k_of_equally_probable_tokens():
    probs = makemore.logits_to_probs(torch.zeros(2, 5), top_k=2)
    assert (probs > 0).sum(1).tolist() == [2, 2]


@pytest.mark.parametrize(
    'p, left', [(1e-9, {1}), (0.5, {1, 4}), (0.74, {1, 4}), (0.9, {1, 2, 4}), (1, ALL_TOKENS)]
)
def test_top_p_keeps_the_fewest_tokens_that_add_up_to_p(p, left):
    """Sorted, the probabilities are 0.46, 0.28, 0.17, 0.06, 0.02; the one that reaches p stays."""
    probs = makemore.logits_to_probs(LOGITS, top_p=p)
    assert possible_tokens(probs) == left


@pytest.mark.parametrize(
    'how',
    [
        {'top_k': 2},
        {'top_p': 0.6},
        {'temperature': 0},
        {'top_k': 3, 'top_p': 0.8, 'temperature': 2},
    ],
)
def test_each_row_is_filtered_by_itself(how):
    logits = torch.cat([LOGITS, LOGITS.flip(1), torch.tensor([[0.0, 0, 9, 0, 0]])])
    together = makemore.logits_to_probs(logits, **how)
    for row, probs in zip(logits, together, strict=True):
        alone = makemore.logits_to_probs(row[None], **how)[0]
        torch.testing.assert_close(alone, probs)


def test_sample_token_finds_the_place_in_the_cumulative_sum():
    probs = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).double().repeat(500, 1)
    uniform = torch.rand(500, 1, dtype=torch.float64, generator=generator(1))
    expected = []
    for x in uniform.flatten().tolist():
        if x < 0.2:
            expected.append(0)
        else:
            expected.append(2 if x < 0.7 else 3)
    assert makemore.sample_token(probs, generator(1)).tolist() == expected
    assert set(expected) == {0, 2, 3}


def test_sample_token_draws_what_multinomial_drew():
    """This is why the names of the lectures come out.

    Today torch.multinomial draws a single token in another way, but several as it did then.
    """
    for seed in range(50):
        probs = torch.rand(1, 27, dtype=torch.float64, generator=generator(seed)).softmax(-1)
        drawn = torch.multinomial(probs, 2, replacement=True, generator=generator(seed))
        assert makemore.sample_token(probs, generator(seed)).item() == drawn[0, 0].item()


def test_sample_token_needs_no_sum_of_one():
    probs = torch.tensor([[2.0, 6.0]]).double().repeat(4000, 1)
    tokens = makemore.sample_token(probs, generator())
    assert tokens.double().mean().item() == pytest.approx(0.75, abs=0.03)


# -----------------------------------------------------------------------------
# the bigram of the lecture

LECTURE_NAMES = ['mor', 'axx', 'minaymoryles', 'kondlaisah', 'anchshizarie']


def test_the_loss_of_the_counted_bigram(lecture):
    """The lecture prints 2.4543561935, a float32 sum over the names; it counts the pairs once.

    This is the exact sum in float64.
    """
    result = json.loads((lecture / 'result.json').read_text())
    assert result['train'] == pytest.approx(2.45457682, abs=5e-9)
    assert result['dev'] == result['train']
    assert result['test'] is None


def test_the_names_of_the_lecture(lecture):
    model, dataset = makemore.load(lecture)
    assert makemore.sample(model, dataset, 5, seed=2147483647) == LECTURE_NAMES


def test_the_names_of_the_lecture_on_the_command_line(lecture, run):
    args = ['--num-samples', 5, '--seed', 2147483647]
    result = run('--sample-only', '-o', lecture, *args)
    assert (result.code, result.out.split('\n')) == (0, [*LECTURE_NAMES, ''])


def test_the_counts_are_those_of_the_lecture(lecture, request):
    """The table of the lecture, row by row, from zip(name, name[1:])."""
    model, _ = makemore.load(lecture)
    counts = collections.Counter()
    for name in (request.config.rootpath / 'names.txt').read_text().split():
        counts.update(itertools.pairwise(f'.{name}.'))
    letters = '.abcdefghijklmnopqrstuvwxyz'
    table = torch.tensor([[counts[a, b] + 1 for b in letters] for a in letters]).double()
    p = model.logits(torch.arange(27)[:, None])[:, 0].exp()
    expected = table / table.sum(1, keepdim=True)
    torch.testing.assert_close(p.double(), expected, rtol=1e-7, atol=0)


# -----------------------------------------------------------------------------
# samples


@pytest.fixture(scope='module')
def undertrained(finished):
    """Model and data set of a short run: it has learned little, so its samples vary a lot."""
    return makemore.load(finished('gru'))


def test_a_seed_repeats_the_samples(undertrained):
    a = makemore.sample(*undertrained, 20, seed=1)
    b = makemore.sample(*undertrained, 20, seed=1)
    c = makemore.sample(*undertrained, 20, seed=2)
    assert a == b
    assert a != c
    assert len(a) == 20


@pytest.mark.parametrize('n', [0, 1, 20, 21, 50, 600])
def test_the_number_of_samples(undertrained, n):
    assert len(makemore.sample(*undertrained, n)) == n


# up to the number that is drawn one by one, into the first batch, and into the second
FIRST_TWO_PARTS = makemore.ONE_BY_ONE + makemore.SMALLEST_BATCH
SIZES = [1, makemore.ONE_BY_ONE, makemore.ONE_BY_ONE + 1, FIRST_TWO_PARTS, FIRST_TWO_PARTS + 1]


@pytest.mark.slow
@pytest.mark.parametrize('new_only', [False, True])
@pytest.mark.parametrize(
    'model_type, prompt', [('ngram', ''), ('ngram', 'ma'), ('transformer', '')]
)
def test_fewer_samples_are_the_first_of_more(finished, model_type, prompt, new_only):
    """How many samples are asked for does not change what they are."""
    model, dataset = makemore.load(finished(model_type))
    how = {'new_only': new_only, 'prompt': prompt, 'seed': 3}
    longest = makemore.sample(model, dataset, SIZES[-1], **how)
    assert len(longest) == SIZES[-1]
    for n in SIZES:
        assert makemore.sample(model, dataset, n, **how) == longest[:n]


def test_new_samples_are_the_samples_without_the_known_ones(finished):
    """The filter takes from the same stream, in the same order."""
    model, dataset = makemore.load(finished('ngram'))
    plain = makemore.sample(model, dataset, 300, seed=3)
    known = {'', *dataset.train_lines, *dataset.heldout_lines}
    expected = [text for text in dict.fromkeys(plain) if text not in known]
    assert len(expected) < len(plain)
    new = makemore.sample(model, dataset, len(expected), seed=3, new_only=True)
    assert new == expected


def test_a_prompt_begins_every_sample(undertrained):
    for n in (3, 60):
        texts = makemore.sample(*undertrained, n, prompt='chr')
        assert all(text.startswith('chr') for text in texts)
        assert len(set(texts)) > 1


@pytest.mark.slow
@pytest.mark.parametrize('model_type', makemore.MODELS)
def test_a_prompt_longer_than_the_context(model_type, finished):
    prompt = 'ab' * 40
    texts = makemore.sample(*makemore.load(finished(model_type)), 2, prompt=prompt)
    assert all(text.startswith(prompt) for text in texts)


def test_an_unknown_character_is_named(undertrained, finished, run):
    with pytest.raises(makemore.UserError, match=r"'é'.*abcdefghijklmnopqrstuvwxyz"):
        makemore.sample(*undertrained, 1, prompt='aé')
    code, out, err = run('--sample-only', '-o', finished('gru'), '--prompt', 'xé!')
    assert (code, out) == (2, '')
    assert "'!'" in err
    assert 'abcdefghijklm' in err


def test_an_unknown_capital_suggests_lower_case(undertrained):
    """Somebody who types a name begins it with a capital; names.txt has none."""
    with pytest.raises(makemore.UserError) as error:
        makemore.sample(*undertrained, 1, prompt='Maria')
    assert str(error.value) == "'M' is not in the vocabulary; try 'maria'"
    with pytest.raises(makemore.UserError, match='vocabulary, which is'):
        makemore.sample(*undertrained, 1, prompt='Maria!')


def test_greedy_samples_are_all_the_same(undertrained):
    texts = makemore.sample(*undertrained, 5, temperature=0)
    assert len(set(texts)) == 1
    assert makemore.sample(*undertrained, 2, top_k=1) == texts[:2]
    assert makemore.sample(*undertrained, 2, top_p=1e-9) == texts[:2]


def test_new_only_has_no_repeats_and_nothing_from_the_data(finished, names):
    """With an n-gram model, which repeats a lot; otherwise the test would prove nothing."""
    model, dataset = makemore.load(finished('ngram'))
    known = set(names.read_text().split('\n'))
    plain = makemore.sample(model, dataset, 300)
    assert known & set(plain)
    assert len(set(plain)) < 300

    new = makemore.sample(model, dataset, 300, new_only=True)
    assert not known & set(new)
    assert len(set(new)) == len(new) == 300
    assert '' not in new


class CountedText(str):
    """A text that counts how often any of them is compared with another."""

    comparisons = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        CountedText.comparisons += 1
        return str.__eq__(self, other)


def test_leaving_out_takes_linear_time():
    """200,000 samples against 200,000 lines, counted in comparisons of texts.

    A search through a list would need billions of them, a set needs about one per known text.
    """
    n = 200_000
    lines = [CountedText(i) for i in range(n)]
    # one known, one new, the new one once more
    samples = []
    for i in range(0, n, 3):
        samples += [CountedText(i), CountedText(n + i), CountedText(n + i)]
    CountedText.comparisons = 0
    found = list(makemore.keep_wanted(samples, set(lines), unique=True))
    comparisons = CountedText.comparisons
    assert comparisons < 4 * len(samples)
    assert found == [str(n + i) for i in range(0, n, 3)]


def test_leaving_out_reads_no_further_than_it_has_to():
    """It takes samples one at a time, and gives up after MAX_FAILURES in a row."""
    n_drawn = 0

    def stream():
        nonlocal n_drawn
        for text in itertools.chain(['b', 'a', 'ab'], itertools.repeat('b')):
            n_drawn += 1
            yield text

    new = makemore.keep_wanted(stream(), {'a'}, unique=True)
    assert next(new) == 'b'
    assert n_drawn == 1
    assert list(new) == ['ab']
    assert n_drawn == 3 + makemore.MAX_FAILURES


@pytest.mark.slow
def test_new_only_gives_up_and_says_so(run, tmp_path, monkeypatch):
    """A model that has seen a single line does not have 100,000 new ones in it."""
    monkeypatch.setattr(makemore, 'MAX_FAILURES', 2000)  # it takes seconds to draw 10,000
    (tmp_path / 'one.txt').write_text('abcdefghijklmnop')
    assert run('-i', 'one.txt', '--type', 'ngram', '-o', 'x').code == 0
    args = ['--new-only', '--num-samples', 100000, '--temperature', 0.05]
    code, out, err = run('--sample-only', '-o', 'x', *args)
    found = out.splitlines()
    assert code == 0
    assert len(found) < 100000
    n_found = f'only {len(found)}' if found else 'no'
    assert f'found {n_found} new samples' in err


def test_no_sample_is_empty(build, monkeypatch):
    """A line of the list is never blank, so an empty sample is no item; once they were shown.

    A model that has nothing else to say ends, and says so.
    """
    _, dataset, model = build('bigram')
    model.table.weight.data[0, 0] = 4.0  # two thirds of its samples are empty
    plain = makemore.sample_forever(model, dataset, 3407)
    assert '' in itertools.islice(plain, 20)
    assert '' not in makemore.sample(model, dataset, 20)
    assert len(makemore.sample(model, dataset, 20)) == 20

    monkeypatch.setattr(makemore, 'MAX_FAILURES', 500)
    assert makemore.sample(model, dataset, 20, temperature=0) == []


def test_samples_of_the_command_line_are_others_each_time(finished, run):
    """Once "more of them" were the very samples that training had just shown.

    The seed is drawn and printed, and --seed repeats the samples.
    """
    args = ('--sample-only', '-o', finished('gru'))
    first = run(*args)
    second = run(*args)
    assert first.out != second.out
    seed = re.search(r'^seed (\d+); --seed \1 repeats these samples$', second.err, re.M)[1]
    repeated = run(*args, '--seed', seed)
    assert repeated.out == second.out
    assert f'seed {seed}' in repeated.err


def test_sampling_ends_even_if_the_model_never_stops(build):
    _, dataset, model = build('bigram')
    model.table.weight.data[:, 0] = -math.inf  # the boundary is never drawn
    texts = makemore.sample(model, dataset, 3)
    assert len(texts) == 3
    assert all(len(text) < 100 for text in texts)


@pytest.mark.parametrize('training', [True, False])
def test_sampling_leaves_the_mode_as_it_was(training, build):
    _, dataset, model = build('bn-mlp')
    makemore.sample(model.train(training), dataset, 1)
    assert model.training == training


def test_samples_follow_the_probabilities(lecture):
    """First letters of 4,000 names against the first row of the table."""
    model, dataset = makemore.load(lecture)
    first = collections.Counter(text[:1] for text in makemore.sample(model, dataset, 4000))
    p = model.logits(torch.tensor([[0]]))[0, 0].exp().tolist()
    for token, letter in enumerate(dataset.chars, start=1):
        tolerance = 4 * math.sqrt(p[token] / 4000) + 1e-3
        assert first[letter] / 4000 == pytest.approx(p[token], abs=tolerance)


def test_generating_without_a_stop_token(build):
    _, _, model = build('bigram')
    start = torch.zeros(2, 1).long()
    steps = list(makemore.generate(model, start, generator(), 40, stop_token=-1))
    assert len(steps) == 40
    assert all(rows == [0, 1] for rows, _ in steps)


# -----------------------------------------------------------------------------
# --match


@pytest.mark.slow
def test_matching_samples_are_those_of_all_that_match(build):
    """--match is rejection sampling: the same stream without what does not match."""
    _, dataset, model = build('ngram')
    everything = makemore.sample(model, dataset, 3000, seed=5)
    expected = [text for text in everything if text.startswith('a') and 4 <= len(text) <= 6]
    found = makemore.sample(model, dataset, 100, seed=5, match='^a.{3,5}$')
    assert len(found) == 100
    assert found == expected[:100]


def test_the_pattern_may_stand_anywhere_and_beside_other_wishes(build):
    _, dataset, model = build('ngram')
    known = {*dataset.train_lines, *dataset.heldout_lines}
    found = makemore.sample(model, dataset, 20, match='nn', new_only=True, prompt='a')
    assert len(set(found)) == 20
    for text in found:
        assert text.startswith('a') and 'nn' in text and text not in known


def test_a_pattern_that_nothing_fits_ends_with_a_line(finished, run, monkeypatch):
    """Sampling stops after a bounded number of tries."""
    monkeypatch.setattr(makemore, 'MAX_FAILURES', 200)
    done = run('--sample-only', '-o', finished('ngram'), '--match', '^[0-9]+$')
    assert (done.code, done.out) == (0, '')
    wanted = 'found no samples that are not empty and match ^[0-9]+$; '
    assert wanted in done.err.splitlines()[-1]
    done = run('--sample-only', '-o', finished('ngram'), '--match', '^[0-9]+$', '--new-only')
    assert 'found no new samples that match ^[0-9]+$; ' in done.err.splitlines()[-1]


def test_what_is_no_pattern_is_refused(finished, run):
    done = run('--sample-only', '-o', finished('ngram'), '--match', 'a[')
    assert done.code == 2
    assert 'makemore: --match a[: unterminated character set' in done.err
    done = run('--text', '--match', 'a')
    assert done.code == 2
    assert '--match a works with lists only' in done.err
