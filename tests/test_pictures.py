"""The pictures of a run: what is drawn, with which letters, and where it is written."""

import ast
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

import makemore
from makemore_extras import pictures

pytestmark = pytest.mark.slow

# -----------------------------------------------------------------------------
# without matplotlib


def test_matplotlib_is_imported_only_inside_functions():
    """Neither training nor sampling waits for it."""
    tree = ast.parse(Path(pictures.__file__).read_text(encoding='utf-8'))
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert 'matplotlib' not in ast.unparse(node)


def test_without_matplotlib_a_line_says_so(train, run, monkeypatch, with_pictures):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)  # importing it fails
    result = train('mlp', '-o', 'x', '--diagnose', 5)
    assert result.code == 0
    line = 'matplotlib is not installed, so there are no pictures: pip install matplotlib'
    assert result.err.splitlines().count(line) == 1
    assert list(Path('x').glob('*.png')) == []
    result = run('--sample-only', '-o', 'x')
    assert (result.code, 'matplotlib' in result.err) == (0, False)


pytest.importorskip('matplotlib', reason='matplotlib is not installed: pip install matplotlib')

# -----------------------------------------------------------------------------
# the pictures of a run


def read_size(path):
    """Width and height of a PNG file."""
    png = path.read_bytes()
    assert png.startswith(b'\x89PNG')
    return struct.unpack('>II', png[16:24])


WANTED = {
    'ngram': set(),
    'bigram': {'loss', 'embedding', 'bigrams'},
    'mlp': {'loss', 'embedding'},
    'lstm': {'loss', 'embedding'},
    'transformer': {'loss', 'embedding'},
    'mix': {'loss', 'embedding'},
}


def test_ctrl_c_while_a_picture_is_drawn(train, monkeypatch, with_pictures):
    """matplotlib made a `ValueError: Invalid bounding box` of it, and that a traceback."""
    finished = []

    def draw(run, vectors):
        signal.raise_signal(signal.SIGINT)
        finished.append(True)
        return {}

    monkeypatch.setattr(makemore, 'draw_pictures', draw)
    result = train('mlp', '-o', 'x')
    assert (result.code, finished) == (130, [True])
    assert 'resume with' in result.err.splitlines()[-1]


def test_a_run_without_a_step_has_pictures(train, with_pictures):
    """It has no training loss, which ended in a traceback when its curves were drawn."""
    result = train('mlp', '-o', 'x', max_steps=0)
    assert result.code == 0, result.err
    assert {path.stem for path in Path('x').glob('*.png')} == {'loss', 'embedding'}


@pytest.mark.parametrize('model_type', WANTED)
def test_pictures_are_in_the_folder_and_in_tensorboard(model_type, train, with_pictures):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    result = train(model_type, '-o', 'x')
    assert result.code == 0
    names = WANTED[model_type]
    assert {path.stem for path in Path('x').glob('*.png')} == names
    for name in names:
        width, height = read_size(Path(f'x/{name}.png'))
        assert 300 < height <= width
        assert f'{name}.png' in result.err
    events = accumulator.EventAccumulator('x').Reload()
    assert set(events.Tags()['images']) == {f'pictures/{name}' for name in names}
    for name in names:
        (image,) = events.Images(f'pictures/{name}')
        assert image.step == (0 if model_type == 'ngram' else 12)
        assert (image.width, image.height) == read_size(Path(f'x/{name}.png'))


def test_a_diagnosed_run_has_more_pictures(train, with_pictures):
    """At its end, those of the diagnosis were not among the files that it named."""
    result = train('mlp', '-o', 'x', '--diagnose', 5)
    assert result.code == 0
    names = {path.stem for path in Path('x').glob('*.png')}
    assert names == {*makemore.PICTURES} - {'bigrams'}
    (line,) = [line for line in result.err.splitlines() if line.startswith('pictures in x: ')]
    listed = line.removeprefix('pictures in x: ').split(', ')
    assert {name.removesuffix('.png') for name in listed} == names


def test_ngram_counts_with_one_letter_of_context_have_the_table(train, with_pictures):
    assert train('ngram', '-o', 'x', '--block-size', 1).code == 0
    assert [path.name for path in Path('x').glob('*.png')] == ['bigrams.png']


def test_byte_pairs_have_no_letters_to_show(train, with_pictures):
    args = ['--tokenizer', 'bpe', '--vocab-size', 256]
    assert train('bigram', '-o', 'x', *args).code == 0
    assert [path.name for path in Path('x').glob('*.png')] == ['loss.png']


def test_overwriting_a_run_removes_its_pictures(train, with_pictures):
    """An n-gram run in the place of a gru showed the embedding of the gru."""
    assert train('gru', '-o', 'x', '--diagnose', 5).code == 0
    assert Path('x/embedding.png').exists()
    assert Path('x/vectors.tsv').exists()
    Path('x/mine.png').write_bytes(b'not of the program')
    assert train('ngram', '-o', 'x', '--overwrite').code == 0
    assert [path.name for path in Path('x').glob('*.png')] == ['mine.png']
    assert not Path('x/vectors.tsv').exists()


def test_letters_that_no_font_has_are_named(run, monkeypatch, with_pictures):
    """They were boxes, and nothing said why."""
    monkeypatch.setattr(pictures, 'read_characters', lambda path: set('abcdefghijklmno.'))
    Path('list.txt').write_text('\n'.join(['あa', 'いb'] * 20), encoding='utf-8')
    args = ['-i', 'list.txt', '--type', 'bigram', '--max-steps', 5, '--split', 'all']
    result = run(*args, '-o', 'x')
    assert result.code == 0
    assert 'no installed font has あい: shown as codes until' in result.err


# -----------------------------------------------------------------------------
# fonts and letters


def test_ascii_needs_one_font_only():
    letters = ''.join(map(chr, range(33, 127)))
    assert pictures.label_letters(letters) == (list(letters), ['DejaVu Sans'])


def test_accents_and_cyrillic_are_in_the_font_that_comes_with_matplotlib():
    assert pictures.find_fonts('Åéßüñłжя') == (['DejaVu Sans'], '')


def test_another_font_is_used_for_what_the_first_one_lacks(monkeypatch):
    from matplotlib import font_manager

    def font(name, style='normal'):
        return SimpleNamespace(name=name, style=style, fname=name)

    fonts = [font('Gothic'), font('Empty'), font('Cursive', 'italic'), font('Another')]
    characters = {'Gothic': set('あい'), 'Cursive': set('うあい')}
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', fonts)
    monkeypatch.setattr(pictures, 'add_new_fonts', lambda: None)
    monkeypatch.setattr(pictures, 'read_characters', lambda path: characters.get(path, set('ab')))
    assert pictures.find_fonts('aあいう') == (['DejaVu Sans', 'Gothic'], 'う')
    labels, _ = pictures.label_letters('aあう \n')
    assert labels == ['a', 'あ', 'U+3046', "' '", r"'\n'"]


def test_boxes_are_no_letters(monkeypatch):
    """matplotlib brings a font with a box for every letter, and the table was full of these."""
    from matplotlib import font_manager

    boxes = [f for f in font_manager.fontManager.ttflist if f.name.startswith('Last Resort')]
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', boxes)
    monkeypatch.setattr(pictures, 'add_new_fonts', lambda: None)
    assert pictures.find_fonts('a山') == (['DejaVu Sans'], '山')


def test_a_font_that_was_installed_later_is_found(monkeypatch):
    """matplotlib keeps a list of the fonts, and does not look again when one is installed."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    path = font_manager.findfont('DejaVu Serif')
    monkeypatch.setattr(manager, 'ttflist', [f for f in manager.ttflist if f.fname != path])
    monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: [path, __file__])
    pictures.add_new_fonts()
    assert [font.name for font in manager.ttflist if font.fname == path] == ['DejaVu Serif']


def test_a_file_that_is_no_font_has_no_letters(tmp_path):
    path = tmp_path / 'broken.ttf'
    path.write_bytes(b'no font')
    assert pictures.read_characters(str(path)) == set()


@pytest.mark.parametrize('letters', ['.$_', '.^{', '.\\a'])
def test_no_letter_is_taken_for_a_formula(letters):
    """matplotlib takes $$ for the start and the end of a formula."""
    counts = torch.ones(3)
    model = makemore.Bigram(None, 3)
    assert pictures.draw_bigrams(model, letters, counts).startswith(b'\x89PNG')
    assert pictures.draw_embedding(torch.randn(3, 5), letters, counts).startswith(b'\x89PNG')


def test_of_many_letters_the_most_frequent_are_shown():
    counts = torch.zeros(1000)
    counts[100:200] = torch.arange(100)
    ids = pictures.most_frequent(counts)
    assert ids.tolist() == list(range(160, 200))
    assert pictures.most_frequent(torch.tensor([3, 1, 2])).tolist() == [0, 1, 2]
    note = pictures.add_note('Look.', 40, 1000)
    assert note == 'Look. Of 1,000 letters the 40 most frequent are shown.'
    assert pictures.add_note('Look.', 27, 27) == 'Look.'


def test_the_boundary_is_always_shown(build):
    _, dataset, _ = build('bigram')
    counts = makemore.count_tokens(dataset)
    assert counts.argmax() == 0
    a = sum(text.count('a') for text in dataset.train_lines + dataset.heldout_lines)
    assert counts[1] >= a > 0


# -----------------------------------------------------------------------------
# what is drawn


@pytest.fixture
def drawn(monkeypatch):
    """A list of (figure, caption) that takes what is drawn."""
    figures = []

    def to_png(figure, caption):
        figures.append((figure, caption))
        return b''

    monkeypatch.setattr(pictures, 'to_png', to_png)
    return figures


def draw_all():
    """Every picture, of made-up numbers."""
    curve = ([0, 10], [3.3, 2.1])
    rows = torch.randn(30, 4)
    pictures.draw_losses({'train': curve, 'dev': curve, 'n-gram': curve}, 'character')
    pictures.draw_embedding(torch.randn(3, 5), '.ab', torch.ones(3))
    pictures.draw_bigrams(makemore.Bigram(None, 3), '.ab', torch.ones(3))
    pictures.draw_activations({'tanh 1': rows.tanh(), 'tanh 2': rows.tanh()})
    pictures.draw_saturation({'tanh 1': rows > 0, 'tanh 2': rows > 0})
    pictures.draw_gradients({'linear 1': rows})
    pictures.draw_updates({'updates/linear 1': curve, 'updates/guide': curve}, -3)


def test_every_picture_has_axes_and_a_caption(drawn):
    draw_all()
    assert len(drawn) == len(makemore.PICTURES)
    captions = [caption for _, caption in drawn]
    assert len(set(captions)) == len(captions)
    assert all(len(caption) > 80 for caption in captions)
    for figure, _ in drawn:
        for axes in figure.axes:
            assert axes.get_ylabel()
        assert figure.axes[-1].get_xlabel()


def test_the_caption_is_in_the_picture():
    with pictures.new_figure((4, 3)) as figure:
        png = pictures.to_png(figure, 'Look for the vowels.')
    assert png.startswith(b'\x89PNG')
    assert figure.get_supxlabel() == 'Look for the vowels.'


def test_the_loss_of_ngram_counts_is_dashed(drawn):
    pictures.draw_losses({'train': ([1, 2], [3, 2]), 'n-gram': ([0, 2], [2, 2.0254])}, 'token')
    (axes,) = drawn[0][0].axes
    lines = {line.get_label(): line.get_linestyle() for line in axes.lines}
    assert lines == {'train': '-', 'n-gram 2.0254': '--'}
    assert axes.get_ylabel() == 'nats per token'


def test_the_picture_of_a_mix_says_what_its_lines_are(drawn):
    """Its dev loss starts at that of the counts, far below train, which is that of its nets."""
    curves = {'train': ([1, 2], [3.3, 2.5]), 'dev': ([0, 2], [2.2, 2.1])}
    for is_mix in (False, True):
        pictures.draw_curves(curves, {}, 'character', -3, is_mix)
    plain, mix = [caption for _, caption in drawn]
    assert 'mix' not in plain
    assert 'train is the mean of the nets' in mix


def test_all_updates_are_in_one_chart_with_the_line_at_3(drawn):
    """Each had a chart of its own, and the guide another one."""
    curves = {f'updates/linear {i}': ([0, 5], [-2.5, -3.5]) for i in range(30)}
    pictures.draw_updates(curves | {'updates/guide': ([0, 5], [-3, -3])}, -3)
    (axes,) = drawn[0][0].axes
    *lines, guide = axes.lines
    assert len(lines) == 30
    assert guide.get_linestyle() == '--'
    assert set(guide.get_ydata()) == {-3}
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert 'linear 0' in names
    assert len(names) <= pictures.MOST_NAMES


def test_all_layers_are_in_one_figure(drawn):
    outputs = {f'tanh {i}': torch.randn(100, 5).tanh() for i in range(1, 6)}
    pictures.draw_activations(outputs)
    (axes,) = drawn[0][0].axes
    assert len(axes.lines) == 5
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [name.split(':')[0] for name in names] == list(outputs)


def test_a_density_lies_where_its_numbers_are(drawn):
    """Each point stood at the left end of its bin, so that a tanh ended at 0.97."""
    pictures.draw_activations({'tanh 1': torch.linspace(-1, 1, 6001)})
    (line,) = drawn[0][0].axes[0].lines
    assert line.get_xdata()[0] == pytest.approx(-1 + 1 / 60)
    assert line.get_xdata()[-1] == pytest.approx(1 - 1 / 60)


def test_saturation_is_that_of_all_examples(drawn):
    """Of a recurrent net the picture showed the first 200 rows only, which are the first two
    letters of each line, and its title was the share of these.
    """
    mask = torch.zeros(1000, 4, dtype=torch.bool)
    mask[400:] = True  # 60 %
    mask[:, 0] = True  # a dead neuron
    pictures.draw_saturation({'tanh': mask})
    (axes,) = drawn[0][0].axes
    assert axes.get_title() == 'tanh: 70.0 % saturated, dead neurons: 1'
    shown = axes.images[0].get_array()
    assert shown.shape == (pictures.MOST_EXAMPLES, 4)
    assert shown.mean() == pytest.approx(0.7)


def test_weights_of_nan_do_not_stop_a_picture(drawn):
    pictures.draw_gradients({'linear 1': torch.full((3, 3), float('nan')), 'head': torch.eye(3)})
    (axes,) = drawn[0][0].axes
    assert len(axes.lines) == 1


def test_two_channels_are_shown_as_they_are():
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    points, names = pictures.project(vectors)
    assert torch.equal(points, vectors.double())
    assert names == ['channel 1', 'channel 2']


def test_more_channels_are_projected_on_the_widest_two():
    """A line in five dimensions stays a line; distances along it stay."""
    t = torch.arange(10.0)
    vectors = t[:, None] * torch.tensor([1.0, 2.0, 0.0, -2.0, 0.0]) + 7
    points, names = pictures.project(vectors)
    assert names[0] == 'principal component 1: 100 % of the variance'
    torch.testing.assert_close(points[:, 1], torch.zeros(10).double(), atol=1e-4, rtol=0)
    steps = points[1:, 0] - points[:-1, 0]
    torch.testing.assert_close(steps.abs(), torch.full((9,), 3.0).double())


@pytest.mark.parametrize('shape', [(1, 1), (2, 1), (1, 5), (2, 5)])
def test_small_tables_can_be_projected(shape):
    points, names = pictures.project(torch.ones(shape))
    assert points.shape == (shape[0], 2)
    assert points.isfinite().all()
    assert len(names) == 2


def test_cells_of_the_bigram_table(drawn):
    """The pair and its percentage; a pair that never occurs has an empty cell."""
    model = makemore.Bigram(None, 3)
    with torch.no_grad():
        model.table.weight.copy_(
            torch.tensor([[0.5, 0.5, 1e-9], [0.9, 0.1, 1e-9], [1, 1, 2]]).log()
        )
    pictures.draw_bigrams(model, '.ab', torch.ones(3))
    (axes,) = drawn[0][0].axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {
        (0, 0): '..\n50.0', (1, 0): '.a\n50.0',
        (0, 1): 'a.\n90.0', (1, 1): 'aa\n10.0',
        (0, 2): 'b.\n25.0', (1, 2): 'ba\n25.0', (2, 2): 'bb\n50.0',
    }  # fmt: skip
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ['.', 'a', 'b']


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_not_talked_about():
    """matplotlib warns of its cache, in lines that nobody asked for."""
    code = (
        'from makemore_extras import pictures; assert pictures.is_installed(); '
        'pictures.draw_gradients({})'
    )
    env = os.environ | {'MPLCONFIGDIR': f'{os.devnull}/folder'}
    args = [sys.executable, '-c', code]
    done = subprocess.run(args, capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
