"""CRC-32C (Castagnoli), the checksum of TFRecord files, of whole records at a time with NumPy.

The state of a CRC is linear in its bits. So words are taken as states of their own, and neighbours are joined in a
tree: the left one is advanced over the length of the right one, then both are added. A step is two look-ups.
"""

import functools

import numpy as np

POLYNOMIAL = 0x82F63B78  # reversed, as everything here: the lowest bit is the first
WORD = 4  # bytes
Tables = tuple[np.ndarray, np.ndarray]  # uint32 [65536] each, by the low and the high half of a state


def crc32c(data: bytes) -> int:
    """The checksum of some bytes."""
    if len(data) < 4 * WORD:
        state = 0xFFFFFFFF
        for byte in data:
            state ^= byte
            for _ in range(8):
                state = state >> 1 ^ (POLYNOMIAL if state & 1 else 0)
        return state ^ 0xFFFFFFFF
    pad = -len(data) % WORD
    states = np.zeros((len(data) + pad) // WORD, "<u4")
    content = states.view(np.uint8)
    content[pad:] = np.frombuffer(data, np.uint8)  # zeros before the data leave a state of zero as it is
    content[pad : pad + WORD] ^= 0xFF  # the state that a CRC starts from
    level = 0
    while len(states) > 1:
        if len(states) % 2:
            states = np.concatenate([np.zeros(1, "<u4"), states])
        low, high = _advance(level)
        halves = states.view("<u2")
        states = low[halves[0::4]] ^ high[halves[1::4]] ^ states[1::2]
        level += 1
    return int(_apply(_advance(0), states)[0]) ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    """The checksum as TFRecord stores it: rotated, so that a checksum may be taken of what holds one."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _advance(level: int) -> Tables:
    """What a state becomes over 2**level words of zeros."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    if level:
        half = _advance(level - 1)
        bits = _apply(half, _apply(half, bits))
    else:
        for _ in range(8 * WORD):
            bits = np.where(bits & 1, (bits >> 1) ^ np.uint32(POLYNOMIAL), bits >> 1)
    return _sums(bits[:16]), _sums(bits[16:])


def _sums(images: np.ndarray) -> np.ndarray:
    """The sum of the images of every number's bits."""
    sums = np.zeros(1, np.uint32)
    for image in images:
        sums = np.concatenate([sums, sums ^ image])
    return sums


def _apply(tables: Tables, states: np.ndarray) -> np.ndarray:
    low, high = tables
    return low[states & 0xFFFF] ^ high[states >> 16]
