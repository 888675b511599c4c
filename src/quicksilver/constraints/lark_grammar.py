"""Grammars in Lark's form, read by Lark itself.

What counts is the language over characters: there is no lexer, so nothing of longest matches and priorities, and what
is ignored may stand wherever two terminals meet. Lark's Earley parser with ``lexer="dynamic_complete"`` reads so.
"""

import re

from quicksilver.constraints.expression import Alternatives, Expression, Isolated, Repeat, Rule, Sequence
from quicksilver.constraints.regex import regex_expression
from quicksilver.errors import ConfigError, UnsupportedConstraintError

try:
    import lark
    from lark.grammar import NonTerminal
    from lark.lexer import TerminalDef
except ModuleNotFoundError as error:
    raise ConfigError("grammars in Lark's form need lark: pip install 'quicksilver-lm[constraints]'") from error

_IMPORT = re.compile(r"^\s*%import\s+(\S+)", re.MULTILINE)
_LIBRARIES = ("common.", "common ", "unicode.", "python.", "lark.")
# Lark's own common.ESCAPED_STRING leaves it to the lexer to stop at the first quote that is not escaped.
_ESCAPED_STRING = r'".*?(?<!\\)(\\\\)*?"'
_SAME_WITHOUT_LEXER = r'"(?:[^"\\\n]|\\.)*"'


def lark_rules(source: str, start: str) -> tuple[Expression, list[Rule]]:
    """The whole texts of a grammar that begins with rule ``start``, and all its rules.

    Raises:
        ConfigError: Lark cannot read it.
        UnsupportedConstraintError: it uses what is not kept; the message names it.
    """
    for found in _IMPORT.finditer(source):
        if not f"{found[1]} ".startswith(_LIBRARIES):
            raise UnsupportedConstraintError(f"%import {found[1]} is not supported: only Lark's own libraries are read")
    try:
        grammar = lark.Lark(source, start=start, parser="earley", lexer="dynamic_complete", import_paths=[])
    except Exception as error:  # besides LarkError, whatever re, regex and Lark's files raise
        raise ConfigError(f"Lark cannot read the grammar: {error}") from error
    terminals = {each.name: _terminal(each) for each in grammar.terminals}
    ignored = Repeat(Alternatives(tuple(terminals[name] for name in grammar.ignore_tokens)))
    rules: dict[str, Rule] = {}
    options: dict[str, list[Expression]] = {}
    for each in grammar.rules:
        name = str(each.origin.name)
        parts: list[Expression] = []
        for symbol in each.expansion:
            if isinstance(symbol, NonTerminal):
                parts.append(_rule(rules, str(symbol.name)))
            elif symbol.name in terminals:
                parts.extend((terminals[symbol.name], ignored) if grammar.ignore_tokens else (terminals[symbol.name],))
            else:
                raise UnsupportedConstraintError(f"the terminal {symbol.name} is declared and nowhere defined")
        _rule(rules, name)
        options.setdefault(name, []).append(Sequence(tuple(parts)))
    for name, rule in rules.items():
        rule.body = Alternatives(tuple(options.get(name, ())))
    whole = Sequence((ignored, rules[start])) if grammar.ignore_tokens else rules[start]
    return whole, list(rules.values())


def _rule(rules: dict[str, Rule], name: str) -> Rule:
    return rules.setdefault(name, Rule(name))


def _terminal(terminal: TerminalDef) -> Expression:
    pattern = terminal.pattern.to_regexp().replace(_ESCAPED_STRING, _SAME_WITHOUT_LEXER)
    return Isolated(regex_expression(pattern, is_terminal=True))
