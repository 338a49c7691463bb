"""/proc/PID/fdinfo/FD of a graphics device: memory of the device that a client holds; and of a
buffer that devices share (dma-buf).

Rules: a descriptor that is none of a DRM driver has no such lines and gives None. Drivers tell
``drm-resident-REGION``, older ones ``drm-memory-REGION``; both mean what is in that region now.
Regions of system memory are left out: their pages are the kernel's own. Source:
Documentation/gpu/drm-usage-stats.rst; dma_buf_show_fdinfo in drivers/dma-buf/dma-buf.c.
"""

from __future__ import annotations

import re

from allocscope.immutable import immutable

_LINE = re.compile(r"^drm-(resident|memory|total)-([\w-]+):\s+(\d+)( [KM]iB)?\s*$", re.MULTILINE)
_ID = re.compile(r"^(drm-driver|drm-pdev|drm-client-id):\s+(.+?)\s*$", re.MULTILINE)
_BUFFER = re.compile(r"^(ino|size|exp_name):\s+(.+?)\s*$", re.MULTILINE)
_UNITS = {"": 1, " KiB": 1 << 10, " MiB": 1 << 20}
_RANK = {"resident": 0, "memory": 1, "total": 2}
SYSTEM_REGIONS = frozenset({"system", "system0", "gtt", "cpu", "smem"})


@immutable
class DeviceClient:
    """One client of one device; several descriptors may be the same one. ``region_bytes``: by
    region of the device's memory."""

    driver: str
    device: str
    client: str
    region_bytes: tuple[tuple[str, int], ...]

    @property
    def total_bytes(self) -> int:
        return sum(size for _, size in self.region_bytes)


@immutable
class SharedBuffer:
    """A dma-buf. ``exporter``: the driver that made it; ``inode`` tells two of them apart."""

    exporter: str
    inode: int
    bytes: int


def shared_buffer(data: bytes) -> SharedBuffer | None:
    """The dma-buf behind a descriptor, None where it is none."""
    told = dict(_BUFFER.findall(data.decode("ascii", "replace")))
    if not told.keys() >= {"size", "exp_name"}:
        return None
    numbers = [told.get(name, "0") for name in ("ino", "size")]
    if not all(number.isdecimal() for number in numbers):
        return None
    return SharedBuffer(told["exp_name"], *map(int, numbers))


def device_client(data: bytes) -> DeviceClient | None:
    """The client behind a descriptor, None where it is none of a graphics device."""
    text = data.decode("ascii", "replace")
    names = dict(_ID.findall(text))
    if "drm-driver" not in names:
        return None
    best: dict[str, tuple[int, int]] = {}
    for kind, region, number, unit in _LINE.findall(text):
        found = (_RANK[kind], int(number) * _UNITS[unit])
        if region not in SYSTEM_REGIONS and (region not in best or found < best[region]):
            best[region] = found
    return DeviceClient(
        driver=names["drm-driver"],
        device=names.get("drm-pdev", ""),
        client=names.get("drm-client-id", ""),
        region_bytes=tuple((region, size) for region, (_, size) in sorted(best.items())),
    )
