"""Types in the reference as the sources write them."""

import ast

import griffe


class AsWritten(griffe.Extension):
    """Of Shaped[Array, "B *D"], griffe would read the shape as a product."""

    def on_function_instance(self, *, node, func, **_):
        """Put the text of each type in the place of what was made of it."""
        if isinstance(node, ast.AST):
            func.returns = node.returns and ast.unparse(node.returns)
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg) and argument.annotation:
                    known = func.parameters[argument.arg]
                    known.annotation = ast.unparse(argument.annotation)
