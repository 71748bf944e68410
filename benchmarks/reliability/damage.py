"""Ways to damage the files of a run, drawn from a seeded source of chance."""

import random
from collections.abc import Callable
from pathlib import Path

KINDS = ("checkpoint", "episode", "config", "metrics")


def truncate(data: bytes, chance: random.Random) -> bytes:
    """The beginning."""
    return data[: chance.randrange(len(data))]


def flip(data: bytes, chance: random.Random) -> bytes:
    """One to eight bits are others."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def grow(data: bytes, chance: random.Random) -> bytes:
    """More bytes behind, or somewhere inside."""
    extra = chance.choice((b"\0", b"x", b"\n{}\n", data, chance.randbytes(chance.randrange(1, 5000))))
    place = chance.choice((len(data), chance.randrange(len(data))))
    return data[:place] + extra + data[place:]


def zero(data: bytes, chance: random.Random) -> bytes:
    """A block of zeros, as a crashed file system leaves."""
    start = chance.randrange(len(data))
    stop = min(len(data), start + chance.choice((1, 16, 512, 4096)))
    return data[:start] + bytes(stop - start) + data[stop:]


def replace(data: bytes, chance: random.Random) -> bytes:
    """Something else altogether."""
    noise = chance.randbytes(len(data))
    return chance.choice(
        (b"", b"\n", b"\x89PNG\r\n\x1a\n" + noise, noise, b"PK\x03\x04" + noise, b"[" * 20_000, b"null")
    )


CHANGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": truncate,
    "bits flipped": flip,
    "grown": grow,
    "zeroed block": zero,
    "replaced": replace,
}
MUTATIONS = (*CHANGES, "swapped", "another run's", "missing")


def files(logdir: Path, kind: str) -> list[Path]:
    """The files of a kind in a run's folder, in an order that is always the same."""
    patterns = {"checkpoint": "checkpoints/*.pt", "episode": "episodes/*.ep"}
    names = {"config": "config.yaml", "metrics": "metrics.jsonl"}
    return sorted(logdir.glob(patterns[kind])) if kind in patterns else [logdir / names[kind]]


def mutate(logdir: Path, other: Path, mutation: str, kind: str, chance: random.Random) -> None:
    """Change one file of a kind (two, where they change places)."""
    target = chance.choice(files(logdir, kind))
    if mutation == "missing":
        target.unlink()
    elif mutation == "another run's":
        target.write_bytes(chance.choice(files(other, kind)).read_bytes())
    elif mutation == "swapped":
        second = chance.choice([path for each in KINDS for path in files(logdir, each) if path != target])
        mine, theirs = target.read_bytes(), second.read_bytes()
        target.write_bytes(theirs)
        second.write_bytes(mine)
    else:
        target.write_bytes(CHANGES[mutation](target.read_bytes(), chance))
