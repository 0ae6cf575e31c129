"""Shared objects that gcc made, slimmed, loaded by this host's dynamic loader."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import REPOSITORY
from tests.unit.elves import CUBIN, PTX, container, entry

KB = 1 << 10
CODE = [
    container(entry(CUBIN, 80, 300 * KB), entry(CUBIN, 90, 50 * KB), entry(PTX, 80, 90 * KB)),
    container(entry(CUBIN, 80, 200 * KB), entry(CUBIN, 100, 200 * KB)),
    container(entry(CUBIN, 90, 40 * KB), entry(PTX, 90, 150 * KB)),
]
# What a program has besides: threads' variables, exceptions, constructors, .bss, relocations.
SOURCE = r"""
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <dlfcn.h>
#include <link.h>
__asm__(".section %(section)s\n.balign 8\n.globl code\n.hidden code\ncode:\n"
        ".incbin \"code.bin\"\n.balign 8\n.globl code_end\n.hidden code_end\ncode_end:\n.text\n");
extern "C" { extern const unsigned char code[], code_end[]; }
static thread_local int of_thread = 7;
static char zeros[100000];
static const unsigned char *const pointer = code;
static int built = [] { return std::memcmp(pointer, "\x50\xed\x55\xba", 4) == 0; }();
static int headers(dl_phdr_info *info, size_t, void *sum) {
    if (info->dlpi_name && std::strstr(info->dlpi_name, "libmade"))
        for (int i = 0; i < info->dlpi_phnum; i++)
            *(long *)sum += info->dlpi_phdr[i].p_type == PT_LOAD;
    return 0;
}
extern "C" long works() {
    long loads = 0;
    Dl_info info;
    dl_iterate_phdr(headers, &loads);
    for (char one : zeros) if (one) return -1;
    zeros[99] = 1; zeros[99] = 0;
    if (!built || of_thread != 7 || !dladdr((void *)works, &info)) return -2;
    try { throw std::runtime_error("caught"); } catch (const std::exception &) { return loads; }
}
extern "C" uint64_t sum() {  // every byte, also of what left the file
    uint64_t all = 0;
    for (const unsigned char *at = code; at < code_end; at++) all += *at;
    return all;
}
extern "C" const unsigned char *first() { return code; }
"""
LAYOUTS = {
    "one-segment": ["-Wl,-z,noseparate-code"],
    "separate-code": ["-Wl,-z,separate-code"],
    "large-pages": ["-Wl,-z,max-page-size=0x200000"],
    "no-relro": ["-Wl,-z,norelro"],
    "emit-relocations": ["-Wl,-q"],
}
LOADED = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1], mode=2)
library.first.restype = ctypes.c_void_p
library.sum.restype = ctypes.c_uint64
size = int.from_bytes(ctypes.string_at(library.first() + 8, 8), "little")
print(library.works(), library.sum(), ctypes.string_at(library.first() + 16, size).hex()[:128])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code.bin").write_bytes(b"".join(one + bytes(-len(one) % 8) for one in CODE))
    return tmp_path


def built(folder: Path, *flags: str, section: str = '.nv_fatbin, \\"a\\"') -> Path:
    (folder / "made.cc").write_text(SOURCE % {"section": section})
    library = folder / "libmade.so"
    compiler = shutil.which("g++")
    assert compiler, "g++ is needed"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-g", "-O1", *flags, "made.cc", "-o", library.name],
        cwd=folder,
        check=True,
        timeout=120,
    )
    return library


def slim(path: Path, *options: str) -> str:
    return subprocess.run(
        [
            sys.executable,
            "-ES",
            REPOSITORY / "builder/runtime",
            "slim",
            path,
            "--sm",
            "90",
            *options,
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout


def loaded(library: Path) -> tuple[int, int, str]:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, library],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loads, total, code = done.stdout.split()
    return int(loads), int(total), code


def segments(library: Path) -> str:
    return subprocess.run(
        ["readelf", "-Wl", library], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def warnings(library: Path) -> set[str]:
    told = subprocess.run(
        ["readelf", "-Wa", library], capture_output=True, text=True, check=True, timeout=60
    ).stderr
    return {line for line in told.splitlines() if not re.search("Gap in build notes", line)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("section", ['.nv_fatbin, \\"a\\"', '__nv_relfatbin, \\"aw\\"'])
def test_a_library_loads_and_works(layout: str, section: str, folder: Path) -> None:
    library = built(folder, *LAYOUTS[layout], section=section)
    old = library.stat().st_size
    loads, total, code = loaded(library)
    slim(library, "--uncovered", "empty")
    assert old - library.stat().st_size > 800 * KB
    now_loads, now_total, now_code = loaded(library)
    assert now_loads > loads
    assert not re.search("LOAD.* 0x000000 0x0+[1-9a-f]\\w* R E", segments(library))
    assert now_total < total
    assert code[:4] == now_code[:4]
    assert warnings(library) == set()
    once = library.read_bytes()
    slim(library, "--uncovered", "empty")
    assert library.read_bytes() == once


def test_a_program_that_runs_is_not_disturbed(folder: Path) -> None:
    """Who has mapped the old file keeps it."""
    library = built(folder)
    later = "sys.stdout.flush(); sys.stdin.read(); print(library.works(), library.sum())"
    waiting = subprocess.Popen(
        [sys.executable, "-c", f"{LOADED}\n{later}", library],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert waiting.stdout
    before = waiting.stdout.readline().split()
    slim(library)
    after, _ = waiting.communicate(timeout=60)
    assert after.split() == before[:2]


def test_a_program_works_without_its_debug_sections(folder: Path) -> None:
    (folder / "main.c").write_text('#include <stdio.h>\nint main() { puts("runs"); }\n')
    subprocess.run(["gcc", "-g", "main.c", "-o", "main"], cwd=folder, check=True, timeout=60)
    program = folder / "main"
    old = program.stat().st_size
    assert "debug sections" in slim(program)
    assert program.stat().st_size < old
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"runs\n"
    assert warnings(program) == set()


def test_objects_and_archives_stay(folder: Path) -> None:
    (folder / "one.c").write_text("int one(void) { return 1; }\n")
    subprocess.run(["gcc", "-g", "-c", "one.c"], cwd=folder, check=True, timeout=60)
    subprocess.run(["ar", "rc", "libone.a", "one.o"], cwd=folder, check=True, timeout=60)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    slim(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
