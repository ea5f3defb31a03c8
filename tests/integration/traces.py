"""What a command does on disk, step by step, as strace saw it, and what a power failure after a step may leave of it.

The model: a file's content is safe after an fsync that follows its last write. A name made, taken away or changed is
safe after an fsync of its directory; until then each such step may have reached the disk or not, whatever came of
those before and after it. One rename happens whole or not at all.
"""

import ast
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ON_PATHS = {"open", "openat", "creat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat"}
ON_PATHS |= {"symlink", "symlinkat", "unlink", "unlinkat", "rmdir", "truncate"}
ON_FILES = {"write", "pwrite64", "writev", "pwritev", "splice", "copy_file_range", "sendfile", "ftruncate", "fallocate"}
ON_FILES |= {"fsync", "fdatasync", "sync", "syncfs"}
FROM_FIRST = {"splice", "copy_file_range"}  # their first descriptor is what they read
STEP_OF = {"mkdirat": "mkdir", "renameat": "rename", "renameat2": "rename", "unlinkat": "unlink", "rmdir": "unlink"}
STEP_OF |= {"fsync": "sync", "fdatasync": "sync", "syncfs": "sync all"}
LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
BEGUN = re.compile(r"(\d+) +(\w+\(.*) <unfinished \.\.\.>")
RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
WORD = re.compile(r'(?:AT_FDCWD|\d+)<((?:[^>\\]|\\.)*)>(?!\(deleted)|"((?:[^"\\]|\\.)*)"(\.\.\.)?')
FEW = 8

Tree = dict[str, bytes | None]  # None is a directory


@dataclass(frozen=True, slots=True)
class Step:
    """One step below a directory: what it was, of which path; for a rename the new one, for a write what came to it."""

    what: str
    path: str
    target: str = ""
    content: bytes = b""

    def __str__(self) -> str:
        return f"{self.what} {self.path} {self.target}".strip()


def wrapper(trace: Path) -> list[str]:
    """Return what a command is run by, so that what it and its programs do on disk is written into a file."""
    calls = ",".join(f"?{call}" for call in sorted(ON_PATHS | ON_FILES))  # ?: not every machine has each of them
    options = ["--follow-forks", "--decode-fds=path", "-qq", "--string-limit=2000000", "-x"]
    return ["strace", *options, f"--trace={calls}", f"--output={trace}"]


def steps(trace: Path, below: Path) -> list[Step]:
    """Return the steps below a directory, in the order in which they were done, and what the command itself printed."""
    found: list[Step] = []
    command = ""
    for process, call, arguments, result in _calls(trace):
        command = command or process
        if result >= 0:
            found += _steps(call, arguments, os.path.realpath(below), says=process == command)
    return found


def _calls(trace: Path) -> Iterator[tuple[str, str, str, int]]:
    """Yield process, call, arguments and result of each call, when it was done."""
    begun = {}
    for line in trace.read_text("ascii").splitlines():
        if match := BEGUN.fullmatch(line):
            begun[match[1]] = match[2]
            continue
        match = RESUMED.fullmatch(line)
        if match := LINE.match(f"{match[1]} {begun.pop(match[1])}{match[2]}" if match else line):
            yield match[1], match[2], match[3], int(match[4])


def _steps(call: str, arguments: str, below: str, *, says: bool) -> Iterator[Step]:
    words = [(match[1], match[2], match[3]) for match in WORD.finditer(arguments)]
    assert not any(cut for *_, cut in words), f"{call}: the trace is cut"
    files = [file for file, *_ in words if file is not None]
    written = files[-1:] if call in FROM_FIRST else files[:1]
    named = list(_named(words)) if call in ON_PATHS else written
    paths = [os.path.relpath(path, below) for path in named if f"{path}/".startswith(f"{below}/")]
    content = _text(words[-1][1]) if call == "write" and (paths or says) else b""
    what = _what(call, arguments)
    if paths and what:
        yield Step(what, paths[0], "".join(paths[1:]), content)
    elif says and call == "write" and arguments.startswith("1<"):
        yield Step("say", content.decode())


def _what(call: str, arguments: str) -> str:
    if call in {"open", "openat"}:
        return "empty" if "O_TRUNC" in arguments else "create" if "O_CREAT" in arguments else ""
    if call == "ftruncate" and arguments.endswith(", 0"):
        return "empty"
    return "" if "FALLOC_FL_KEEP_SIZE" in arguments else STEP_OF.get(call, call)


def _named(words: Sequence[tuple[str | None, str, str]]) -> Iterator[str]:
    """Return the paths that a call names, each from the directory that was given before it."""
    directory = ""
    for given, text, _ in words:
        if given is None:
            yield os.path.normpath(Path(directory, os.fsdecode(_text(text))))
        else:
            directory = given


def _text(given: str) -> bytes:
    text: bytes = ast.literal_eval(f'b"{given}"')
    return text


@dataclass(eq=False, slots=True)
class Node:
    """A file, or with ``names`` a directory: as it is, and what of it is safe."""

    content: bytes = b""
    names: dict[str, "Node"] | None = None
    safe_content: bytes = b""
    safe_names: dict[str, "Node"] = field(default_factory=dict)


Change = dict[tuple[Node, str], Node | None]  # what a step made of names in directories


class Disk:
    """A directory tree that was safe at first, and what a power failure may leave of the steps taken since."""

    def __init__(self, tree: Tree) -> None:
        self._root = Node(names={})
        self._pending: list[Change] = []
        for path, content in sorted(tree.items()):
            self._bind({path: Node(names={}) if content is None else Node(content=content)})
        self.take(Step("sync all", ""))

    def take(self, step: Step) -> None:  # noqa: C901 - two lines for each kind of step
        """Take a step; an error when the model does not know it."""
        match step.what:
            case "create" | "empty":
                if self._find(step.path) is None:
                    self._bind({step.path: Node()})
                if step.what == "empty":
                    self._known(step.path).content = b""
            case "mkdir":
                self._bind({step.path: Node(names={})})
            case "write":
                self._known(step.path).content += step.content
            case "rename":
                self._bind({step.path: None, step.target: self._known(step.path)})
            case "unlink":
                self._bind({step.path: None})
            case "sync":
                self._sync([self._known(step.path)])
            case "sync all":
                self._sync([self._root, *_now(self._root).values()])
            case _:
                assert step.what == "say", step

    def tree(self) -> Tree:
        """Return what is there, with the power on."""
        return {path: None if node.names is not None else node.content for path, node in _now(self._root).items()}

    def remains(self) -> Iterator[Tree]:
        """Yield each tree that a power failure may leave; what is not safe of a file is missing, or is there by half.

        Where there is too much to try every tree, those of the fewest and of the most steps.
        """
        seen = []
        for kept in _choices(len(self._pending)):
            bound: Change = {}
            for number in kept:
                bound |= self._pending[number]
            there = _then(self._root, bound)
            if there not in seen:
                seen.append(there)
                unsafe = any(node.content != node.safe_content for node in there.values())
                for share in (0, 0.5) if unsafe else (0,):
                    yield {path: _left(node, share) for path, node in there.items()}

    def _bind(self, names: dict[str, Node | None]) -> None:
        change = {(self._known(str(Path(path).parent)), Path(path).name): node for path, node in names.items()}
        self._pending.append(change)
        for (directory, name), node in change.items():
            assert directory.names is not None
            directory.names.pop(name, None)
            if node:
                directory.names[name] = node

    def _sync(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            node.safe_content = node.content
            for change in [change for change in self._pending if any(directory is node for directory, _ in change)]:
                self._pending.remove(change)
                for (directory, name), bound in change.items():
                    directory.safe_names.pop(name, None)
                    if bound:
                        directory.safe_names[name] = bound

    def _find(self, path: str) -> Node | None:
        return self._root if path == "." else _now(self._root).get(path)

    def _known(self, path: str) -> Node:
        node = self._find(path)
        assert node, f"{path}: not there, in the model"
        return node


def _choices(count: int) -> Iterator[Sequence[int]]:
    """Yield which of some steps are chosen: any of them, in their order."""
    sizes = range(count + 1)
    for size in sizes if count <= FEW else (*sizes[:3], *sizes[-3:]):
        yield from itertools.combinations(range(count), size)
    if count > FEW:
        yield from (range(size) for size in sizes)


def _now(directory: Node) -> dict[str, Node]:
    """Return what is below a directory."""
    return _walked(directory, lambda node: node.names or {})


def _then(directory: Node, bound: Change) -> dict[str, Node]:
    """Return what is below a directory when, of the steps that are not safe, these have reached the disk."""

    def names(node: Node) -> dict[str, Node]:
        changed = {name: each for (place, name), each in bound.items() if place is node}
        return {name: each for name, each in {**node.safe_names, **changed}.items() if each}

    return _walked(directory, names)


def _walked(directory: Node, names: Callable[[Node], dict[str, Node]], prefix: str = "") -> dict[str, Node]:
    found = {}
    for name, node in names(directory).items():
        found[f"{prefix}{name}"] = node
        found |= _walked(node, names, f"{prefix}{name}/")
    return found


def _left(node: Node, share: float) -> bytes | None:
    if node.names is not None:
        return None
    safe = node.safe_content if node.content.startswith(node.safe_content) else b""
    rest = node.content[len(safe) :]
    return safe + rest[: int(len(rest) * share)]
