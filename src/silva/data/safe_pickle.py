"""Reads a pickle as data: no import, no call, no class but the few this file builds itself.

A pickle is a program for a small stack machine, and `pickle.load` runs it, imports and calls
included. Here `pickletools.genops` only takes the file apart into opcodes, and `_Machine` knows
those that build dicts, lists, tuples, strings, numbers and numpy arrays. The few callables that an
array's pickle names are recognised by name and answered with stand-ins; any other name is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from silva.errors import DataError

MAX_BYTES = 256 * 2**20
MAX_OPCODES = 5_000_000
"""An opcode of one byte makes an object of 56 or more; CIFAR-100 needs some 300,000."""

_ARRAY_TYPES = frozenset(("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "b1"))


class _RefusedError(Exception):
    """The pickle asks for something that plain data never needs."""


class _Mark:
    """Where the items of a list, tuple or dict begin on the stack."""


@dataclass(frozen=True)
class _Name:
    """A name the pickle wants imported; it is only ever compared."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class _DType:
    """Stand-in for `numpy.dtype`: its code and byte order, as text."""

    code: str
    order: str = "|"

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(f"{self.order}{self.code}" if self.order in "<>" else self.code)


@dataclass
class _Array:
    """Stand-in for an array under construction; `value` is there once its state has been read."""

    value: np.ndarray[Any, Any] | None = None


def _make_array(shape: Any, dtype: Any, data: Any, *, fortran: bool) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, _DType) or not isinstance(shape, tuple) or len(shape) > 8:
        raise _RefusedError("holds an array of unknown type")
    if not all(type(size) is int and 0 <= size <= MAX_BYTES for size in shape):
        raise _RefusedError("holds an array of impossible shape")
    if isinstance(data, str):  # Python 2 wrote bytes as str; genops reads them as latin-1
        data = data.encode("latin-1")
    kind = dtype.numpy()
    count = 1
    for size in shape:
        count *= size
    if not isinstance(data, (bytes, bytearray)) or len(data) != count * kind.itemsize:
        raise _RefusedError("holds an array whose bytes do not fill its shape")
    return np.frombuffer(data, dtype=kind).reshape(shape, order="F" if fortran else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind != _Name("numpy", "ndarray"):
        raise _RefusedError("holds an array of unknown kind")
    return _Array()


def _dtype(code: Any, align: Any = 0, copy: Any = 0) -> _DType:
    if not isinstance(code, str) or code not in _ARRAY_TYPES:
        raise _RefusedError("holds an array of other things than numbers")
    return _DType(code)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_make_array(shape, dtype, data, fortran=order == "F"))


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError("holds an encoding other than latin-1")
    return text.encode("latin-1")


_CALLS: dict[_Name, Callable[..., Any]] = {_Name("_codecs", "encode"): _encode}
for _package in ("numpy.core", "numpy._core"):
    _CALLS[_Name(f"{_package}.multiarray", "_reconstruct")] = _reconstruct
    _CALLS[_Name(f"{_package}.numeric", "_frombuffer")] = _frombuffer
_CALLS[_Name("numpy", "dtype")] = _dtype
_KNOWN = frozenset((*_CALLS, _Name("numpy", "ndarray")))


@dataclass
class _Machine:
    """The stack machine of the pickle format, reduced to data."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def items(self) -> list[Any]:
        """Pop everything down to the last mark."""
        for position in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[position], _Mark):
                found = self.stack[position + 1 :]
                del self.stack[position:]
                return found
        raise _RefusedError("holds items without a mark")

    def top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise _RefusedError(f"holds items for a {kind.__name__} that is not there")
        return self.stack[-1]

    def name(self, module: Any, name: Any) -> None:
        # Only text is ever shown or hashed: nested containers could take exponential time.
        if not isinstance(module, str) or not isinstance(name, str):
            raise _RefusedError("holds a name that is no text")
        found = _Name(module[:40], name[:40])
        if found not in _KNOWN:
            raise _RefusedError(f"wants to run {found}")
        self.stack.append(found)

    def fill(self, target: dict[Any, Any], items: list[Any]) -> None:
        if len(items) % 2:
            raise _RefusedError("holds a dict with a key but no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, bytes)):
                raise _RefusedError(f"holds a dict key of type {type(key).__name__}")
            target[key] = value

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or function not in _CALLS:
            raise _RefusedError("holds a call of something that is no function")
        if not isinstance(arguments, tuple):
            raise _RefusedError(f"holds a call of {function} with unknown arguments")
        self.stack.append(_CALLS[function](*arguments))

    def build(self) -> None:
        """Give the array or dtype on the stack its state; no other object has any."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(state, tuple):
            raise _RefusedError("holds state for an object that is no array")
        if isinstance(target, _DType) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            target.order = state[1]
        elif isinstance(target, _Array) and len(state) == 5:
            _, shape, dtype, fortran, data = state
            target.value = _make_array(shape, dtype, data, fortran=bool(fortran))
        else:
            raise _RefusedError("holds state for an object that is no array")

    def step(self, code: str, argument: Any) -> None:
        """Execute one opcode; `code` is its name in `pickletools`."""
        if code in _LITERALS:
            self.stack.append(argument)
        elif code in _EMPTY:
            self.stack.append(_EMPTY[code]())
        elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif code == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif code in _STEPS:
            _STEPS[code](self)
        elif code == "GLOBAL":
            self.name(*argument.split(" ", 1))
        elif code not in ("PROTO", "FRAME"):
            raise _RefusedError(f"holds opcode {code}")


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        if len(machine.stack) < count:
            raise _RefusedError("holds a tuple of items that are not there")
        items = tuple(machine.stack[len(machine.stack) - count :])
        del machine.stack[len(machine.stack) - count :]
        machine.stack.append(items)

    return step


def _append(machine: _Machine) -> None:
    item = machine.stack.pop()
    machine.top(list).append(item)


def _appends(machine: _Machine) -> None:
    items = machine.items()
    machine.top(list).extend(items)


def _set_item(machine: _Machine) -> None:
    items = [machine.stack.pop(-2), machine.stack.pop()]
    machine.fill(machine.top(dict), items)


def _set_items(machine: _Machine) -> None:
    items = machine.items()
    machine.fill(machine.top(dict), items)


def _new_dict(machine: _Machine) -> None:
    found: dict[Any, Any] = {}
    machine.fill(found, machine.items())
    machine.stack.append(found)


def _stack_name(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.name(module, name)


_LITERALS = frozenset(
    "BININT BININT1 BININT2 INT LONG LONG1 BINFLOAT FLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_STEPS: dict[str, Callable[[_Machine], None]] = {
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.items())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": lambda machine: machine.stack.append(machine.items()),
    "DICT": _new_dict,
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "STACK_GLOBAL": _stack_name,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}


def read_table(data: bytes, where: object) -> dict[str, Any]:
    """The dict that the pickle `data` holds, its keys as str and its arrays as numpy arrays.

    Strings of Python 2 come as str (latin-1); values other than arrays are left as they are.
    Raises DataError when the pickle is damaged, is no dict, or wants anything but plain data.
    """
    if len(data) > MAX_BYTES:
        raise DataError(
            f"pickle of {len(data)} bytes; the limit is {MAX_BYTES}",
            where=where,
            remedy="use the original file",
        )
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if opcode.name == "STOP":
                break
            if count >= MAX_OPCODES:
                raise _RefusedError(f"holds more than {MAX_OPCODES} opcodes")
            machine.step(opcode.name, argument)
        found = machine.stack.pop()
    except _RefusedError as refused:
        raise DataError(
            f"pickle {refused}",
            where=where,
            remedy="refused; download the file from its official place",
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:80]
        raise DataError(
            f"damaged pickle ({reason})", where=where, remedy="download the file again"
        ) from None
    if not isinstance(found, dict) or machine.stack:
        raise DataError("pickle is not one dict", where=where, remedy="use the original file")
    return {_text(key): _finished(value) for key, value in found.items()}


def _text(key: str | bytes) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else key


def _finished(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value
