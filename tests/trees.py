"""Roots of file systems with the files that real boards have in /proc and /sys, written as their kernels write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_ARM_CORE = """\
processor\t: {core}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: {part}
CPU revision\t: 1

"""
_POLICY = "sys/devices/system/cpu/cpufreq"
_CPU = "sys/devices/system/cpu"
_THERMAL = "sys/class/thermal"
_HWMON = "sys/class/hwmon"
MACHINE_ID = "0123456789abcdef0123456789abcdef"


def draw(root: Path, files: Mapping[str, str]) -> Path:
    """Write files below `root`, which is made, and return it; the content of each ends as the kernel ends it."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return root


def arm_cpuinfo(*parts: str) -> str:
    return "".join(_ARM_CORE.format(core=core, part=part) for core, part in enumerate(parts))


def policy(number: int, cores: str, least: int, most: int, governor: str, current: int | None = None) -> dict[str, str]:
    """Return a cpufreq policy in kHz, as the folder of the policy and as that of each of its cores."""
    content = {
        "affected_cpus": f"{cores}\n",
        "related_cpus": f"{cores}\n",
        "cpuinfo_min_freq": f"{least}\n",
        "cpuinfo_max_freq": f"{most}\n",
        "scaling_governor": f"{governor}\n",
        "scaling_cur_freq": f"{current or most}\n",
    }
    folders = [f"{_POLICY}/policy{number}", *(f"{_CPU}/cpu{core}/cpufreq" for core in cores.split())]
    return {f"{folder}/{name}": text for folder in folders for name, text in content.items()}


def zone(number: int, kind: str, thousandths: str) -> dict[str, str]:
    folder = f"{_THERMAL}/thermal_zone{number}"
    return {f"{folder}/type": f"{kind}\n", f"{folder}/temp": f"{thousandths}\n"}


def cooling(number: int, kind: str, state: str) -> dict[str, str]:
    folder = f"{_THERMAL}/cooling_device{number}"
    return {f"{folder}/type": f"{kind}\n", f"{folder}/cur_state": f"{state}\n"}


def chip(number: int, name: str, **readings: str) -> dict[str, str]:
    folder = f"{_HWMON}/hwmon{number}"
    return {f"{folder}/name": f"{name}\n", **{f"{folder}/{file}": f"{text}\n" for file, text in readings.items()}}


RASPBERRY_PI_5 = {
    "proc/cpuinfo": arm_cpuinfo(*("0xd0b",) * 4)
    + "Revision\t: c04170\nSerial\t\t: 6d2a9c0112345678\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/serial-number": "6d2a9c0112345678\0",
    "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    "/dev/zram0                              partition\t2097136\t\t0\t\t100\n"
    "/var/swap                               file\t\t524272\t\t0\t\t-2\n",
    "etc/machine-id": f"{MACHINE_ID}\n",
    f"{_CPU}/online": "0-3\n",
    **policy(0, "0 1 2 3", 1_500_000, 2_400_000, "ondemand"),
    f"{_CPU}/cpu0/cpufreq/stats/time_in_state": "1500000 7250\n1600000 12\n2400000 91003\n",
    **zone(0, "cpu-thermal", "61250"),
    **cooling(0, "pwm-fan", "3"),
    **chip(0, "cpu_thermal", temp1_input="61250"),
    **chip(1, "rp1_adc", in1_input="1437", temp1_input="54311"),
    **chip(2, "pwmfan", fan1_input="5231"),
    **chip(3, "rpi_volt", in0_lcrit_alarm="0"),
}
FIRMWARE = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
_NVPMODEL_CONF = """\
# Copyright (c) 2022, NVIDIA CORPORATION.  All rights reserved.
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
CPU_A78_0 MAX_FREQ 1497600
< POWER_MODEL ID=1 NAME=25W >
CPU_A78_0 MAX_FREQ 1344000
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
CPU_A78_0 MAX_FREQ -1

# mandatory section to configure the default mode
< PM_CONFIG DEFAULT=0 >
"""
JETSON_ORIN_NANO = {
    "proc/cpuinfo": arm_cpuinfo(*("0xd42",) * 6).replace(
        "BogoMIPS", "model name\t: ARMv8 Processor rev 1 (v8l)\nBogoMIPS"
    ),
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/serial-number": "1423124011223\0",
    "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    + "".join(f"/dev/zram{number}                              partition\t635824\t0\t5\n" for number in range(6)),
    "etc/machine-id": f"{MACHINE_ID}\n",
    "etc/nvpmodel.conf": _NVPMODEL_CONF,
    "var/lib/nvpmodel/status": "pmode:0002",
    f"{_CPU}/online": "0-5\n",
    **policy(0, "0 1 2 3", 115_200, 1_728_000, "schedutil"),
    **policy(4, "4 5", 115_200, 1_728_000, "schedutil"),
    **zone(0, "cpu-thermal", "51687"),
    **zone(1, "gpu-thermal", "58500"),
    **zone(2, "cv0-thermal", "-256000"),
    **zone(5, "soc0-thermal", "50781"),
    **zone(8, "tj-thermal", "52687"),
    **cooling(0, "cpufreq-cpu0", "0"),
    **cooling(1, "cpufreq-cpu4", "0"),
    **cooling(2, "devfreq-17000000.gpu", "7"),
    **cooling(3, "pwm-fan", "2"),
    **cooling(4, "cpu-throttle-alert", "0"),
    **cooling(5, "gpu-throttle-alert", "1"),
    **chip(0, "tmp451", temp1_input="45000"),
    **chip(
        1,
        "ina3221",
        in1_label="VDD_IN",
        in1_input="5072",
        curr1_input="1000",
        in2_label="VDD_CPU_GPU_CV",
        in2_input="5072",
        curr2_input="200",
        in3_label="VDD_SOC",
        in3_input="5072",
        curr3_input="304",
        in4_input="5000",
        in7_label="sum of shunt voltages",
        in7_input="7600",
        curr4_input="0",
    ),
    **chip(2, "soctherm_oc", oc1_event_cnt="0", oc2_event_cnt="0", oc3_event_cnt="4"),
}
INTEL_LAPTOP = {
    "proc/cpuinfo": "".join(
        f"processor\t: {core}\nvendor_id\t: GenuineIntel\nmodel name\t: 12th Gen Intel(R) Core(TM) i5-1235U\n\n"
        for core in range(6)
    ),
    "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
    "etc/machine-id": f"{MACHINE_ID}\n",
    "sys/class/dmi/id/sys_vendor": "LENOVO\n",
    "sys/class/dmi/id/product_name": "21E3CTO1WW\n",
    "sys/firmware/acpi/platform_profile": "balanced\n",
    f"{_CPU}/online": "0-5\n",
    **{
        name: text for core in (0, 1) for name, text in policy(core, str(core), 400_000, 4_400_000, "powersave").items()
    },
    **{
        name: text
        for core in (2, 3, 4, 5)
        for name, text in policy(core, str(core), 400_000, 3_300_000, "powersave").items()
    },
    **zone(0, "acpitz", "27800"),
    **zone(1, "INT3400 Thermal", "20000"),
    **zone(7, "x86_pkg_temp", "64000"),
    **zone(8, "iwlwifi_1", "71000"),
    **cooling(0, "Processor", "0"),
    **cooling(1, "Fan", "1"),
    **cooling(2, "intel_powerclamp", "-1"),
    **cooling(3, "TCC Offset", "5"),
    **chip(0, "AC"),
    **chip(1, "BAT0", in0_input="12453", power1_input="9731000"),
    **chip(2, "coretemp", temp1_label="Package id 0", temp1_input="64000", temp2_label="Core 0", temp2_input="61000"),
}
CONTAINER: dict[str, str] = {}
