"""Copies in the second place: encrypted, compared, and good for coming back. Real rclone, over a local directory."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.support import CANARIES, PATH, Journal, Ran, Site, environment, on_disk

PASSWORD = "crypt-canary-51b7"  # noqa: S105 - of a place that is thrown away
pytestmark = pytest.mark.skipif(shutil.which("rclone", path=PATH) is None, reason="rclone is not installed")


@pytest.fixture
def there(site: Site) -> Path:
    """A directory that stands for the second place; the site is configured for it."""
    directory = site.place / "there"
    directory.mkdir()
    configure(site, directory, PASSWORD)
    return directory


def configure(site: Site, directory: Path, password: str) -> None:
    file = site.place / "rclone.conf"
    file.write_text(
        f"[plain]\ntype = alias\nremote = {directory}\n\n"
        f"[crypt]\ntype = crypt\nremote = plain:\npassword = {obscured(password)}\n"
        f"password2 = {obscured('salt-' + password)}\n"
    )
    file.chmod(0o600)
    site.configure({"offsite.remote": "crypt:", "offsite.rclone_config": str(file)})


def obscured(password: str) -> str:
    done = subprocess.run(
        ["rclone", "obscure", "-"], input=password, env=environment(), capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def pushes(site: Site) -> Ran:
    done = site.run("offsite", "push")
    assert done.returncode == 0, done.stderr
    return done


def largest(there: Path) -> Path:
    return max((path for path in there.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_a_set_goes_there_and_comes_back_into_an_empty_store_and_nothing_is_readable_there(
    site: Site, there: Path
) -> None:
    (name,) = site.sets()
    assert pushes(site).stdout == f"{name}: copied and compared\n"
    assert site.run("offsite", "list").stdout == f"{name}\n"
    assert site.run("offsite", "verify").stdout == f"{name}: the same offsite\n"
    files = [path for path in there.rglob("*") if path.is_file()]
    assert len(files) == 6
    contents = [path.read_bytes() for path in site.store.rglob("*") if path.is_file()]
    for path in files:
        words = str(path.relative_to(there))
        assert not any(part in words for part in ("attachments", "globals", name[:10], name[11:]))
        held = path.read_bytes()
        assert held.startswith(b"RCLONE\0\0")
        assert not any(content[:64] in held for content in contents if len(content) >= 64)
    before = {path: facts for path, facts in site.set_files().items() if not path.endswith("/")}
    shutil.rmtree(site.store)
    done = site.run("offsite", "fetch", name)
    assert (done.returncode, done.stdout) == (0, f"{name}: fetched and verified\n"), done.stderr
    assert {path: (facts[0], facts[2:]) for path, facts in site.set_files().items()} == {
        path: (facts[0], facts[2:]) for path, facts in before.items()
    }
    assert site.drafts() == []
    assert site.run("verify", name).returncode == 0
    assert site.takes() in site.run("list").stdout


def test_only_what_is_not_there_yet_is_copied(site: Site, there: Path) -> None:
    (first,) = site.sets()
    pushes(site)
    before = on_disk(there)
    second = site.takes("attachments")
    assert pushes(site).stdout == f"{second}: copied and compared\n"
    assert {name: facts for name, facts in on_disk(there).items() if name in before} == before
    assert pushes(site).stdout == ""
    assert site.run("offsite", "list").stdout.split() == [first, second]


def test_a_set_that_the_store_let_go_stays_there(site: Site, there: Path) -> None:
    (first,) = site.sets()
    pushes(site)
    before = on_disk(there)
    second = site.takes(BACKUP_KEEP="1")
    assert site.sets() == [second]
    pushes(site)
    assert {name: facts for name, facts in on_disk(there).items() if name in before} == before
    assert site.run("offsite", "fetch", first).returncode == 0
    assert site.sets() == [first, second]


def test_the_first_set_makes_the_directory_over_there(site: Site, there: Path) -> None:
    site.configure({"offsite.remote": "crypt:practice/backups"})
    assert site.run("offsite", "list").stdout == ""
    done = site.run("offsite", "verify")
    assert (done.returncode, done.stderr) == (
        2,
        "dental-pms-backup: offsite: no set to compare, expected at least one\nhint: dental-pms-backup offsite push\n",
    )
    pushes(site)
    assert site.run("offsite", "list").stdout.split() == site.sets()
    assert len(list(there.iterdir())) == 1


@pytest.mark.parametrize("kind", ["alias", "local", "unknown"])
def test_a_remote_that_does_not_encrypt_is_refused_and_gets_nothing(site: Site, there: Path, kind: str) -> None:
    with (site.place / "rclone.conf").open("a") as file:
        file.write("\n[local]\ntype = local\n")
    remote = {"alias": "plain:", "local": f"local:{there}", "unknown": "nowhere:"}[kind]
    site.configure({"offsite.remote": remote})
    for words in (("push",), ("list",), ("verify",), ("fetch", site.sets()[0])):
        done = site.run("offsite", *words)
        assert (done.returncode, done.stdout) == (78, ""), words
    assert on_disk(there) == {}


def test_no_remote_and_no_rclone_configuration_are_named(site: Site) -> None:
    done = site.run("offsite", "push")
    assert (done.returncode, "offsite.remote: not set" in done.stderr) == (78, True)
    site.configure({"offsite.remote": "crypt:", "offsite.rclone_config": str(site.place / "missing.conf")})
    done = site.run("offsite", "push")
    assert (done.returncode, "missing.conf: no such file" in done.stderr) == (78, True)


def test_a_flipped_byte_there_is_found(site: Site, there: Path) -> None:
    (name,) = site.sets()
    pushes(site)
    file = largest(there)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = site.run("offsite", "verify")
    assert done.returncode == 1
    assert done.stdout.startswith(f"{name}: set {name}: 1 of 6 files are not the same offsite")
    shutil.rmtree(site.store)
    done = site.run("offsite", "fetch", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert site.set_files() == {}


def test_a_missing_file_there_is_found(site: Site, there: Path) -> None:
    (name,) = site.sets()
    pushes(site)
    largest(there).unlink()
    done = site.run("offsite", "verify", name)
    assert done.returncode == 1
    assert "1 of 6 files are not the same offsite" in done.stdout
    shutil.rmtree(site.store)
    done = site.run("offsite", "fetch", name)
    assert (done.returncode, site.set_files()) == (1, {})
    assert f"set {name}: what came back is not whole, expected every file of its manifest" in done.stderr


def test_a_copy_that_was_cut_off_is_copied_again(site: Site, there: Path) -> None:
    (name,) = site.sets()
    manifest = site.store / f"sets/{name}.json"
    os.utime(manifest, (manifest.stat().st_mtime + 1,) * 2)
    pushes(site)
    files = sorted((path for path in there.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
    files[-1].unlink()  # the manifest
    files[0].unlink()
    assert site.run("offsite", "list").stdout == ""
    assert pushes(site).stdout == f"{name}: copied and compared\n"
    assert site.run("offsite", "verify").returncode == 0


def test_a_place_that_is_full_fails_the_push_and_the_set_is_not_listed(site: Site, there: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", there], check=True)
    try:
        done = site.run("offsite", "push")
        assert (done.returncode, done.stdout) == (1, "")
        assert site.run("offsite", "list").stdout == ""
    finally:
        subprocess.run(["umount", there], check=True)


def test_a_wrong_password_brings_nothing_back(site: Site, there: Path) -> None:
    (name,) = site.sets()
    pushes(site)
    configure(site, there, "another password")
    assert site.run("offsite", "list").stdout == ""
    shutil.rmtree(site.store)
    done = site.run("offsite", "fetch", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert site.set_files() == {}


def test_a_damaged_set_is_not_copied(site: Site, there: Path) -> None:
    (name,) = site.sets()
    (site.store / f"attachments_{name}.tgz").write_bytes(b"short")
    done = site.run("offsite", "push", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is damaged, expected a verified set" in done.stderr
    assert on_disk(there) == {}


def test_a_set_damaged_without_a_change_of_size_is_not_copied(site: Site, there: Path) -> None:
    (name,) = site.sets()
    file = site.store / f"attachments_{name}.tgz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = site.run("offsite", "push", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert on_disk(there) == {}


def test_a_set_that_is_in_the_store_is_not_fetched_over_it(site: Site, there: Path) -> None:
    pushes(site)
    before = site.set_files()
    done = site.run("offsite", "fetch", site.sets()[0])
    assert (done.returncode, site.set_files()) == (2, before)
    assert "is in the store already" in done.stderr
    assert on_disk(there)
    done = site.run("offsite", "fetch", "2020-01-01_000000")
    assert (done.returncode, site.set_files()) == (2, before)
    assert '"2020-01-01_000000": no such set offsite, expected one of the list' in done.stderr


def test_no_password_is_in_an_argument_the_output_or_the_journal(site: Site, there: Path, place: Path) -> None:
    (place / "journal").mkdir()
    journal = Journal(place / "journal")
    path, argvs = site.fake_on_path("rclone", 'echo "$@" >>"$0.argvs"; exec "$real" "$@"'), place / "fakes/rclone.argvs"
    try:
        shown = [
            site.run("offsite", word, "-v", wrapper=journal.wrapper, PATH=path) for word in ("push", "list", "verify")
        ]
    finally:
        told = journal.close()
    assert [done.returncode for done in shown] == [0, 0, 0]
    assert "crypt:" in argvs.read_text()
    assert "DENTAL_PMS_EVENT=offsite-pushed" in told
    hidden = (PASSWORD, obscured(PASSWORD)[:12], *CANARIES, "password = ")
    kept = [line for line in (site.place / "rclone.conf").read_text().splitlines() if "password" in line]
    for text in (told, argvs.read_text(), *(done.stdout + done.stderr for done in shown)):
        assert not any(word in text for word in (*hidden, *(line.split(" = ")[1] for line in kept)))
    assert there.is_dir()
