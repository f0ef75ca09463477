"""Reads a configuration file: all of it holds, or every fault is named at once.

Invariant: the file, and the files its secrets come from, are read once for a load; `Loaded.files_read` names them, so
that a watcher knows whose change matters.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.config.checks import find_disagreements
from gateway.config.document import Document, Finding, KeyPath, read_document
from gateway.config.fields import Source
from gateway.config.files import find_file_faults
from gateway.config.model import Config
from gateway.config.validation import validate
from gateway.errors import ConfigError, ConfigUnreadable, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration and the files it was read from, the configuration file first."""

    config: Config
    files_read: tuple[Path, ...]
    """Those that can be read again; a pipe is not among them."""
    kept: Mapping[Path, bytes]
    """The content of those that cannot."""


def load(path: Path) -> Config:
    """The configuration in the file at `path`, with this process's environment.

    Raises ConfigUnreadable when there is no text to judge, ConfigError with every fault when there is.
    """
    return load_with_files(path).config


def load_with_files(
    path: Path,
    *,
    environment: Mapping[str, str] | None = None,
    read_files: bool = True,
    kept: Mapping[Path, bytes] | None = None,
) -> Loaded:
    """As `load`; with `read_files` false, certificates, folders and secrets are taken for granted.

    `kept` is that of an earlier load of the same configuration.
    """
    source = Source(folder=path.parent, read_files=read_files, kept=dict(kept or {}))
    document = read_document(_read_text(path, source), environment=os.environ if environment is None else environment)
    rules = [find_disagreements, find_file_faults] if read_files else [find_disagreements]
    config, findings = validate(document, source, rules)
    if config is None:
        raise ConfigError(_problems(findings, document), source=str(path))
    files_read = sorted(source.files_read, key=lambda file: (file != path, file))
    return Loaded(config=config, files_read=tuple(files_read), kept={pipe: source.kept[pipe] for pipe in source.pipes})


def _read_text(path: Path, source: Source) -> str:
    try:
        data = source.read(path)
    except FileNotFoundError:
        raise _unreadable(path, "there is no such file; give the path of the configuration") from None
    except OSError as fault:
        raise _unreadable(path, f"cannot be read: {fault.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        message = f"is not UTF-8: it has the byte 0x{data[fault.start]:02x}"
        raise ConfigError([Problem(path="", line=line, message=message)], source=str(path)) from None


def _unreadable(path: Path, message: str) -> ConfigUnreadable:
    return ConfigUnreadable([Problem(path="", line=None, message=message)], source=str(path))


def _problems(findings: list[Finding], document: Document) -> list[Problem]:
    problems = [
        Problem(
            path=dotted(finding.path),
            line=finding.line if finding.line is not None else document.line_of(finding.path),
            message=finding.message + _pointer(finding, document),
        )
        for finding in findings
    ]
    return sorted(problems, key=lambda problem: problem.line or 0)


def _pointer(finding: Finding, document: Document) -> str:
    return "" if finding.see is None else f"; see {dotted(finding.see)} in line {document.line_of(finding.see)}"


def dotted(path: KeyPath) -> str:
    """`path` as operators read it: `routes[0].backend.endpoints[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
