"""Copies in the second place: encrypted, compared, and good for coming back. Real rclone, over a local directory."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dental_pms_backup.store import drill_record
from tests.integration.drills import change_manifest
from tests.integration.support import CANARIES, PATH, Journal, Ran, Site, environment, mounted_tmpfs, on_disk

NOBODY = 65534
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


def rclone(site: Site, *words: str) -> None:
    subprocess.run(["rclone", f"--config={site.place}/rclone.conf", *words], env=environment(), check=True)


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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


def test_what_is_known_of_a_set_goes_there_and_comes_back_with_it(site: Site, there: Path) -> None:
    (name,) = site.sets()
    change_manifest(site, name, lambda manifest: manifest.update(suspicions=["db: another server"]))
    assert site.run("accept", name).returncode == 0
    pushes(site)
    shutil.rmtree(site.store)
    said = f"{name}: fetched and verified; what its run found strange was accepted: dental-pms-backup show {name}\n"
    assert site.run("offsite", "fetch", name).stdout == said
    manifest = json.loads((site.store / f"sets/{name}.json").read_text())
    found = {"drilled_at": manifest["taken_at"], "result": "failed", "proofs": {"load": "failed"}}
    drill_record.write(site.store, name, manifest, found)  # in the morning after the push
    before = on_disk(there)
    assert pushes(site).stdout == pushes(site).stdout == ""
    assert {path: facts for path, facts in on_disk(there).items() if path in before} == before
    after = on_disk(there)
    change_manifest(site, name, lambda manifest: manifest.update(trimmed=True))
    trimmed = json.loads((site.store / f"sets/{name}.json").read_text())
    for proofs, result in (({"checksums": "failed"}, "failed"), ({"load": "passed"}, "passed")):
        drill_record.write(site.store, name, trimmed, found | {"result": result, "proofs": proofs})
        pushes(site)  # what is said of the store's files, or of those that are left, is not said of what is there
        assert on_disk(there) == after
    for state in ("failed", "suspect"):
        shutil.rmtree(site.store)
        done = site.run("offsite", "fetch", name)
        said = f"{name}: fetched and verified; it is {state}: dental-pms-backup show {name}\n"
        assert (done.returncode, done.stdout) == (0, said), done.stderr
        rclone(site, "delete", "--include=/sets/*.accepted", "crypt:")  # as an earlier version has left it


@pytest.mark.sample(9)
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


def test_rclones_configuration_that_others_can_change_starts_no_program(site: Site, there: Path) -> None:
    file, ran = there.parent / "rclone.conf", site.place / "ran"
    text = file.read_text().replace(f"type = alias\nremote = {there}", "type = webdav\nurl = http://127.0.0.1:1")
    file.write_text(text.replace("127.0.0.1:1", f"127.0.0.1:1\nbearer_token_command = /usr/bin/touch {ran}"))
    for path, owner, mode in ((file, NOBODY, 0o600), (file, 0, 0o660), (site.place, NOBODY, 0o755)):
        os.chown(path, owner, 0)
        path.chmod(mode)
        done = site.run("offsite", "list")
        assert (done.returncode, ran.exists()) == (78, False), done.stderr
        what = f"belongs to user {NOBODY}" if owner else f"can be written to by others (mode {mode:04o})"
        assert f"offsite.rclone_config: {path} {what}, expected that only root can" in done.stderr
        assert f"hint: namei -l {file}   # each of these has to be root's" in done.stderr
        os.chown(path, 0, 0)
        path.chmod(0o755 if path.is_dir() else 0o600)
    assert site.run("offsite", "list").returncode == 1
    assert ran.exists()


def test_another_stores_set_of_the_same_name_there_is_told_by_push_and_left_as_it_is(site: Site, there: Path) -> None:
    (name,) = site.sets()
    pushes(site)
    before = on_disk(there)
    change_manifest(site, name, lambda manifest: manifest.update(taken_at="2026-01-01T01:30:00+00:00"))
    new = site.takes("attachments")
    said = (
        f"dental-pms-backup: set {name}: another set of this name is offsite, expected this store's; does another "
        f"store copy there?\nhint: dental-pms-backup show {name}\n"
    )
    for words, copied in (((), f"{new}: copied and compared\n"), ((name,), "")):
        done = site.run("offsite", "push", *words)
        assert (done.returncode, done.stdout, done.stderr) == (1, copied, said)
    assert {path: facts for path, facts in on_disk(there).items() if path in before} == before


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


@pytest.mark.thorough
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
    rclone(site, "delete", "--include=/sets/*", "crypt:")
    done = site.run("offsite", "verify")
    said = f"{name}: set {name}: not offsite, expected it there: it was copied at "
    assert (done.returncode, done.stdout.startswith(said)) == (1, True), done.stdout


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
    new = site.takes("attachments")
    done = site.run("offsite", "push")
    assert (done.returncode, done.stdout) == (1, f"{new}: copied and compared\n")  # it holds up no other
    shutil.rmtree(there)
    there.mkdir()
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


@pytest.mark.thorough
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
    page = Path("debian/dental-pms-backup.8.scd").read_text()
    away = re.search(
        r"^## verify: .*?^```\n(mv .*?)\ndental-pms-backup offsite fetch SET\n", page, re.DOTALL | re.MULTILINE
    )
    assert away
    (name,) = site.sets()
    (elsewhere := site.place / "elsewhere").mkdir()
    (site.store / f"attachments_{name}.tgz").write_bytes(b"damaged")
    command = away[1].replace("STORE", str(site.store)).replace("SET", name).replace("ELSEWHERE", str(elsewhere))
    subprocess.run(["sh", "-c", command], check=True)
    assert site.run("offsite", "fetch", name).stdout == f"{name}: fetched and verified\n"
    assert site.run("verify", name).returncode == 0


@pytest.mark.thorough
@pytest.mark.usefixtures("there")
def test_what_is_too_large_for_a_manifest_there_is_not_downloaded(site: Site) -> None:
    (name,) = site.sets()
    pushes(site)
    large = site.place / "large"
    large.write_bytes(bytes(24 << 20))
    with mounted_tmpfs(site.place / "tmp", 8 << 20):
        for each in ("json", "sha256"):
            rclone(site, "copyto", str(large), f"crypt:sets/{name}.{each}")
        done = site.run("offsite", "push", TMPDIR=str(site.place / "tmp"))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"set {name}: its manifest cannot be read offsite, expected the store's\n" in done.stderr
    size = (site.store / f"attachments_{name}.tgz").stat().st_size
    manifest = site.place / f"{name}.json"
    shutil.copy(site.store / f"sets/{name}.json", manifest)
    shutil.rmtree(site.store)
    with mounted_tmpfs(site.store, 8 << 20):
        assert site.run("offsite", "fetch", name).stderr.startswith(f"dental-pms-backup: set {name}: what came back is")
        rclone(site, "copyto", str(manifest), f"crypt:sets/{name}.json")
        rclone(site, "copyto", str(large), f"crypt:attachments_{name}.tgz")
        assert size < 8 << 20
        done = site.run("offsite", "fetch", name)
        assert done.stderr.startswith(f"dental-pms-backup: set {name}: what came back is"), done.stderr
        assert site.set_files() == {}


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
