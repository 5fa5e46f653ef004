"""The program, through its own front door."""
import json

import makemore


def test_a_run_leaves_what_sampling_needs(tmp_path, capsys):
    names = tmp_path / 'names.txt'
    names.write_text('\n'.join(['emma', 'olivia', 'ava', 'isabella', 'sophia', 'charlotte', 'mia', 'amelia', 'harper', 'evelyn']))
    out = tmp_path / 'out'
    assert makemore.main(['-i', str(names), '-o', str(out), '--type', 'mlp', '--max-steps', '5']) == 0
    assert json.loads((out / 'result.json').read_text())['type'] == 'mlp'
    names.unlink()
    capsys.readouterr()
    assert makemore.main(['--sample-only', '-o', str(out), '--num-samples', '7']) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
