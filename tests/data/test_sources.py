import json
import logging.handlers
import os
import queue
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.config import ContractConfig, DataConfig, ValidationConfig
from data.files import DataError
from data.sources import (
    outside_state,
    read_records,
    schema_changes,
    units_of,
)
from data.sources.lines import pieces
from data.sources.python_docs import clean, docstrings
from tests.data.texts import documents

PIECE = 8192


def read(**settings):
    return list(documents(DataConfig(**settings)))


def refused(**settings):
    with pytest.raises(DataError) as caught:
        read(**settings)
    return str(caught.value)


@pytest.fixture(scope="module")
def docs():
    return read()


def test_python_docs_are_a_corpus_of_megabytes_of_english(docs):
    text = "\n".join(docs)
    assert 1_500_000 < len(text.encode()) < 4_000_000
    words = text.split()
    assert sum(w == "the" for w in words) > 0.03 * len(words)
    assert "\0" not in text
    assert not any(line.endswith(" ") for line in text.split("\n"))


def test_python_docs_hold_topics_and_each_docstring_once(docs):
    from pydoc_data.topics import topics
    from textwrap import dedent

    assert clean(topics["assert"]) in docs
    import textwrap

    [module] = [d for d in docs if d.startswith("module textwrap\n")]
    assert "textwrap.dedent(text)" in module
    assert dedent(textwrap.fill.__doc__).strip().split("\n")[0] in module
    # The operator module documents each function under two names.
    sayings = [p for d in docs for p in d.split("\n\n\n") if p.endswith("\n\nSame as a + b.")]
    assert len(sayings) <= 1


def test_docstrings_come_once_with_the_package_they_are_from():
    found = list(docstrings(("json", "logging", "no_such_package", "queue")))
    assert {package for _, package in found} == {"json", "logging", "queue"}
    texts = [text for text, _ in found]
    assert len(texts) == len(set(texts))
    own = dict(found)
    for module, package in ((json, "json"), (logging.handlers, "logging"), (queue, "queue")):
        assert own[clean(module.__doc__)] == package


def test_python_docs_are_the_same_in_another_process(docs):
    code = (
        "import hashlib; from data import DataConfig; from tests.data.texts import documents;"
        "print(hashlib.sha256('\\0'.join(documents(DataConfig())).encode()).hexdigest())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    import hashlib

    assert said == hashlib.sha256("\0".join(docs).encode()).hexdigest()


def test_a_long_text_is_cut_at_blank_lines_and_nothing_is_lost():
    paragraphs = [f"Paragraph {i}. " + "word " * (i % 90) for i in range(500)]
    text = "\n\n".join(paragraphs)
    cut = list(pieces([text], PIECE))
    assert "".join(cut) == text
    assert all(piece.endswith("\n\n") for piece in cut[:-1])
    assert all(PIECE // 2 < len(piece) <= PIECE for piece in cut[:-1])


@pytest.mark.parametrize(
    "text", ["x" * (3 * PIECE + 1), "\n" * (2 * PIECE), "a b" * PIECE, "", "x"]
)
def test_texts_without_good_places_to_cut_are_cut_all_the_same(text):
    cut = list(pieces([text], PIECE))
    assert cut == list(pieces(text, PIECE))  # however it comes
    assert "".join(cut) == text
    assert all(0 < len(piece) <= PIECE for piece in cut)


def test_a_path_is_a_file_a_folder_or_a_glob(tmp_path):
    for name in ("b.txt", "a.md", "deep/c.txt", "code.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    assert read(source="text", path=str(tmp_path / "code.py")) == ["text of code.py"]
    assert read(source="text", path=str(tmp_path)) == [
        "text of a.md",
        "text of b.txt",
        "text of deep/c.txt",
    ]
    found = read(source="text", path=str(tmp_path / "**" / "*.txt"))
    assert found == ["text of b.txt", "text of deep/c.txt"]


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "corpus.txt").write_text("x")
    message = refused(source="text", path=str(tmp_path / "corpsu.txt"))
    assert "no such file or folder" in message
    assert "did you mean corpus.txt?" in message
    message = refused(source="text", path=str(tmp_path / "far" / "away.txt"))
    assert str(tmp_path) in message
    assert "no file matches" in refused(source="text", path=str(tmp_path / "*.csv"))
    assert "no .jsonl or .ndjson file" in refused(source="jsonl", path=str(tmp_path))


def test_jsonl_gives_the_text_field_of_each_line(tmp_path):
    path = tmp_path / "a.jsonl"
    texts = ["one", "zwei\nLinien", "\u2028 inside", ""]
    lines = [json.dumps({"text": t, "id": i}, ensure_ascii=False) for i, t in enumerate(texts)]
    path.write_text("\r\n".join(lines) + "\n\n", encoding="utf-8")
    assert read(source="jsonl", path=str(path)) == texts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', "a.jsonl:2: is not JSON (Unterminated string"),
        ('["list"]', "a.jsonl:2: is a JSON list, ['list'], not an object"),
        ('{"txt": "a", "id": 1}', "there are: txt, id (set data.text_column=txt)"),
        ('{"text": 5}', "a.jsonl:2: text holds an integer, 5, not text"),
        ('{"text": "a\\ud800"}', "half of a surrogate pair (U+D800 at character 1)"),
        ("[" * 100_000, "a.jsonl:2: is JSON nested too deeply to be read"),
        ('{"text": "a\\u0000"}', "a.jsonl:2: text holds a NUL (U+0000 at character 1)"),
        ("1" * 5000, "a.jsonl:2: is JSON with a number of more than 4,300 digits"),
    ],
)
def test_a_bad_jsonl_line_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line)
    assert message in refused(source="jsonl", path=str(path))


def write_table(path, column="text", rows=3000):
    table = pa.table({column: [f"row {i}" for i in range(rows)], "id": list(range(rows))})
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=1000)
    else:
        make = pa.ipc.new_file if path.stem == "file" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=700)


TABLES = ["a.parquet", "file.arrow", "stream.arrow"]


@pytest.mark.parametrize("name", TABLES)
def test_tables_give_one_document_per_row(tmp_path, name):
    write_table(tmp_path / name)
    found = read(source="parquet", path=str(tmp_path / name))
    assert found == [f"row {i}" for i in range(3000)]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("keep", [0, 3, 0.3, 0.6, 0.95])
def test_an_interrupted_download_is_named(tmp_path, name, keep):
    path = tmp_path / name
    write_table(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: keep if isinstance(keep, int) else int(len(raw) * keep)])
    message = refused(source="parquet", path=str(tmp_path))
    assert str(path) in message
    assert "its download was interrupted" in message


def test_a_stream_cut_between_two_batches_is_not_a_shorter_one(tmp_path):
    path = tmp_path / "a.arrow"
    write_table(path)
    path.write_bytes(path.read_bytes()[:-8])
    assert "end mark of the stream is missing" in refused(source="parquet", path=str(path))


@pytest.mark.parametrize("name", TABLES)
def test_a_missing_column_names_those_there_are(tmp_path, name):
    write_table(tmp_path / name, column="texts")
    message = refused(source="parquet", path=str(tmp_path))
    assert "text_column=text is not a column; there are: texts, id" in message
    assert "set data.text_column=texts" in message


def test_a_column_of_numbers_is_no_text(tmp_path):
    write_table(tmp_path / "a.parquet")
    message = refused(source="parquet", path=str(tmp_path), text_column="id")
    assert "a.parquet: row 1: id holds an integer, 0, not text" in message


def csv_documents(tmp_path, raw, **settings):
    path = tmp_path / "a.csv"
    path.write_bytes(raw)
    return read(source="csv", path=str(path), **settings)


def test_csv_gives_the_field_under_the_header_whatever_is_quoted(tmp_path):
    raw = (
        b"\xef\xbb\xbfid,text\r\n"
        b'1,"with, comma"\r\n'
        b'2,"with ""quotes"" and\nline end"\r\n'
        b"\r\n"
        b"3,\r\n" + f'4,"{"long " * 50_000}"'.encode()  # longer than the csv module reads by itself
    )
    assert csv_documents(tmp_path, raw) == [
        "with, comma",
        'with "quotes" and\nline end',
        "",
        "long " * 50_000,
    ]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "a.csv: header: the file is empty; its first line must name the columns"),
        (b"text,text\na,b\n", "a.csv: header: several columns (2) are named text"),
        (
            b"txt,id\na,1\n",
            "a.csv: header: data.text_column=text is not a column; there are: txt, id",
        ),
        (
            b'text\n"a\nb"\nc,d\n',
            "a.csv: row 2: line 4 ends a row of 2 fields, but the header has 1 (text)",
        ),
        (b'text\na\n"b\nc\n', "a.csv: row 2: unexpected end of data (line 4)"),
        (b'text\na\n"b"c\n', "a.csv: row 2: ',' expected after '\"' (line 3)"),
        (b"text\na\nb\xff\n", "a.csv: row 2: is not UTF-8: byte 0xff at offset 8"),
        (b"text\na\0\n", "a.csv: row 1: is a binary file: a NUL byte at offset 6"),
        ("text\na\n".encode("utf-16"), "is UTF-16; convert it"),
    ],
)
def test_a_bad_csv_file_is_named(tmp_path, raw, message):
    with pytest.raises(DataError) as caught:
        csv_documents(tmp_path, raw)
    assert message in str(caught.value)


def test_csv_columns_are_of_the_types_that_the_contract_says(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,n,x,ok\na,5,0.5,true\nb,,1,False\n")
    rules = ContractConfig(columns={"n": "integer", "x": "number", "ok": "boolean"})
    config = DataConfig(source="csv", path=str(path), contract=rules)
    found = [dict(r.columns) for unit in units_of(config) for r in read_records(config, unit)]
    assert found == [{"n": 5, "x": 0.5, "ok": True}, {"n": None, "x": 1.0, "ok": False}]
    path.write_text("text,n,x,ok\na,5,0.5,true\nb,many,1,False\n")
    message = refused(source="csv", path=str(path), contract=rules)
    assert "a.csv: row 2: n holds 'many', but data.contract.columns says integer" in message


def table_with(path, **columns):
    pq.write_table(pa.table(columns), path)


def test_columns_that_changed_between_files_are_named(tmp_path):
    table_with(tmp_path / "a.parquet", text=["a"], id=[1], lang=["en"])
    table_with(tmp_path / "b.parquet", text=["b"], id=["1"], url=["x"])
    config = DataConfig(source="parquet", path=str(tmp_path))
    a, b = str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")
    assert schema_changes(config) == [
        f"{b}: column lang (string) went, column url (string) came, "
        f"column id was integer and is string, compared with {a}"
    ]
    assert list(documents(config)) == ["a", "b"]  # none of them is read
    rules = ContractConfig(columns={"id": "integer"})
    message = refused(source="parquet", path=str(tmp_path), contract=rules)
    assert "b.parquet: row 1: id holds a string, '1', but data.contract.columns says" in message
    assert f"compared with {a}: column lang (string) went" in message


def test_a_column_that_went_is_found_before_anything_is_read(tmp_path):
    table_with(tmp_path / "a.parquet", text=["a"])
    table_with(tmp_path / "b.parquet", body=["b"])
    with pytest.raises(DataError) as caught:
        units_of(DataConfig(source="parquet", path=str(tmp_path)))
    assert "b.parquet: data.text_column=text is not a column" in str(caught.value)
    assert "a.parquet: column text (string) went, column body (string) came" in str(caught.value)


def test_columns_that_changed_in_jsonl_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "id": 1}')
    (tmp_path / "b.jsonl").write_text('{"body": "b", "id": 2.5}')
    message = refused(source="jsonl", path=str(tmp_path))
    assert "b.jsonl:1: data.text_column=text is not a column; there are: body, id" in message
    assert "column text (string) went, column body (string) came" in message
    assert "column id was integer and is number" in message


def test_the_outside_state_changes_when_a_file_does(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    config = DataConfig(source="text", path=str(tmp_path))
    states = [outside_state(config)]
    (tmp_path / "b.txt").write_text("b")
    states.append(outside_state(config))
    assert outside_state(config) == states[-1]
    (tmp_path / "b.txt").write_text("c")
    os.utime(tmp_path / "b.txt", (5, 5))
    states.append(outside_state(config))
    assert len({json.dumps(state) for state in states}) == 3
    assert outside_state(DataConfig()) == outside_state(DataConfig())


@pytest.mark.filterwarnings("default")
def test_hf_streams_a_folder_file_by_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "abc":
        table_with(
            folder / f"{name}.parquet", text=[f"{name}{i}" for i in range(1500)], id=[0] * 1500
        )
    config = DataConfig(source="hf", path=str(folder), streaming=True)
    units = units_of(config)
    assert len(units) == 3
    found = [record for unit in units for record in read_records(config, unit)]
    assert [r.texts[0] for r in found] == [f"{name}{i}" for name in "abc" for i in range(1500)]
    assert found[1500].place == f"{folder}: shard 2: row 1"
    assert "there are: text, id" in refused(
        source="hf", path=str(folder), streaming=True, text_column="body"
    )
    (folder / "b.parquet").write_bytes((folder / "b.parquet").read_bytes()[:-100])
    assert "can't be read as a dataset" in refused(source="hf", path=str(folder), streaming=True)


@pytest.mark.filterwarnings("default")
def test_hf_reads_a_saved_dataset_and_names_splits_and_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    train = datasets.Dataset.from_dict({"text": ["a", "b"], "id": [1, 2]})
    datasets.DatasetDict({"train": train}).save_to_disk(str(tmp_path / "saved"))
    settings = {"source": "hf", "path": str(tmp_path / "saved")}
    assert read(**settings) == ["a", "b"]
    assert "there are: train" in refused(**settings, split="test")
    assert "there are: text, id" in refused(**settings, text_column="body")
    arrow = next((tmp_path / "saved" / "train").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:200])
    assert "is each file in it whole" in refused(**settings)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("sub/a.jsonl.gz", r"is a file, and data\.source=hf reads .*; set data\.source=jsonl$"),
        ("sub/a.py", r"is a file, .*; set data\.source=text$"),
        ("[2024] run", r"\[ in the name of a folder is a pattern to Hugging Face datasets; rename"),
        ("./wiki", "no such folder here, and a dataset of the hub is called OWNER/NAME"),
        ("a/b/c", "no such folder here, and a dataset of the hub is called OWNER/NAME"),
        ("x" * 10**5 + "/b/c", r"x\.\.\. can't be read: File name too long"),
    ],
)
def test_what_is_no_name_on_the_hub_is_said_without_asking_it(tmp_path, monkeypatch, path, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("data.sources.hub._revision", pytest.fail)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jsonl.gz").touch()
    (tmp_path / "sub" / "a.py").touch()
    (tmp_path / "[2024] run").mkdir()
    (tmp_path / "[2024] run" / "a.jsonl").touch()
    with pytest.raises(DataError, match=said) as caught:
        units_of(DataConfig(source="hf", path=path))
    assert len(str(caught.value)) < 500


def test_a_hub_name_without_a_network_says_what_works(tmp_path):
    code = (
        "from data.config import DataConfig, DataError\n"
        "from tests.data.texts import documents\n"
        "try: list(documents(DataConfig(source='hf', path='nobody/no-such-set')))\n"
        "except DataError as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert "data.path=nobody/no-such-set: dataset not loaded" in said
    assert "local folder (data.path=FOLDER) works without one" in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "jsnol"}, "data.source=jsnol is not one of .*did you mean jsonl"),
        ({"source": "text"}, "data.source=text needs data.path=FILE"),
        ({"source": "hf"}, "needs data.path=NAME"),
        ({"path": "x"}, "data.path=x is not read by data.source=python_docs"),
        ({"split": "test"}, "data.split=test is for source=hf only"),
        ({"text_column": ""}, "data.text_column is empty"),
        ({"validation_fraction": 0.0}, "=0.0 must be inside 0..1.*data.validation.path=FILES"),
        ({"document_characters": 9}, "data.document_characters=9 is for data.source=text only"),
        (
            {"source": "text", "path": "x", "document_characters": 0},
            "data.document_characters=0 must be at least 1, or null",
        ),
        (
            {"source": "text", "path": "x", "validation": ValidationConfig(split="test")},
            "data.validation.split=test is for data.source=hf only",
        ),
        (
            {"validation": ValidationConfig(path="x")},
            "data.validation.path=x is not read by data.source=python_docs",
        ),
        (
            {"source": "text", "path": "x", "validation": ValidationConfig("y", take="tail")},
            "take=tail is a part of data.path, but validation.path",
        ),
        (
            {"source": "csv", "path": "x", "validation": ValidationConfig(take="tail")},
            "data.source=csv has others; put the documents into files of their own",
        ),
        ({"validation": ValidationConfig(take="tial")}, "did you mean tail"),
        (
            {
                "source": "text",
                "path": "x",
                "validation": ValidationConfig(path="y"),
                "validation_fraction": 0.1,
            },
            "validation_fraction=0.1 takes a part of what is trained on",
        ),
        ({"validation_fraction": 1.0}, "data.validation_fraction=1.0 must be inside 0..1"),
        ({"sequence_length": 0}, "data.sequence_length=0 must be >= 1"),
        ({"seed": -1}, "data.seed=-1 must be 0 or more"),
    ],
)
def test_settings_are_checked_with_names_and_values(settings, message):
    with pytest.raises(DataError, match=message):
        DataConfig(**settings)


def test_the_config_is_plain_enough_for_omegaconf():
    from omegaconf import OmegaConf

    config = OmegaConf.structured(DataConfig)
    config.sequence_length = 64
    assert OmegaConf.to_object(config) == DataConfig(sequence_length=64)
