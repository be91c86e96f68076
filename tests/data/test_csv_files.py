"""Tables as programs write them; what plain csv looks like is in test_sources.py."""

import csv
import subprocess
import sys

import pytest

from data.config import DataConfig
from data.files import DataError
from data.sources import lines
from tests.data.texts import documents

ROWS = [[str(i), f"document {i}, with a comma"] for i in range(30)]
TEXTS = [text for _, text in ROWS]


def read(path, **settings):
    return list(documents(DataConfig(source="csv", path=str(path), **settings)))


def refused(path, **settings):
    with pytest.raises(DataError) as caught:
        read(path, **settings)
    return str(caught.value)


def test_the_column_without_a_name_that_pandas_writes_is_read_over(tmp_path):
    import pandas

    path = tmp_path / "a.csv"
    pandas.DataFrame({"text": TEXTS}).to_csv(path)
    assert read(path) == TEXTS
    assert "there are: column 1, text" in refused(path, text_column="body")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("column", ["text", "whole"])
def test_other_separators_are_said_with_a_command_that_converts(tmp_path, separator, column):
    path = tmp_path / "my table.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([["id", "text"], *ROWS])
    whole = f"id{separator}text"
    said = refused(path, text_column=whole if column == "whole" else "text")
    assert "its fields seem to be separated by" in said
    command = said.split("convert it: ")[1].replace("python -c", f"{sys.executable} -c")
    subprocess.run(command, shell=True, check=True)
    assert read(tmp_path / "my table.lines.csv") == TEXTS


def test_quotes_as_spark_writes_them_and_a_file_without_a_header_are_named(tmp_path):
    path = tmp_path / "part-00000.csv"
    path.write_text('id,text\n1,plain\n2,"he said \\"yes\\", twice"\n')
    assert 'row 2: quotes inside fields are written \\", as Spark does' in refused(path)
    path.write_text("1,the first record\n2,the second\n")
    said = refused(path)
    assert "there are: 1, the first record" in said
    assert "if it is a record, put a line of names before it" in said


def test_the_header_of_a_joined_file_is_no_row(tmp_path):
    path, mark = tmp_path / "a.csv", "\ufeff"
    path.write_text(f"{mark}text,n\none,1\n{mark}text,n\ntwo,2\n", encoding="utf-8")
    assert "row 2: begins with a byte order mark: files were joined here" in refused(path)
    path.write_text(f'text,n\n"one\n{mark}two",1\n', encoding="utf-8")
    assert read(path) == [f"one\n{mark}two"]


def test_a_row_is_bounded_however_many_lines_and_fields_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 1000)
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "short\n" * 900 + '"' + "line\n" * 300)
    assert "row 901: is longer than 1,000 bytes, the most that are read; is a quote left" in (
        refused(path)
    )
    path.write_text("text\n" + "x," * 600)
    assert "row 1: is longer than 1,000 bytes" in refused(path)


def test_names_of_columns_do_not_make_a_message_without_an_end(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(",".join(f"{'name' * 100}{i}" for i in range(2000)) + "\n")
    assert len(refused(path)) < 1000
