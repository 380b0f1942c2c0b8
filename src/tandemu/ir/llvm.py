"""Lowering to LLVM's textual IR.

Variables become allocas (LLVM's own passes make them registers), structured
control flow becomes blocks. The unlikely side of an `If` is written at the end
of the function, so that LLVM keeps it out of the hot path: stencils depend on
their hot code coming first.
"""

from __future__ import annotations

from collections.abc import Iterable

from tandemu.bits import mask, sign_extend
from tandemu.ir import program
from tandemu.ir.program import Function, Node
from tandemu.ir.types import PTR, Type
from tandemu.ir.values import Constant, Symbol, Undefined, Value

_CONVENTIONS = {"c": "", "tail": "preserve_nonecc ", "cold": "preserve_mostcc "}
"""LLVM's calling conventions: the host's own; no register is the callee's to preserve;
all general registers (but r11) are."""

MARKS = "tandemu.marks"
"""The object's section of marks: pairs of 32-bit words, the distance from the word itself
to a machine instruction, and its number."""
_FIRST_MARK = 1 << 20
"""Metadata above are marks."""

_LIKELY = '!{!"branch_weights", i32 2000, i32 1}'
_UNLIKELY = '!{!"branch_weights", i32 1, i32 2000}'


def type_text(type: Type | None) -> str:
    """LLVM's name of *type*."""
    if type is None:
        return "void"
    if type.is_float:
        return {32: "float", 64: "double"}[type.bits]
    if type.is_vector:
        return f"<{type.bits // 64} x i64>"
    return "ptr" if type == PTR else f"i{type.bits}"


_LANE_NAMES = ("{L}", "{H}", "{bits}")
"""What tells that an operation is one on lanes."""


def lane_types(node: program.Do) -> dict[str, str]:
    """LLVM's names of the lanes that an operation on vectors sees, whose width in bits is its
    first attribute: one lane ``{l}``, the first operand ``{L}``, lanes of half and of twice the
    width ``{H}`` and ``{D}``, and how many ``{count}``; as floats ``{f}``, ``{F}``, ``{mf}``."""
    bits, lane = node.operands[0].type.bits, int(node.attributes[0])
    if not node.operands[0].type.is_vector:
        assert node.result is not None
        bits = node.result.type.bits
    count = bits // lane
    names = {
        "l": f"i{lane}",
        "L": f"<{count} x i{lane}>",
        "H": f"<{2 * count} x i{lane // 2}>",
        "D": f"<{count // 2} x i{2 * lane}>",
        "C": f"<{count} x i1>",
        "bits": str(bits),
        "count": str(count),
        "half": str(count // 2),
        "double": str(2 * count),
        "first_half": ", ".join(f"i32 {number}" for number in range(count // 2)),
        "even": ", ".join(f"i32 {2 * number}" for number in range(2 * count)),
    }
    floating = {16: "half", 32: "float", 64: "double"}.get(lane)
    if floating is not None:
        names |= {"f": floating, "F": f"<{count} x {floating}>", "mF": f"v{count}f{lane}"}
    names["mL"] = f"v{count}i{lane}"
    for number, attribute in enumerate(node.attributes[1:], 1):
        if isinstance(attribute, tuple):
            names[f"p{number}"] = ", ".join(f"i32 {place}" for place in attribute)
        else:
            names[f"p{number}"] = str(attribute)
    return names


class _Module:
    def __init__(self) -> None:
        self.defined: dict[str, str] = {}
        self.symbols: dict[str, Symbol] = {}
        self.declarations: set[str] = set()
        self.externals: dict[str, str] = {}
        self.marks: set[int] = set()


def lower(functions: Iterable[Function]) -> str:
    """Return an LLVM module with *functions* and all they call."""
    module = _Module()
    pending = list(functions)
    while pending:
        function = pending.pop(0)
        if function.name in module.defined:
            continue
        module.defined[function.name] = _Lowering(function, module).text()
        pending += function.callees
    lines = list(module.defined.values())
    metadata = [f"!0 = {_LIKELY}", f"!1 = {_UNLIKELY}"]
    for symbol in module.symbols.values():
        number = len(metadata)
        low, high = (-1, -1) if symbol.wide else (symbol.low, symbol.high)
        metadata.append(f"!{number} = !{{i64 {low}, i64 {high}}}")
        lines.append(f"@{symbol.name} = external global i8, !absolute_symbol !{number}")
    for mark in sorted(module.marks):
        number = _FIRST_MARK + 2 * mark
        metadata.append(f'!{number} = !{{!"{MARKS}", !{number + 1}}}')
        metadata.append(f"!{number + 1} = !{{i32 {mark}}}")
    for name, declaration in module.externals.items():
        if name not in module.defined:
            lines.append(declaration)
    lines += sorted(module.declarations)
    return "\n".join(lines + metadata) + "\n"


class _Lowering:
    def __init__(self, function: Function, module: _Module) -> None:
        self.function, self.module = function, module
        self.lines: list[str] = []
        self.count = 0
        self.deferred: list[tuple[str, list[Node], str, list[str]]] = []
        self.breaks: list[str] = []

    def fresh(self, prefix: str = "t") -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def text(self) -> str:
        function = self.function
        self.block(function.body)
        self.ends()
        while self.deferred:
            label, body, join, breaks = self.deferred.pop(0)
            self.lines.append(f"{label}:")
            self.breaks = breaks
            self.block(body)
            self.jump(join)
        convention = _CONVENTIONS[function.convention]
        linkage = "" if function.exported else "internal "
        parameters = ", ".join(f"{type_text(p.type)} %v{p.number}" for p in function.parameters)
        head = (
            f"define {linkage}{convention}{type_text(function.result)} "
            f"@{function.name}({parameters}) nounwind {function.attributes} {{\nentry:\n"
        )
        allocas = "".join(
            f"  %m{variable.number} = alloca {type_text(variable.type)}\n"
            for variable in function.variables
        )
        return head + allocas + "\n".join(self.lines) + "\n}"

    def add(self, line: str) -> None:
        self.lines.append("  " + line)

    def terminated(self) -> bool:
        return bool(self.lines) and self.lines[-1].startswith(("  br ", "  ret ", "  unreachable"))

    def jump(self, label: str) -> None:
        if not self.terminated():
            self.add(f"br label %{label}")

    def ends(self) -> None:
        """Close the function's last block; the verifier knows it is never reached."""
        if not self.terminated():
            self.add("ret void" if self.function.result is None else "unreachable")

    # Values ------------------------------------------------------------------------------

    def value(self, value: Value) -> str:
        if isinstance(value, Constant):
            return self.constant(value)
        if isinstance(value, Symbol):
            return self.symbol(value)
        return "poison" if isinstance(value, Undefined) else f"%v{value.number}"

    def constant(self, constant: Constant) -> str:
        type, value = constant.type, constant.value
        if type == PTR:
            return f"inttoptr (i64 {value} to ptr)" if value else "null"
        if type.is_float:
            return f"bitcast (i{type.bits} {value} to {type_text(type)})"
        if type.is_vector:
            words = (value >> low & mask(64) for low in range(0, type.bits, 64))
            return "<" + ", ".join(f"i64 {sign_extend(word, 64)}" for word in words) + ">"
        if type.bits == 1:
            return "true" if value else "false"
        return str(constant.signed)

    def symbol(self, symbol: Symbol) -> str:
        self.module.symbols.setdefault(symbol.name, symbol)
        if symbol.wide:
            # The small code model would cut a 64-bit absolute symbol to 32 bits.
            name = self.fresh()
            self.add(f'%{name} = call i64 asm "movabsq $${symbol.name}, $0", "=r"()')
            return f"%{name}"
        return f"ptrtoint (ptr @{symbol.name} to {type_text(symbol.type)})"

    # Nodes -------------------------------------------------------------------------------

    def block(self, block: list[Node]) -> None:
        for node in block:
            self.node(node)

    def node(self, node: Node) -> None:
        match node:
            case program.Do():
                self.operation(node)
            case program.Get(variable=variable, result=result):
                text = type_text(variable.type)
                self.add(f"%v{result.number} = load {text}, ptr %m{variable.number}")
            case program.Set(variable=variable, value=value):
                text = f"{type_text(variable.type)} {self.value(value)}"
                self.add(f"store {text}, ptr %m{variable.number}")
            case program.Call():
                self.call(node)
            case program.TailCall(target=target, operands=operands):
                convention = _CONVENTIONS["tail"]
                callee = self.target(target, operands, None, convention)
                arguments = self.arguments(operands)
                self.add(f"musttail call {convention}void {callee}({arguments})")
                self.add("ret void")
            case program.If():
                self.branch(node)
            case program.Loop(body=body):
                head, out = self.fresh("loop"), self.fresh("out")
                self.add(f"br label %{head}")
                self.lines.append(f"{head}:")
                self.breaks = [*self.breaks, out]
                self.block(body)
                self.breaks = self.breaks[:-1]
                self.jump(head)
                self.lines.append(f"{out}:")
            case program.Switch():
                self.switch(node)
            case program.Place(number=number):
                self.jump(f"place{number}")
                self.lines.append(f"place{number}:")
            case program.Goto(place=place):
                self.add(f"br label %place{place.number}")
            case program.Break():
                self.add(f"br label %{self.breaks[-1]}")
            case program.Return(value=returned):
                if returned is None:
                    self.add("ret void")
                else:
                    self.add(f"ret {type_text(returned.type)} {self.value(returned)}")
            case program.Unreachable():
                self.add("unreachable")

    def operation(self, node: program.Do) -> None:
        operands = [self.value(operand) for operand in node.operands]
        types = [type_text(operand.type) for operand in node.operands]
        result = node.result
        size = (
            result.type.size
            if result is not None
            else (node.operands[-1].type.size if node.operands else 0)
        )
        names = {
            "t": types[0] if types else "",
            "t1": types[1] if len(types) > 1 else "",
            "r": type_text(result.type) if result is not None else "",
            "size": str(size),
        }
        if any(name in node.operation.llvm for name in _LANE_NAMES):
            names |= lane_types(node)
        if "{mark}" in node.operation.llvm:
            mark = node.attributes[-1]
            names["mark"] = ""
            if mark is not None:
                self.module.marks.add(mark)
                names["mark"] = f", !pcsections !{_FIRST_MARK + 2 * mark}"
        # Intrinsics are mangled with f32 and f64, not float and double.
        for key in ("t", "r"):
            names["m" + key] = {"float": "f32", "double": "f64"}.get(names[key], names[key])
        row = node.operation
        text = row.relaxed if self.function.relaxed and row.relaxed else row.llvm
        names.update({key: "%" + self.fresh() for key in "abcdefgh" if "{" + key + "}" in text})
        for declaration in node.operation.declarations:
            self.module.declarations.add(declaration.format(**names))
        lines = text.format(*operands, **names).split("\n")
        for line in lines[:-1]:
            self.add(line)
        last = lines[-1]
        self.add(f"%v{result.number} = {last}" if result is not None else last)

    def arguments(self, operands: tuple[Value, ...]) -> str:
        return ", ".join(f"{type_text(o.type)} {self.value(o)}" for o in operands)

    def target(
        self,
        target: Function | str | Value,
        operands: tuple[Value, ...],
        result: Type | None,
        convention: str,
    ) -> str:
        if isinstance(target, Value):
            return self.value(target)
        if isinstance(target, Function):
            return f"@{target.name}"
        types = ", ".join(type_text(operand.type) for operand in operands)
        declaration = f"declare {convention}{type_text(result)} @{target}({types})"
        self.module.externals.setdefault(target, declaration)
        return f"@{target}"

    def call(self, node: program.Call) -> None:
        convention = _CONVENTIONS[node.convention]
        result = node.result.type if node.result is not None else None
        callee = self.target(node.target, node.operands, result, convention)
        text = f"call {convention}{type_text(result)} {callee}({self.arguments(node.operands)})"
        self.add(f"%v{node.result.number} = {text}" if node.result is not None else text)

    def branch(self, node: program.If) -> None:
        condition = self.value(node.condition)
        then, other, join = self.fresh("then"), self.fresh("else"), self.fresh("join")
        has_other = bool(node.otherwise)
        weights = {None: "", True: ", !prof !0", False: ", !prof !1"}[node.likely]
        no = other if has_other else join
        self.add(f"br i1 {condition}, label %{then}, label %{no}{weights}")
        blocks = [(then, node.then)] + ([(other, node.otherwise)] if has_other else [])
        cold = {None: None, True: other, False: then}[node.likely]
        for label, body in blocks:
            if label == cold:
                self.deferred.append((label, body, join, self.breaks))
                continue
            self.lines.append(f"{label}:")
            self.block(body)
            self.jump(join)
        self.lines.append(f"{join}:")

    def switch(self, node: program.Switch) -> None:
        value, type = self.value(node.value), type_text(node.value.type)
        join, default = self.fresh("join"), self.fresh("default")
        labels = [self.fresh("case") for _ in node.cases]
        entries = " ".join(
            f"{type} {number}, label %{label}"
            for label, (numbers, _) in zip(labels, node.cases, strict=True)
            for number in numbers
        )
        self.lines.append(f"  switch {type} {value}, label %{default} [ {entries} ]")
        bodies = [body for _, body in node.cases] + [node.default]
        for label, body in zip([*labels, default], bodies, strict=True):
            self.lines.append(f"{label}:")
            self.block(body)
            self.jump(join)
        self.lines.append(f"{join}:")
