"""Makes shared objects with GPU code that no compiler is needed for."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

PAGE = 0x1000
PTX, CUBIN, LTO = 1, 2, 8
_FLAGS = {"": 0, "a": 1 << 20, "f": 1 << 21}
_PROGBITS, _SYMTAB, _STRTAB, _NOBITS = 1, 2, 3, 8
_ALLOC, _EXECUTED = 2, 4


def entry(
    kind: int, sm: int, size: int = 64, variant: str = "", header: int = 64, flags: int = 0x8011
) -> bytes:
    """One entry; its payload says what it is, and no two of a container are alike."""
    text = f"{kind}/{sm}{variant}/{size}/".encode()
    payload = (text * (size // len(text) + 1))[:size]
    head = struct.pack("<HHIQ", kind, 0x101, header, size)
    head += struct.pack("<IIHHI", size, 0, 8, 1, sm) + bytes(8)
    head += struct.pack("<Q", flags | _FLAGS[variant])
    return head.ljust(header, b"\0") + payload


def container(*entries: bytes) -> bytes:
    """A container of them."""
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def frame(sm: int, size: int, *, new: bool = False) -> bytes:
    """Machine code for a GPU as cuBLASLt 13 holds it: a zstd frame (RFC 8878) of raw blocks.

    `new`: with the ELF header of CUDA 13's cubins.
    """
    head = bytearray(b"\x7fELF\x02\x01\x01" + (b"\x41" if new else b"\x33") + bytes(56))
    head[18:20] = (190).to_bytes(2, "little")
    head[48:52] = (0x6000002 | sm << 8 if new else sm << 16 | 0x500 | sm).to_bytes(4, "little")
    text = f"frame/{sm}/{size}/".encode()
    data = bytes(head) + (text * (size // len(text) + 1))[:size]
    out = b"\x28\xb5\x2f\xfd\x00\x58"  # no size, a window of 2 MiB
    for at in range(0, len(data), 65536):
        part = data[at : at + 65536]
        out += (len(part) << 3 | int(at + len(part) == len(data))).to_bytes(3, "little") + part
    return out


@dataclass
class Library:
    """A shared object to be. Its containers stand 8-aligned in one section, with a word between."""

    containers: list[bytes] = field(default_factory=list)
    debug: int = 0  # bytes of .debug_info; with it come .symtab and .strtab
    between: int = 0  # bytes of a .symtab between segments, as patchelf leaves it
    align: int = PAGE  # p_align of all segments
    phdr: bool = False
    flags: int = 4  # p_flags of the GPU code's segment
    program: bool = False  # with PT_INTERP
    machine: int = 62
    overlay: bytes = b""

    def made(self) -> bytes:
        """The file: code, GPU code, data with .bss, what is not mapped, section headers."""
        number = 4 + self.phdr + self.program
        align = self.align
        self._out = bytearray(64 + 56 * number)
        self._sections: list[tuple[Any, ...]] = []
        self._sections.append((b"", 0, 0, 0, 0, 0, 0, 0))
        self._segments: list[tuple[int, ...]] = []
        if self.phdr:
            self._segments.append((6, 4, 64, 64, 64, 56 * number, 56 * number, 8))
        if self.program:
            self._segments.append((3, 4, 64, 64, 64, 8, 8, 1))
        self._section(b".text", b"\xc3code" * 50, 16, mapped=True)
        self._segment(5, 0, len(self._out))
        self._pad(PAGE)
        begin = len(self._out)
        self._section(b".rodata", b"read only" * 9, 8, mapped=True)
        blob = bytearray()
        for text in self.containers:
            blob += text + bytes(-len(text) % 8) + b"padding!"
        self._section(b".nv_fatbin", bytes(blob), 8, mapped=True)
        self._section(b".eh_frame", b"frames " * 30, 8, mapped=True)
        self._segment(self.flags, begin, len(self._out))
        if self.between:
            index = len(self._sections)
            self._section(b".symtab", bytes(range(1, 25)) * (self.between // 24), 8, 2, index + 1)
            self._section(b".strtab", b"\0name" * (self.between // 10), 1, 3)
        self._pad(PAGE)
        begin = len(self._out)
        self._section(b".data", b"writable" * 40, 8, mapped=True)
        note = len(self._out)
        self._segment(6, begin, note, 5000)
        self._segments.append((4, 4, note - 32, note - 32, note - 32, 32, 32, 4))
        self._section(b".comment", b"GCC: none", 1)
        if self.debug:
            self._section(b".debug_info", b"debug" * (self.debug // 5), 1)
            index = len(self._sections)
            self._section(b".symtab", b"symbol 8" * 30, 8, 2, index + 1)
            self._section(b".strtab", b"\0names" * 30, 1, 3)
        names = b"\0" + b"\0".join(s[0] for s in self._sections[1:]) + b"\0.shstrtab\0"
        self._section(b".shstrtab", names, 1, 3)
        self._pad(8)
        shoff = len(self._out)
        for name, *rest in self._sections:
            at = names.index(b"\0" + name + b"\0") + 1 if name else 0
            self._out += struct.pack("<IIQQQQIIQQ", at, *rest[:6], 0, rest[6], 0)
        head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
            "<HHIQQQIHHHHHH", 3, self.machine, 1, 0, 64, shoff, 0, 64, 56,
            len(self._segments), 64, len(self._sections), len(self._sections) - 1,
        )  # fmt: skip
        self._out[:64] = head
        for index, one in enumerate(self._segments):
            fields = list(one)
            if fields[0] == 1:
                fields[7] = align
            struct.pack_into("<IIQQQQQQ", self._out, 64 + 56 * index, *fields)
        return bytes(self._out) + self.overlay

    def _pad(self, to: int) -> None:
        self._out += bytes(-len(self._out) % to)

    def _section(
        self, name: bytes, text: bytes, align: int, kind: int = 1, link: int = 0,
        mapped: bool = False,
    ) -> None:  # fmt: skip
        self._pad(align)
        at = len(self._out)
        flags, address = (_ALLOC, at) if mapped else (0, 0)
        flags |= _EXECUTED if name == b".text" else 0
        self._sections.append((name, kind, flags, address, at, len(text), link, align))
        self._out += text

    def _segment(self, flags: int, begin: int, end: int, bss: int = 0) -> None:
        self._segments.append((1, flags, begin, begin, begin, end - begin, end - begin + bss, 0))


@dataclass
class Large:
    """A shared object whose containers stand 32-aligned in .ldata, as cuFFT's do.

    An instruction or a relocation points to each; `coded` says of which it is an instruction.
    """

    containers: list[bytes]
    coded: list[bool]
    inside: dict[int, int] = field(default_factory=dict)  # container -> bytes behind its start
    plain: set[int] = field(default_factory=set)  # containers that nothing points to
    symbols: list[int] = field(default_factory=list)  # containers that a dynamic symbol names
    named: dict[int, int] = field(default_factory=dict)  # as `inside`, from the first of `symbols`
    words: dict[int, bytes] = field(default_factory=dict)  # what stands behind a container
    flags: int = 0x10000003  # sh_flags of .ldata
    name: bytes = b".ldata"
    got: int = 0x2000  # address
    away: int = 0x200000  # addresses between the file's offsets and those of .ldata
    tags: dict[int, int] = field(default_factory=dict)  # more of .dynamic

    def made(self) -> bytes:
        """The file: relocations and code, then .dynamic, then .ldata."""
        blob, places = bytearray(), []
        for index, text in enumerate(self.containers):
            blob += bytes(-len(blob) % 32)
            places.append(len(blob))
            blob += text + self.words.get(index, b"")
        head = 64 + 56 * 4
        pointed = [i for i in range(len(places)) if i not in self.plain]
        rows = [i for i in pointed if not self.coded[i]] + list(self.inside)
        code_size = 64 + 16 * sum(self.coded[i] for i in pointed)
        relocations = head + 24 * len(self.symbols)
        code = relocations + 24 * (len(rows) + len(self.named))
        dynamic = (code + code_size + 15) & ~15
        tags = {3: self.got, 6: head, 7: relocations, 8: code - relocations, **self.tags}
        table = b"".join(struct.pack("<QQ", *pair) for pair in (*tags.items(), (0, 0)))
        start = (dynamic + len(table) + PAGE - 1) & -PAGE
        address = [start + self.away + place for place in places]
        out = bytearray(head)
        for index in self.symbols:
            out += struct.pack("<IBBHQQ", 1, 1, 0, 5, address[index], 8)
        for number, index in enumerate(rows):
            extra = self.inside.get(index, 0) if number >= len(rows) - len(self.inside) else 0
            out += struct.pack("<QQq", dynamic + 8, 8, address[index] + extra)
        for index, extra in self.named.items():
            away = address[index] + extra - address[self.symbols[1]]
            out += struct.pack("<QQq", dynamic + 8, 1 << 32 | 1, away)
        instructions = bytearray(b"\xc3" * 16)
        for index in pointed:
            if self.coded[index]:
                instructions += (
                    b"\x48\xb8" + struct.pack("<q", address[index] - self.got) + b"\x48\x01\xd8"
                )
                instructions += b"\x90" * 3
        out += instructions.ljust(code_size, b"\xc3")
        out += bytes(dynamic - len(out)) + table
        shut = len(out)
        out += bytes(start - len(out)) + blob
        names = b"\0.dynsym\0.rela.dyn\0.text\0.dynamic\0" + self.name + b"\0.shstrtab\0"
        strings, shoff = len(out), (len(out) + len(names) + 7) & ~7
        out += names.ljust(shoff - strings, b"\0")
        for name, *rest in (
            (b".dynsym", 11, 2, head, head, 24 * len(self.symbols), 8),
            (b".rela.dyn", 4, 2, relocations, relocations, code - relocations, 8),
            (b".text", 1, 6, code, code, code_size, 16),
            (b".dynamic", 6, 3, dynamic, dynamic, len(table), 8),
            (self.name, 1, self.flags, start + self.away, start, len(blob), 32),
            (b".shstrtab", 3, 0, 0, strings, len(names), 1),
        ):
            at = names.index(b"\0" + name + b"\0") + 1
            if name == b".dynsym":
                out += bytes(64)  # the first is no section
            out += struct.pack("<IIQQQQIIQQ", at, *rest[:5], 0, 0, rest[5], 0)
        out[:64] = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
            "<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, shoff, 0, 64, 56, 4, 64, 7, 6
        )
        size = len(table)
        for index, one in enumerate(
            (
                (1, 5, 0, 0, 0, shut, shut, PAGE),
                (
                    1,
                    6,
                    start,
                    start + self.away,
                    start + self.away,
                    len(blob),
                    len(blob) + 100,
                    PAGE,
                ),
                (2, 6, dynamic, dynamic, dynamic, size, size, 8),
                (0x6474E551, 6, 0, 0, 0, 0, 0, 16),
            )
        ):
            struct.pack_into("<IIQQQQQQ", out, 64 + 56 * index, *one)
        return bytes(out)
