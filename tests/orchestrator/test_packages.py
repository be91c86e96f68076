import subprocess
import sys

from orchestrator import packages


def test_only_places_that_hide_our_packages_are_moved_behind_ours(tmp_path, monkeypatch):
    for name in ("project/models", "notes/data", "clean/other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "conf.py").touch()
    project, notes, clean, script = (
        str(tmp_path / name) for name in ("project", "notes", "clean", "script")
    )
    home = str(packages.HOME)
    monkeypatch.setattr(sys, "path", [project, clean, "/lib", home, notes, script])
    packages.import_ours_first()
    assert sys.path == [clean, "/lib", home, project, notes, script]
    monkeypatch.setattr(sys, "path", ["/lib", home, clean])
    packages.import_ours_first()
    assert sys.path == ["/lib", home, clean]


def test_a_project_of_the_same_names_hides_nothing(tmp_path):
    for name in packages.OURS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')")
    code = f"import orchestrator, {', '.join(packages.OURS)}"
    environment = {"PYTHONPATH": f"{tmp_path}:{packages.HOME}", "PATH": ""}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
