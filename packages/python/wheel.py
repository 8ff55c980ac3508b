"""Makes the wheel with the extension inside: python3 wheel.py LIBRARY FOLDER. The same files give the same bytes.

`pip wheel .` makes one too, without an extension; this needs nothing but Python, and says which systems the library is for.
"""

import base64
import hashlib
import os
import platform
import sys
import zipfile
from pathlib import Path

here = Path(__file__).parent
library, folder = Path(sys.argv[1]), Path(sys.argv[2])
settings = dict(line.split(" = ", 1) for line in (here / "pyproject.toml").read_text().splitlines() if " = " in line)
name, version, summary, needs = (settings[key].strip('"') for key in ("name", "version", "description", "requires-python"))
# Built here, it needs this system's libc or a newer one.
tag = f"py3-none-manylinux_{platform.libc_ver()[1].replace('.', '_')}_{platform.machine()}"
about = f"{name.replace('-', '_')}-{version}.dist-info"

files = {f"pg_sync_client/{path.name}": path.read_bytes() for path in sorted((here / "pg_sync_client").iterdir()) if path.suffix in (".py", ".typed")}
files["pg_sync_client/" + library.name] = library.read_bytes()
for licence in ("LICENSE-MIT", "LICENSE-APACHE"):
    files[f"{about}/{licence}"] = (here.parent.parent / licence).read_bytes()
files[f"{about}/METADATA"] = (
    f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {summary}\nLicense: MIT OR Apache-2.0\n"
    f"Requires-Python: {needs}\nDescription-Content-Type: text/markdown\n\n{(here / 'README.md').read_text()}"
).encode()
files[f"{about}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: wheel.py\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()


def digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


record = "".join(f"{path},{digest(data)},{len(data)}\n" for path, data in files.items())
files[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n".encode()
target = folder / f"{name.replace('-', '_')}-{version}-{tag}.whl"
with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
    for path, data in files.items():
        entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
        entry.external_attr = (0o755 if path.endswith(".so") else 0o644) << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        wheel.writestr(entry, data)
os.utime(target, (315532800, 315532800))
print(target)
