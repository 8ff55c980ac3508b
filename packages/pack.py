#!/usr/bin/env python3
"""Packages of what was built: pack.py device LIBRARY FOLDER; and whose code is in it: pack.py third-party CRATE. `./dev package` calls both.

The same library gives the same bytes: names are sorted, times are SOURCE_DATE_EPOCH, and nothing else of the machine gets in.
"""

import base64
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LICENSE = "MIT OR Apache-2.0"
# Code under others is not linked without somebody having looked at what they ask for.
TAKEN = {"MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "0BSD", "Unlicense", "CC0-1.0", "Unicode-3.0", "PostgreSQL", "BSL-1.0"}

README = """# sqlite_sync {version}

The device's half of pg_sync: an extension that any driver for SQLite 3.40 or newer loads. `device.md` says what an application can do with it.

`libsqlite_sync.so` is for Linux on {machine}, with glibc {glibc} or newer. For another system it is built from the sources (`device.md`, "Other
processors and systems"). LICENSE-MIT and LICENSE-APACHE: as you like. THIRD-PARTY: whose code is in it besides.
"""


def said_by(*command: "str | Path") -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def oldest_glibc(library: Path) -> str:
    """The glibc that a library needs: the highest version of any symbol that it asks for."""
    versions = {tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([0-9.]+)", said_by("objdump", "-T", library))}
    return ".".join(map(str, max(versions)))


def may_be_taken(expression: str) -> bool:
    """Whether an SPDX expression can be met with the licences that are taken; `/` is what old crates write for OR."""
    expression = re.sub(r" WITH [\w.-]+", "", expression.replace("/", " OR "))
    words = re.findall(r"[()]|[\w.+-]+", expression)
    named = {"AND": "and", "OR": "or", "(": "(", ")": ")"}
    # Nothing but these words is left to be evaluated.
    return bool(words) and bool(eval(" ".join(named.get(word) or str(word in TAKEN) for word in words)))


def linked(crate: str) -> "list[dict]":
    """The packages of others whose code is in a crate's library: what it needs when it runs, and no macros, which run at the build."""
    host = re.search(r"host: (\S+)", said_by("rustc", "-vV")).group(1)
    metadata = json.loads(said_by("cargo", "metadata", "--format-version=1", "--locked", "--filter-platform", host))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    todo, seen = [package["id"] for package in packages.values() if package["name"] == crate], set()
    while todo:
        one = todo.pop()
        if one in seen or any("proc-macro" in target["kind"] for target in packages[one]["targets"]):
            continue
        seen.add(one)
        todo += [dep["pkg"] for dep in nodes[one]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
    return sorted((packages[one] for one in seen if packages[one]["source"]), key=lambda package: (package["name"], package["version"]))


def third_party(crate: str) -> bytes:
    """Whose code is linked in, under which licence, with the texts."""
    out = ["Code of others that is part of this library, and the licences that it comes under.", ""]
    texts: "dict[str, list[str]]" = {}
    for package in linked(crate):
        name, licence = f"{package['name']} {package['version']}", package["license"] or ""
        if not may_be_taken(licence):
            sys.exit(f"{name}, which {crate} links, is under {licence or 'no licence that it names'}: see TAKEN in packages/pack.py")
        out.append(f"{name}: {licence}, {package['repository'] or 'https://crates.io/crates/' + package['name']}")
        folder = Path(package["manifest_path"]).parent
        # Also of what a crate brings from others, one folder down, as zstd-sys brings Zstandard.
        for file in sorted(f for pattern in ("*", "*/*") for f in folder.glob(pattern)):
            if re.match(r"(?i)(licen[cs]e|copying|notice|unlicense)", file.name) and file.is_file() and file.suffix != ".rs":
                text = file.read_text(errors="replace").replace("\r\n", "\n").strip()
                texts.setdefault(text, []).append(name)
    compiler = said_by("rustc", "--version").split()[1]
    out.append(f"Rust's standard library {compiler}: MIT OR Apache-2.0, https://github.com/rust-lang/rust")
    for text, names in sorted(texts.items(), key=lambda item: item[1]):
        out += ["", "-" * 100, "Of " + ", ".join(dict.fromkeys(names)) + ":", "", text]
    return ("\n".join(out) + "\n").encode()


def mode(name: str) -> int:
    return 0o755 if name.endswith(".so") else 0o644


def write_zip(path: Path, files: "dict[str, bytes]", date: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            # Zip files begin in 1980.
            info = zipfile.ZipInfo(name, time.gmtime(max(date, 315532800))[:6])
            info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, 3, (0o100000 | mode(name)) << 16
            out.writestr(info, content)


def write_tgz(path: Path, files: "dict[str, bytes]", date: int) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(content), date, mode(name)
            out.addfile(info, io.BytesIO(content))
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as out:
        out.write(raw.getvalue())


def write_wheel(out: Path, library: Path, tag: str, licences: "dict[str, bytes]", date: int) -> None:
    """`pip wheel .` makes one too, without an extension; this needs nothing but Python, and says which systems the library is for."""
    here = ROOT / "packages/python"
    settings = dict(line.split(" = ", 1) for line in (here / "pyproject.toml").read_text().splitlines() if " = " in line)
    name, version, summary, needs = (settings[key].strip('"') for key in ("name", "version", "description", "requires-python"))
    package = name.replace("-", "_")
    about = f"{package}-{version}.dist-info"
    sources = sorted(path for path in (here / package).iterdir() if path.suffix == ".py" or path.name == "py.typed")
    files = {f"{package}/{path.name}": path.read_bytes() for path in sources}
    files[f"{package}/{library.name}"] = library.read_bytes()
    files.update({f"{about}/licenses/{file}": content for file, content in licences.items()})
    files[f"{about}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {summary}\nLicense: {LICENSE}\n"
        f"Requires-Python: {needs}\nDescription-Content-Type: text/markdown\n\n{(here / 'README.md').read_text()}"
    ).encode()
    files[f"{about}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: pack.py\nRoot-Is-Purelib: false\nTag: py3-none-{tag}\n".encode()
    record = ""
    for file, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{file},sha256={digest},{len(content)}\n"
    files[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n".encode()
    write_zip(out / f"{package}-{version}-py3-none-{tag}.whl", files, date)


def write_npm(out: Path, library: Path, machine: str, licences: "dict[str, bytes]", date: int) -> None:
    """What `npm pack` would write, for the system that the library is for."""
    here, cpu = ROOT / "packages/node", {"x86_64": "x64", "aarch64": "arm64"}.get(machine, machine)
    manifest = json.loads((here / "package.json").read_text())
    manifest.update({"os": ["linux"], "cpu": [cpu], "libc": ["glibc"]})
    files = {"package.json": (json.dumps(manifest, indent=2) + "\n").encode()}
    for path in [here / "README.md", here / "index.d.ts", *sorted((here / "lib").glob("*.js"))]:
        files[str(path.relative_to(here))] = path.read_bytes()
    files.update({f"lib/{library.name}": library.read_bytes(), **licences})
    name = manifest["name"].lstrip("@").replace("/", "-")
    write_tgz(out / f"{name}-{manifest['version']}-linux-{cpu}.tgz", {f"package/{file}": content for file, content in files.items()}, date)


def device(library: Path, out: Path) -> None:
    machine, glibc, date = os.uname().machine, oldest_glibc(library), int(os.environ["SOURCE_DATE_EPOCH"])
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
    licences = {file: (ROOT / file).read_bytes() for file in ("LICENSE-APACHE", "LICENSE-MIT")}
    licences["THIRD-PARTY"] = third_party("sqlite_sync")
    folder = f"sqlite_sync-{version}-linux-{machine}"
    files = {
        library.name: library.read_bytes(),
        "README.md": README.format(version=version, machine=machine, glibc=glibc).encode(),
        "device.md": (ROOT / "docs/device.md").read_bytes(),
        **licences,
    }
    write_zip(out / f"{folder}.zip", {f"{folder}/{file}": content for file, content in files.items()}, date)
    write_wheel(out, library, f"manylinux_{glibc.replace('.', '_')}_{machine}", licences, date)
    write_npm(out, library, machine, licences, date)


if __name__ == "__main__":
    if sys.argv[1] == "third-party":
        sys.stdout.buffer.write(third_party(sys.argv[2]))
    else:
        device(Path(sys.argv[2]), Path(sys.argv[3]))
