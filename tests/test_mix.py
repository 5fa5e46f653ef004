"""Several models together: --type mix."""

import copy
import math
import re
import signal

import pytest
import torch
import torch.nn as nn

import makemore
from makemore_extras import fast

MEMBERS = 'ngram,gru,mlp'


@pytest.fixture
def mix(build):
    """A mix of three on the 200 names, with weights that differ and nets that know something."""
    config, dataset, model = build('mix', members=MEMBERS, dropout=0.0)
    torch.manual_seed(0)
    for p in model.members.parameters():
        nn.init.normal_(p, std=0.3)
    model.weights.copy_(torch.tensor([0.5, 0.3, 0.2]))
    return config, dataset, model.eval()


def all_of(dataset, split):
    return makemore.pad_batch(dataset.tokens, dataset.spans[split])


# -----------------------------------------------------------------------------
# the model


def test_its_probabilities_are_the_weighted_mean_of_those_of_its_members(mix):
    _, dataset, model = mix
    x, _ = all_of(dataset, 'dev')
    mean = 0
    for member, weight in zip(model.members, [0.5, 0.3, 0.2], strict=True):
        mean = mean + weight * member.logits(x).double().softmax(-1)
    probs = model.logits(x).exp()
    torch.testing.assert_close(probs, mean)
    torch.testing.assert_close(probs.sum(-1), torch.ones_like(probs[..., 0]))
    torch.testing.assert_close(model.next_logits(x).exp(), mean[:, -1])


def test_its_loss_is_that_of_these_probabilities(mix):
    _, dataset, model = mix
    x, y = all_of(dataset, 'dev')
    total = n = 0
    for logits, targets in zip(model.logits(x), y, strict=True):
        for row, target in zip(logits, targets.tolist(), strict=True):
            if target >= 0:
                total -= row[target].item()
                n += 1
    assert model(x, y).item() == pytest.approx(total / n, rel=1e-6)


def test_a_member_with_weight_zero_has_no_say(mix):
    _, dataset, model = mix
    model.weights.copy_(torch.tensor([0.0, 1.0, 0.0]))
    x, _ = all_of(dataset, 'dev')
    torch.testing.assert_close(
        model.logits(x).softmax(-1), model.members[1].logits(x).double().softmax(-1)
    )


def test_each_member_has_the_sizes_of_its_type_or_those_that_were_typed(names):
    config = makemore.resolve_config({'type': 'mix', 'members': 'ngram,gru,wavenet'})
    model = makemore.Mix(makemore.replace(config, block_size=16), 27)
    assert model.members[0].context == 5
    assert model.members[1].h2h.in_features == 128
    assert model.members[2].context == 8
    config = makemore.resolve_config({'type': 'mix', 'members': 'ngram,gru', 'n_hidden': 9})
    model = makemore.Mix(makemore.replace(config, block_size=16), 27)
    assert model.members[1].h2h.in_features == 9


# -----------------------------------------------------------------------------
# the weights


def test_no_other_weights_have_a_lower_loss():
    """Expectation maximization against a search over a fine grid of all weights."""
    torch.manual_seed(2)
    losses = torch.rand(400, 3).double() * torch.tensor([4.0, 4.5, 5.0])
    found = makemore.fit_weights(losses)
    assert found.sum().item() == pytest.approx(1)

    def loss_of(weights):
        return -(losses.neg().exp() @ weights).log().mean().item()

    grid = range(0, 101, 2)
    rivals = [(a / 100, b / 100, (100 - a - b) / 100) for a in grid for b in grid if a + b <= 100]
    best = min(rivals, key=lambda weights: loss_of(torch.tensor(weights).double()))
    assert loss_of(found) <= loss_of(torch.tensor(best).double()) + 1e-7
    assert found.tolist() == pytest.approx(best, abs=0.03)


def test_a_member_that_is_always_worse_gets_no_weight():
    losses = torch.rand(300, 1).double() * torch.tensor([1.0, 1.0]) + torch.tensor([0.0, 3.0])
    assert makemore.fit_weights(losses)[1] < 1e-6


@pytest.mark.slow
def test_without_lines_held_out_all_members_count_the_same(train, tmp_path):
    """On its own training lines a model that knows them by heart would get all the weight."""
    assert train('mix', '-o', 'x', '--split', 'all', members='ngram,gru').code == 0
    model, _ = makemore.load(tmp_path / 'x')
    assert model.weights.tolist() == [0.5, 0.5]
    assert train('mix', '-o', 'y', members='ngram,gru').code == 0
    model, _ = makemore.load(tmp_path / 'y')
    assert model.weights.tolist() != [0.5, 0.5]


# -----------------------------------------------------------------------------
# training


@pytest.mark.slow
def test_each_net_learns_as_it_would_alone(train, tmp_path):
    """With one net beside the counts, its weights are those of the same type alone."""
    settings = {'dropout': 0.2, 'batch_size': 16, 'learning_rate': 0.004, 'weight_decay': 0.1}
    assert train('mix', '-o', 'mix', members='ngram,gru', **settings).code == 0
    assert train('gru', '-o', 'gru', **settings).code == 0
    mix = torch.load(tmp_path / 'mix/last.pt')['model']
    gru = torch.load(tmp_path / 'gru/last.pt')['model']
    for name, weight in gru.items():
        assert torch.equal(mix[f'trained.1.{name}'], weight), name


def test_each_net_is_clipped_by_its_own_gradient(build):
    """The gradient of one net does not change how far another one goes."""
    config, dataset, model = build('mix', members='gru,mlp', dropout=0.0, grad_clip=0.01)
    run = makemore.Run(config, dataset, model.train(), device=torch.device('cpu'))
    run.optimizer = makemore.make_optimizer(config, model, run.device)
    run.backward = makemore.choose_backward(run)
    makemore.train_step(run, model, 0.0)
    for net in model.learners:
        norms = torch.stack([p.grad.norm() for p in net.parameters()])
        assert norms.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_member_keeps_the_weights_with_which_it_predicted_dev_best(mix):
    """A net that starts to overfit goes on learning, but votes as it did at its best."""
    _, dataset, model = mix
    x, y = all_of(dataset, 'dev')

    def compute_losses(net):
        return net.token_losses(x, y)

    model.update(compute_losses)
    good = copy.deepcopy(model.members[1].state_dict())
    best_losses = model.best_losses.clone()
    nn.init.normal_(model.trained['1'].head.weight, std=50.0)
    loss = model.update(compute_losses)
    for name, weight in model.members[1].state_dict().items():
        assert torch.equal(weight, good[name])
    assert torch.equal(model.best_losses, best_losses)
    assert loss == pytest.approx(model(x, y).item())

    model.trained['1'].load_state_dict(good)
    with torch.no_grad():
        model.trained['1'].head.bias += y[y >= 0].bincount(minlength=27).log1p() / 10
    model.update(compute_losses)
    assert model.best_losses[1] < best_losses[1]
    assert torch.equal(model.members[1].head.bias, model.trained['1'].head.bias)


def test_the_fast_loss_and_its_gradients_are_those_of_the_plain_model(build):
    _, dataset, model = build('mix', members=MEMBERS + ',transformer,bow', dropout=0.0)
    model.train()
    x, y = all_of(dataset, 'dev')
    assert fast.computes_the_same(fast.mix_loss, model, x, y)
    assert fast.mix_loss(model, x, y).item() > 4 * math.log(20)  # a sum, one loss for each net


def test_the_log_shows_each_member_and_its_weight(train):
    done = train('mix', '-o', 'x', members='ngram,mlp')
    assert done.code == 0
    lines = [line for line in done.err.splitlines() if 'weight' in line]
    assert len(lines) >= 2  # at step 0, and wherever dev has improved
    for line in lines:
        assert 'ngram' in line and 'mlp' in line


@pytest.mark.slow
def test_a_mix_that_is_stopped_early_samples_from_nets_that_have_learned(
    train, run, tmp_path, monkeypatch
):
    """Before the first evaluation in training its members are still the nets of step 0.

    Once best.pt of a mix that was stopped early was that of step 0. last.pt is not changed: a
    resumed run ends as one that nobody disturbed.
    """
    settings = {'members': 'ngram,gru', 'max_steps': 12, 'eval_interval': 10}
    assert train('mix', '-o', 'one', **settings).code == 0

    original = makemore.train_step

    def stopped_step(state, *args):
        if state.step == 7:
            signal.raise_signal(signal.SIGINT)
        return original(state, *args)

    with monkeypatch.context() as patch:
        patch.setattr(makemore, 'train_step', stopped_step)
        assert train('mix', '-o', 'two', **settings).code == 130
    best = torch.load(tmp_path / 'two/best.pt')
    last = torch.load(tmp_path / 'two/last.pt')
    assert best['step'] == last['step'] == 8
    for name, weight in last['model'].items():
        if name.startswith('trained.1.'):
            member = name.replace('trained', 'members')
            assert torch.equal(best['model'][member], weight), name
    assert not torch.equal(last['model']['best_losses'], best['model']['best_losses'])

    assert run('--resume', '-o', 'two').code == 0
    one = torch.load(tmp_path / 'one/last.pt')['model']
    two = torch.load(tmp_path / 'two/last.pt')['model']
    for name, weight in one.items():
        assert torch.equal(two[name], weight), name


def test_a_process_without_a_line_of_dev_updates_a_mix(build, monkeypatch):
    """With more processes than lines of dev it once failed: torch.cat of an empty list."""
    config, dataset, model = build('mix', members='ngram,gru')
    dev = dataset.spans['dev']
    one_line = makemore.Spans(dev.starts[:1], dev.lengths[:1])
    dataset = makemore.replace(dataset, spans={'dev': one_line})
    monkeypatch.setattr(makemore, 'get_rank', lambda: 1)
    monkeypatch.setattr(makemore, 'get_world_size', lambda: 2)
    # the other process has 5 tokens; what else it adds does not matter here
    monkeypatch.setattr(
        makemore, 'sum_over_ranks', lambda *n: [0.0] if len(n) == 1 else [*n[:-1], n[-1] + 5.0]
    )
    run = makemore.Run(config, dataset, model, device=torch.device('cpu'))
    assert makemore.update_mix(run, 'dev') == 0


# -----------------------------------------------------------------------------
# defaults, and when to stop


def write_list(path, n_lines, length=5):
    path.write_text('\n'.join(f'{n:0{length}}' for n in range(n_lines)))


# (lines, characters per line) -> members, batch size, learning rate, steps
DEFAULTS = {
    (100, 5): ('ngram,gru,rnn', 32, 2.5e-3, 400),
    (600, 30): ('ngram,gru,rnn', 32, 2.5e-3, 600),  # 40 epochs
    (4000, 5): ('ngram,gru,rnn', 32, 2.5e-3, 4000),  # 40 epochs
    (3000, 17): ('ngram,gru', 32, 2.5e-3, 3000),  # many characters
    (3000, 35): ('ngram,gru', 32, 2.5e-3, 1500),  # lines twice as long: half the epochs
    (20_000, 5): ('ngram,lstm', 128, 5e-3, 3500),
}


@pytest.mark.parametrize(('n_lines', 'length'), DEFAULTS)
def test_members_and_steps_depend_on_the_size_of_the_list(n_lines, length, run, tmp_path):
    write_list(tmp_path / 'list.txt', n_lines, length)
    made, _ = makemore.new_run(makemore.parse_args(['-i', 'list.txt']), torch.device('cpu'))
    config = made.config
    found = (config.members, config.batch_size, config.learning_rate, config.max_steps)
    assert found == DEFAULTS[n_lines, length]


def test_a_list_with_fewer_lines_than_processes(monkeypatch):
    """The batch size was the number of lines, and was then called too small for all processes."""
    monkeypatch.setattr(makemore, 'get_world_size', lambda: 8)
    dataset = makemore.CharDataset(makemore.CharTokenizer('ab'), 2)
    dataset.spans['train'] = makemore.Spans(torch.arange(3), torch.ones(3))
    assert makemore.choose_batch_size(makemore.Config(), dataset) == 8


# type, lines, flags -> dropout
DROPOUT = {
    ('bn-mlp', 100, ''): 0.2,  # without it this net predicts 400 surnames no better than bigrams
    ('bn-mlp', 20_000, ''): 0.0,
    ('bn-mlp', 100, '--dropout 0.1'): 0.1,
    ('mix', 100, ''): None,  # the members have their own
    ('gru', 100, ''): 0.15,  # on 639 names of jobs 0.2 is worse
    ('mlp', 100, '--backprop micrograd'): 0.0,  # it has no dropout, and was refused
}


@pytest.mark.parametrize(('model_type', 'n_lines', 'flags'), DROPOUT)
def test_some_nets_drop_more_on_a_short_list(model_type, n_lines, flags, run, tmp_path):
    write_list(tmp_path / 'list.txt', n_lines)
    args = ['-i', 'list.txt', '--type', model_type, *flags.split()]
    made, _ = makemore.new_run(makemore.parse_args(args), torch.device('cpu'))
    assert made.config.dropout == DROPOUT[model_type, n_lines, flags]


def test_what_was_typed_counts(run, tmp_path):
    write_list(tmp_path / 'list.txt', 500)
    line = '-i list.txt --members gru,mlp -b 7 --max-steps 9 -l 0.1'
    made, _ = makemore.new_run(makemore.parse_args(line.split()), torch.device('cpu'))
    config = made.config
    found = (config.members, config.batch_size, config.max_steps, config.learning_rate)
    assert found == ('gru,mlp', 7, 9, 0.1)


def test_a_mix_takes_as_many_steps_as_its_slowest_member(run, tmp_path):
    write_list(tmp_path / 'list.txt', 20_000)
    line = '-i list.txt --members ngram,lstm,transformer'
    made, _ = makemore.new_run(makemore.parse_args(line.split()), torch.device('cpu'))
    assert made.config.max_steps == makemore.MODELS['transformer'].preferred_settings['max_steps']


def steps_of(result):
    return [int(line[4:11]) for line in result.err.splitlines() if line.startswith('step ')]


def test_the_log_of_a_mix(train):
    """The loss of the nets is not taken for that of the mixture, which was lower on dev.

    Three members stand on one line of a terminal.
    """
    lines = train('mix', '--members', 'ngram,gru,rnn').err.splitlines()
    steps = [line for line in lines if re.match('step +[1-9]', line)]
    assert all(re.search(r' train loss of the nets \d\.\d{4} \| dev loss', line) for line in steps)
    members = [line for line in lines if 'weight' in line]
    assert members
    for line in members:
        assert re.fullmatch(r'  ngram .* \(weight .*\), gru .*, rnn .* \(weight .*\)', line)
        assert len(line) <= 80


@pytest.mark.slow
def test_a_run_stops_when_dev_has_not_improved_for_long(train, tmp_path):
    """A net that learns a list by heart: what comes after a third of the steps is a waste."""
    settings = {'max_steps': 300, 'eval_interval': 10, 'learning_rate': 0.05, 'n_hidden': 64}
    done = train('gru', '-o', 'x', **settings)
    assert done.code == 0
    best = torch.load(tmp_path / 'x/best.pt')
    last = torch.load(tmp_path / 'x/last.pt')
    assert last['step'] == best['step'] + 100 < 300
    assert best['best_step'] == last['best_step'] == best['step']
    assert f'no lower dev loss since step {best["step"]}: stopping early' in done.err

    done = train('gru', '-o', 'y', '--patience', 300, **settings)
    assert torch.load(tmp_path / 'y/last.pt')['step'] == 300
    done = train('gru', '-o', 'z', '--patience', 20, **settings)
    last = torch.load(tmp_path / 'z/last.pt')
    assert last['step'] == last['best_step'] + 20


@pytest.mark.slow
def test_a_resumed_run_stops_at_the_same_step(train, run, tmp_path, monkeypatch):
    """The step of the lowest loss is saved: a resumed run is as patient as an undisturbed one."""
    settings = {'max_steps': 300, 'eval_interval': 10, 'learning_rate': 0.05, 'n_hidden': 64}
    assert train('gru', '-o', 'one', '--patience', 40, **settings).code == 0
    one = torch.load(tmp_path / 'one/last.pt')
    # the same run, ended by hand 20 steps before, with the schedule of the whole
    step = one['step'] - 20
    original = makemore.get_lr
    whole = makemore.resolve_config({'max_steps': 300, 'learning_rate': 0.05})
    monkeypatch.setattr(makemore, 'get_lr', lambda config, step: original(whole, step))
    assert train('gru', '-o', 'two', '--patience', 40, **settings | {'max_steps': step}).code == 0
    assert run('--resume', '-o', 'two', '--max-steps', 300).code == 0
    two = torch.load(tmp_path / 'two/last.pt')
    assert (two['step'], two['best_step']) == (one['step'], one['best_step'])
