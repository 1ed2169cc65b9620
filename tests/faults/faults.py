"""The faults: what the shim is told, at which operations, and how the program may end."""

import dataclasses
import errno
import signal

# What operations do, as the shim says: those that a fault can change are counted for it.
ALL = {"write", "space", "name", "sync", "lock", "open", "read"}
TAKES_SPACE = {"write", "space"}


@dataclasses.dataclass(frozen=True)
class Fault:
    """A kind of fault."""

    name: str
    kind: str
    # Exit codes with which the program may end.
    codes: frozenset
    # Operations that the shim counts, and those at which the fault makes sense.
    counts: frozenset = frozenset(ALL)
    at: frozenset = frozenset(ALL)
    number: int = 0

    def places(self, log):
        """Numbers of the operations at which it can happen; `log` is that of an undisturbed run."""
        number, places = 0, []
        for what, operation, path in log:
            if what not in self.counts or (self.kind == "flip-read" and path.startswith("in/")):
                continue
            number += 1
            if what in self.at:
                places.append((number, what))
        return places

    @property
    def kills(self):
        """True if the program gets no chance to tidy up."""
        return self.kind in ("kill", "tear")


def _error(name, code, at):
    return Fault(name, "error", frozenset({0, code}), at=frozenset(at), number=getattr(errno, name))


KILLED = frozenset({-signal.SIGKILL})
FOUND = frozenset({0, 1, 3})
ENDS_LATER = frozenset(ALL - {"read"})

FAULTS = [
    Fault("kill", "kill", KILLED, counts=ENDS_LATER),
    Fault("torn write", "tear", KILLED, counts=frozenset({"write"})),
    Fault("SIGINT", "interrupt", frozenset({0, 130}), counts=ENDS_LATER),
    _error("EIO", 1, ALL - {"lock"}),
    _error("ENOSPC", 5, {"write", "space", "name", "sync"}),
    _error("EDQUOT", 5, {"write", "space", "name", "sync"}),
    _error("EFBIG", 5, TAKES_SPACE),
    _error("ENOMEM", 5, ALL - {"lock", "sync"}),
    Fault("disk full", "full", frozenset({0, 5}), counts=frozenset(TAKES_SPACE), number=errno.ENOSPC),
    Fault("short write", "short", frozenset({0}), counts=frozenset({"write"})),
    Fault("flip written", "flip", FOUND, counts=frozenset({"write"})),
    Fault("flip read", "flip-read", FOUND, counts=frozenset({"read"})),
    Fault("input overwritten", "change", FOUND),
    Fault("input cut", "shrink", FOUND),
]
# RLIMIT_FSIZE, without the shim: the limit is so many bytes.
FILE_SIZE = Fault("SIGXFSZ", "file-size", frozenset({0, 5}))


def chosen(places, most):
    """At most so many of the places: first those that change names, from the end on; then the others, evenly."""
    if most is None or len(places) <= most:
        return [number for number, _ in places]
    rest = [number for number, what in places if what in ("write", "read")]
    rare = [number for number, what in places if what not in ("write", "read")][-most:]
    few = most - len(rare)
    # The first and the last are always among them.
    evenly = [rest[n * (len(rest) - 1) // max(few - 1, 1)] for n in range(few)] if rest else []
    return sorted({*rare, *evenly})


def limits(sizes, most):
    """File sizes at which to stop: around those of the outputs, and evenly up to the largest."""
    largest = max(sizes, default=1)
    edges = {0, 1, largest - 1} | {size - 1 for size in sizes if size}
    evenly = {largest * n // 16 for n in range(1, 16)}
    places = sorted(edges | evenly)
    if most is None or len(places) <= most:
        return places
    return sorted({places[n * (len(places) - 1) // max(most - 1, 1)] for n in range(most)})
