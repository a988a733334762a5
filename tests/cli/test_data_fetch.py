import functools
import http.server
import json
import threading

import pytest

from minifold_pl.cli.main import main
from minifold_pl.data.store import ChainStore


@pytest.fixture
def mirror(tmp_path):
    """Address of a folder with a small chain set and its splits."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    row = [[3.8 * i, 0.0, 0.0] for i in range(6)]
    lines = [
        json.dumps({"name": n, "seq": "ACDEFG", "coords": {"CA": row}, "CATH": ["1.10.8"]}) for n in "abc"
    ]
    (folder / "chain_set.jsonl").write_text("\n".join(lines) + "\n")
    splits = {"train": ["a"], "validation": ["b"], "test": ["c"], "cath_nodes": {}}
    (folder / "chain_set_splits.json").write_text(json.dumps(splits))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_data_set_is_fetched_and_prepared_and_a_second_time_nothing_is_left_to_do(
    mirror, tmp_path, capsys
):
    command = ["data", "fetch", "cath42", "--out", str(tmp_path / "cath"), "--url", mirror]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "chain_set_splits.json  " in out
    assert "chain_set.jsonl: 0.0 of 0.0 MiB" in err
    store = ChainStore.open(tmp_path / "cath" / "store")
    assert (store.names, store.splits) == (("a", "b", "c"), ("train", "validation", "test"))
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.count("there already") == 3
    assert "nothing was done" in out
    for path in (tmp_path / "cath").glob("chain_set*"):
        path.unlink()
    assert main(command) == 0  # fetched anew, and the same as before
    assert "nothing was done" in capsys.readouterr().out
    for path in (tmp_path / "cath").glob("chain_set*"):
        path.unlink()
    chains = tmp_path / "mirror" / "chain_set.jsonl"
    chains.write_text("\n".join(chains.read_text().splitlines()[:2]) + "\n")
    assert main(command) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert ChainStore.open(tmp_path / "cath" / "store").names == ("a", "b")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--url", "{mirror}/elsewhere"], 1, "the server answers 404"),
        (
            ["--url", "{mirror}", "--sha256", "chain_set.jsonl=" + "0" * 64],
            1,
            "is expected; what was downloaded was",
        ),
        (["--url", "{mirror}", "--sha256", "chain_set.jsonl"], 2, "give FILE=HEX"),
        (["--url", "{mirror}", "--tries", "0"], 2, "tries and timeout must be above 0"),
        (["--url", "{mirror}", "--timeout", "nan"], 2, "tries and timeout must be above 0"),
        (["--url", "{mirror}", "--timeout", "inf"], 2, "timeout at most 86,400 s"),
    ],
)
def test_a_mistake_is_told_in_a_line(mirror, tmp_path, capsys, arguments, code, told):
    command = ["data", "fetch", "cath42", "--out", str(tmp_path / "cath")]
    assert main([*command, *(a.format(mirror=mirror) for a in arguments)]) == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert told in line
    assert not (tmp_path / "cath" / "store").exists()


def test_download_only_makes_no_store(mirror, tmp_path):
    command = ["data", "fetch", "cath42", "--out", str(tmp_path / "cath"), "--url", mirror, "--download-only"]
    assert main(command) == 0
    assert not (tmp_path / "cath" / "store").exists()
