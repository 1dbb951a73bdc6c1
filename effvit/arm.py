"""What cores of ARM processors are called, by the numbers that the kernel tells. Standard library only.

Source:
    https://github.com/torvalds/linux/blob/master/arch/arm64/include/asm/cputype.h, and util-linux, lscpu-arm.c
"""

from __future__ import annotations

_ARM, _CAVIUM, _FUJITSU, _NVIDIA, _QUALCOMM, _APPLE, _AMPERE = 0x41, 0x43, 0x46, 0x4E, 0x51, 0x61, 0xC0
IMPLEMENTERS = {
    _ARM: "ARM",
    0x42: "Broadcom",
    _CAVIUM: "Cavium",
    _FUJITSU: "Fujitsu",
    0x48: "HiSilicon",
    _NVIDIA: "NVIDIA",
    0x50: "APM",
    _QUALCOMM: "Qualcomm",
    0x53: "Samsung",
    0x56: "Marvell",
    _APPLE: "Apple",
    _AMPERE: "Ampere",
}
PARTS = {
    (_ARM, 0xB76): "ARM1176",
    (_ARM, 0xC07): "Cortex-A7",
    (_ARM, 0xC08): "Cortex-A8",
    (_ARM, 0xC09): "Cortex-A9",
    (_ARM, 0xC0D): "Cortex-A17",
    (_ARM, 0xC0E): "Cortex-A17",
    (_ARM, 0xC0F): "Cortex-A15",
    (_ARM, 0xD01): "Cortex-A32",
    (_ARM, 0xD02): "Cortex-A34",
    (_ARM, 0xD03): "Cortex-A53",
    (_ARM, 0xD04): "Cortex-A35",
    (_ARM, 0xD05): "Cortex-A55",
    (_ARM, 0xD06): "Cortex-A65",
    (_ARM, 0xD07): "Cortex-A57",
    (_ARM, 0xD08): "Cortex-A72",
    (_ARM, 0xD09): "Cortex-A73",
    (_ARM, 0xD0A): "Cortex-A75",
    (_ARM, 0xD0B): "Cortex-A76",
    (_ARM, 0xD0C): "Neoverse-N1",
    (_ARM, 0xD0D): "Cortex-A77",
    (_ARM, 0xD0E): "Cortex-A76AE",
    (_ARM, 0xD40): "Neoverse-V1",
    (_ARM, 0xD41): "Cortex-A78",
    (_ARM, 0xD42): "Cortex-A78AE",
    (_ARM, 0xD43): "Cortex-A65AE",
    (_ARM, 0xD44): "Cortex-X1",
    (_ARM, 0xD46): "Cortex-A510",
    (_ARM, 0xD47): "Cortex-A710",
    (_ARM, 0xD48): "Cortex-X2",
    (_ARM, 0xD49): "Neoverse-N2",
    (_ARM, 0xD4A): "Neoverse-E1",
    (_ARM, 0xD4B): "Cortex-A78C",
    (_ARM, 0xD4C): "Cortex-X1C",
    (_ARM, 0xD4D): "Cortex-A715",
    (_ARM, 0xD4E): "Cortex-X3",
    (_ARM, 0xD4F): "Neoverse-V2",
    (_ARM, 0xD80): "Cortex-A520",
    (_ARM, 0xD81): "Cortex-A720",
    (_ARM, 0xD82): "Cortex-X4",
    (_ARM, 0xD83): "Neoverse-V3AE",
    (_ARM, 0xD84): "Neoverse-V3",
    (_ARM, 0xD85): "Cortex-X925",
    (_ARM, 0xD87): "Cortex-A725",
    (_ARM, 0xD8E): "Neoverse-N3",
    (_CAVIUM, 0x0A1): "ThunderX",
    (_CAVIUM, 0x0AF): "ThunderX2",
    (_FUJITSU, 0x001): "A64FX",
    (_NVIDIA, 0x003): "Denver 2",
    (_NVIDIA, 0x004): "Carmel",
    (_QUALCOMM, 0x800): "Kryo 2xx Gold",
    (_QUALCOMM, 0x801): "Kryo 2xx Silver",
    (_QUALCOMM, 0x802): "Kryo 3xx Gold",
    (_QUALCOMM, 0x803): "Kryo 3xx Silver",
    (_QUALCOMM, 0x804): "Kryo 4xx Gold",
    (_QUALCOMM, 0x805): "Kryo 4xx Silver",
    (_QUALCOMM, 0x001): "Oryon",
    (_APPLE, 0x022): "Icestorm",
    (_APPLE, 0x023): "Firestorm",
    (_AMPERE, 0xAC3): "Ampere-1",
    (_AMPERE, 0xAC4): "Ampere-1A",
}


def core_name(implementer: int, part: int) -> str:
    """Return what a core is called; its numbers where nobody knows: `ARM part 0xd99`."""
    known = PARTS.get((implementer, part))
    return known or f"{IMPLEMENTERS.get(implementer, f'implementer {implementer:#04x}')} part {part:#05x}"
