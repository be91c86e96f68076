"""What the terminal, the locale and the reader of the output can do to a command."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.terminal import fitted, fitted_command, fitted_parts

ROOT = Path(__file__).parents[2]
TEXT = "error: the setting is wrong; try 'data.filters=[{name: length, min: 20}]', or `ls a b`"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_a_line_is_broken_between_words_and_never_in_what_is_to_be_copied(width):
    lines = fitted(TEXT, width).split("\n")
    assert " ".join(line.strip() for line in lines) == TEXT
    for kept in ("'data.filters=[{name: length, min: 20}]',", "`ls a b`"):
        assert any(kept in line for line in lines)
    assert all(len(line) <= width or len(line.split("'")[0].strip()) == 0 for line in lines)
    assert fitted(TEXT, None) == TEXT


def test_parts_stay_whole():
    assert fitted_parts(["step 1/2", "data wait 5%", "10 s/step"], 24) == (
        "step 1/2  data wait 5%\n  10 s/step"
    )


@pytest.mark.parametrize("width", [30, 60])
def test_a_command_that_is_broken_is_still_the_same_command_for_a_shell(width):
    command = "printf '%s.' orchestrate generate outputs/2026-11-25/18-37 --prompt 'Return the'"
    shown = fitted_command("write text:  ", command, width)
    assert max(map(len, shown.split("\n"))) <= max(width, 44)
    typed = shown.removeprefix("write text:  ")
    whole, broken = (
        subprocess.run(["sh", "-c", text], capture_output=True, check=True).stdout
        for text in (command, typed)
    )
    assert broken == whole


def orchestrate(*words, shell=None, **options):
    """A command in a process of its own; `shell` is what stands behind it in one."""
    command = [sys.executable, "-m", "orchestrator", *words]
    if shell is not None:
        command = ["bash", "-c", f'"$@" {shell}', "-", *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(command, env=environment, text=True, check=False, **options)


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("| head -1; exit ${PIPESTATUS[0]}", (0, 1)),  # a pipe holds more than is printed
        (">&-", (0,)),
        (">/dev/full", (1,)),
        ("| true; exit ${PIPESTATUS[0]}", (0, 1)),
    ],
)
def test_output_that_nobody_can_take_ends_no_command_in_a_traceback(shell, code):
    done = orchestrate("--help", shell=shell, capture_output=True)
    assert done.returncode in code
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert ("No space left on device" in done.stderr) == ("full" in shell)


def test_what_a_locale_cannot_show_is_replaced():
    done = orchestrate(
        "plan", "model=gpt_tinÿ…", env={"PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: model=gpt_tin")


def test_a_refusal_fits_the_terminal():
    driver, terminal = pty.openpty()
    done = orchestrate(
        *("plan", "stage.global_batch_size=31", "resources=cpu2"),
        env={"COLUMNS": "60"},
        stderr=terminal,
        stdout=subprocess.DEVNULL,
    )
    os.close(terminal)
    shown = os.read(driver, 10_000).decode().splitlines()
    os.close(driver)
    assert done.returncode == 2
    assert shown[0].startswith("error: ")
    assert max(map(len, shown)) <= 60


def test_a_user_without_a_name_and_a_home_is_served_and_recorded_by_number(tmp_path):
    nobody = ["unshare", "-U", "--map-user=12345", "env", "-u", "USER", "-u", "LOGNAME", "-uHOME"]
    if subprocess.run([*nobody, "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not allowed here")
    asked = (
        "from orchestrator.record.mlflow.replay import user_name; print(user_name())\n"
        "from orchestrator import cli; import sys\n"
        "sys.argv[1:] = ['plan', '--cfg', 'job']; cli.main()"
    )
    done = subprocess.run(
        [*nobody, sys.executable, "-c", asked],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("12345\n")
    assert "seed: 0" in done.stdout
