"""Rewrites our own modules for the plugins' program, which answers one call and ends. Run by suite.spec.

Annotations are left out where nothing reads them, classes of NamedTuple are written out, and what is left of
typing comes from lean_typing. Modules that define models are rewritten as well, and stored a second time as
they are, for the genuine pydantic.
"""

import ast

_AT_BEGIN = "from lean_rows import Row as _Row, column as _column, new as _new_row"


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def defines_models(text: str) -> bool:
    """Whether a module has to do with pydantic."""
    nodes = ast.walk(ast.parse(text))
    return any(isinstance(node, ast.ImportFrom) and node.module == "pydantic" for node in nodes)


class _Rewriter(ast.NodeTransformer):
    def __init__(self, *, has_models: bool) -> None:
        self.has_models = has_models
        self.has_rows = False

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.module == "typing":
            node.module = "lean_typing"
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        arguments = node.args
        listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for argument in [*listed, *filter(None, (arguments.vararg, arguments.kwarg))]:
            argument.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        """Of a module or function; those of classes do not come here."""
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        body = []
        for item in node.body:
            if not isinstance(item, ast.AnnAssign):
                body.append(self.visit(item))
                continue
            if not self.has_models:  # a step reads the names of its fields alone
                item.annotation = ast.copy_location(ast.Constant(None), item)
            body.append(item)
        node.body = body
        return self._row(node) if "NamedTuple" in map(_name, node.bases) else node

    def _row(self, node: ast.ClassDef) -> ast.ClassDef:
        """Return the class that collections.namedtuple() and typing.NamedTuple would make."""
        self.has_rows = True
        fields = [
            item
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        ]
        names = [item.target.id for item in fields]  # type: ignore[union-attr] # as just asked
        defaults = {
            name: item.value for name, item in zip(names, fields, strict=True) if item.value is not None
        }
        arguments = ", ".join(f"{name}=None" if name in defaults else name for name in names)
        lines = [
            f"class {node.name}(_Row):",
            "    __slots__ = ()",
            f"    _fields = __match_args__ = {tuple(names)!r}",
            "    _field_defaults = {}",
            f"    def __new__(_class, {arguments}):",
            f"        return _new_row(_class, ({', '.join(names)},))",
            *(f"    {name} = _column({index}, '')" for index, name in enumerate(names)),
        ]
        [row] = ast.parse("\n".join(lines)).body
        assert isinstance(row, ast.ClassDef)
        kept, method = row.body[2], row.body[3]
        assert isinstance(kept, ast.Assign)
        assert isinstance(method, ast.FunctionDef)
        # The defaults are evaluated once, where the class is defined, and __new__ has the same objects.
        kept.value = ast.Dict([ast.Constant(name) for name in defaults], list(defaults.values()))
        method.args.defaults = [
            ast.Subscript(ast.Name("_field_defaults", ast.Load()), ast.Constant(name), ast.Load())
            for name in defaults
        ]
        row.body += [item for item in node.body if not isinstance(item, ast.AnnAssign)]
        row.decorator_list = node.decorator_list
        return ast.copy_location(row, node)


def rewritten(text: str) -> ast.Module:
    """Return a module of ours as it is compiled for the plugins' program."""
    rewriter = _Rewriter(has_models=defines_models(text))
    tree = rewriter.visit(ast.parse(text))
    if rewriter.has_rows:
        is_doc = [isinstance(node, ast.Expr) for node in tree.body[:1]]
        tree.body[sum(is_doc) : sum(is_doc)] = ast.parse(_AT_BEGIN).body
    whole: ast.Module = ast.fix_missing_locations(tree)
    return whole
