import pytest

from minifold_pl.cli.main import main


@pytest.mark.parametrize("value", ["nan", "0", "2", "-1", "inf"])
def test_an_identity_that_is_no_share_is_wrong_use(tmp_path, capsys, value):
    assert main(["data", "stats", str(tmp_path), f"--identity={value}"]) == 2
    assert f"--identity {float(value)}: give a share above 0, at most 1" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-5"])
def test_crops_have_a_length(tmp_path, capsys, value):
    assert main(["data", "stats", str(tmp_path), f"--max-length={value}"]) == 2
    assert f"--max-length {value}: give at least 1 residue" in capsys.readouterr().err
