"""Whatever is done to a file, the reader gives a sound chain or a reason of one line, in seconds."""

import pytest

from minifold_pl.data.worker_pool import Job, run_jobs
from minifold_pl.export.observed import ObservedChain, observed_mmcif_text, observed_pdb_text

PIECE = 50
RAW_CASES = (
    "1ts9.pdb", "103l.pdb.gz", "2q2k.cif", "res_ids.cif", "altloc.cif", "residue_with_diff_aas_in_altlocs.pdb",
    "interspersed_chains.pdb", "has_dna_records_1.pdb", "hetatm.pdb", "1ACB_l_b.pdb", "465d.pdb", "4zey.cif",
    "5ejw.pdb", "ca_only_model.pdb", "crafted_truncated.pdb", "1y3v.pdb",
)  # fmt: skip


@pytest.fixture
def sources(tmp_path, make_record, make_line):
    """A small PDB file and mmCIF file with gaps and insertion codes; and files of several records."""
    record = make_record("1abc.A", 30)
    coords = record.coords.copy()
    coords[9:11] = float("nan")
    ids = (*map(str, range(-3, 20)), "19A", "19B", *map(str, range(20, 25)))
    chain = ObservedChain(name="1abc", sequence=record.sequence, coords=coords, residue_ids=ids)
    (tmp_path / "1abc.pdb").write_text(observed_pdb_text(chain))
    (tmp_path / "1abc.cif").write_text(observed_mmcif_text(chain))
    lines = [make_line(f"c{k}", 12, breaks=[3], split="test", cluster="7", rep=True) for k in range(8)]
    (tmp_path / "chain_set.jsonl").write_text("\n".join(lines) + "\n")
    rows = [f"c{k}\ttest\t1.10.{k}\t{'ACDEFGHIKLMNPQRSTVWY' * 3}" for k in range(20)]
    (tmp_path / "sequences.tsv").write_text("\n".join(["name\tsplit\tCATH\tseq", *rows]) + "\n")
    entries = [f">c{k} protein\n{'ACDEFGHIKLMNPQRSTVWY' * 2}\n{'YWVT' * k}" for k in range(20)]
    (tmp_path / "sequences.fasta").write_text("\n".join(entries) + "\n")
    lists = [f"1abcA{k:02d} v4_3_0 1.10.8.{k} {k}-{k + 9},90-99:A" for k in range(1, 9)]
    lists += [f"2abcB{k:02d} 1 10 8 {k} 1 1 1 1 1 59 1.0" for k in range(1, 9)]
    lists += [f"3ab{k}A  D01 F00  1  A    1 - A   79 -" for k in range(1, 9)]
    (tmp_path / "list.cath").write_text("\n".join(lists) + "\n")
    names = ("1abc.pdb", "1abc.cif", "chain_set.jsonl", "sequences.tsv", "sequences.fasta", "list.cath")
    return [tmp_path / name for name in names]


def _check(paths, count, processes):
    """Damage each file in ``count`` ways, in processes: a reader that dies or hangs is found, too."""
    jobs = []
    for path in paths:
        for first in range(0, count, PIECE):
            arguments = (str(path), 100_000 * len(jobs) + first, min(PIECE, count - first))
            jobs.append(Job(len(jobs), "tests.data.mutations:check_many", arguments, seconds=120.0))
    results = dict(run_jobs(jobs, processes))
    assert len(results) == len(jobs)
    wrong = [f"{jobs[key].arguments}: {result}" for key, result in results.items() if result != []]
    assert not wrong, "\n".join(wrong[:20])


def test_hundreds_of_damaged_files_give_sound_chains_or_reasons(sources):
    _check(sources, 250, processes=1)


@pytest.mark.slow
def test_twenty_thousand_damaged_files_give_sound_chains_or_reasons(sources, real_data, tmp_path):
    import gzip
    from itertools import islice

    with gzip.open(real_data / "chain_set.jsonl.gz") as file:
        (tmp_path / "few.jsonl").write_bytes(b"".join(islice(file, 3)))
    raw = [real_data / "raw_cases" / name for name in RAW_CASES]
    _check([*sources, tmp_path / "few.jsonl", *raw], 1000 + 50, processes=2)
    assert (1000 + 50) * (7 + len(RAW_CASES)) >= 20_000
