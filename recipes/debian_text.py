"""Makes a folder of English texts from Debian packages, to train silva-moe-tiny on.

    python recipes/debian_text.py texts

Needs apt-get and dpkg. Packages are fetched and unpacked in a temporary folder, nothing is
installed. HTML becomes its visible text, a paragraph a block; other files are taken as they are.
"""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

PACKAGES = {
    "debian-handbook": "usr/share/doc/debian-handbook/html/en-US/*.html",
    "debian-reference-en": "usr/share/debian-reference/debian-reference.en.txt.gz",
    "perl-doc": "usr/share/perl/*/pod/perl*.pod",
    "jargon-text": "usr/share/doc/jargon-text/jargon.txt.gz",
    "fortunes": "usr/share/games/fortunes/*",
}
"""Package -> the files in it that are English prose."""

OTHER_LANGUAGES = frozenset(("perlcn.pod", "perljp.pod", "perlko.pod", "perltw.pod"))

BLOCKS = frozenset("p li dt dd h1 h2 h3 h4 h5 pre td th div blockquote title".split())
SILENT = frozenset(("script", "style", "head"))


class Prose(HTMLParser):
    """Collects the text of a page, paragraphs apart."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._silent += tag in SILENT
        if tag in BLOCKS:
            self.pieces.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in SILENT

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.pieces.append(data)


def is_wanted(file: Path) -> bool:
    """Whether a file is text, in English, and not a copy (.u8) of one beside it."""
    return file.suffix not in (".dat", ".u8") and file.name not in OTHER_LANGUAGES


def prose(page: str) -> str:
    """The visible text of a page of HTML."""
    parser = Prose()
    parser.feed(page)
    paragraphs = re.split(r"\n\s*\n", "".join(parser.pieces))
    return "\n\n".join(" ".join(p.split()) for p in paragraphs if p.split())


def read(path: Path) -> str:
    """A file's text, unpacked if need be; bytes that are not UTF-8 become question marks."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n")
    return prose(text) if path.suffix == ".html" else text


def main() -> None:
    out = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["apt-get", "download", *PACKAGES], cwd=scratch, check=True)
        for package, pattern in PACKAGES.items():
            (archive,) = Path(scratch).glob(f"{package}_*.deb")
            unpacked = Path(scratch) / package
            subprocess.run(["dpkg", "-x", str(archive), str(unpacked)], check=True)
            files = sorted(f for f in unpacked.glob(pattern) if f.is_file() and is_wanted(f))
            if not files:
                sys.exit(f"{package}: no files at {pattern}")
            folder = out / package
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                (folder / f"{file.name}.txt").write_text(read(file), encoding="utf-8")
            size = sum(f.stat().st_size for f in folder.iterdir())
            print(f"{package}: {len(files)} files, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
