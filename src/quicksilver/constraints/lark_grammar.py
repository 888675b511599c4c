"""Grammars in Lark's form, read by Lark itself.

What counts is the language over characters: there is no lexer, so nothing of longest matches and priorities, and what
is ignored may stand wherever two terminals meet. Lark's Earley parser with ``lexer="dynamic_complete"`` reads so.
"""

import re

import lark
from lark.exceptions import LarkError
from lark.grammar import NonTerminal
from lark.lexer import TerminalDef

from quicksilver.constraints.expression import Alternatives, Expression, Isolated, Repeat, Rule, Sequence
from quicksilver.constraints.regex import regex_expression
from quicksilver.errors import ConfigError, UnsupportedConstraintError

_IMPORT = re.compile(r"^\s*%import\s+(\S+)", re.MULTILINE)
_LIBRARIES = ("common.", "common ", "unicode.", "python.", "lark.")
# Lark's own common.ESCAPED_STRING leaves it to the lexer to stop at the first quote that is not escaped.
_ESCAPED_STRING = r'".*?(?<!\\)(\\\\)*?"'
_SAME_WITHOUT_LEXER = r'"(?:[^"\\\n]|\\.)*"'


def lark_rules(source: str, start: str) -> dict[str, Rule]:
    """The rules of a grammar by name, ``start`` among them.

    Raises:
        ConfigError: Lark cannot read it.
        UnsupportedConstraintError: it uses what is not kept; the message names it.
    """
    for found in _IMPORT.finditer(source):
        if not f"{found[1]} ".startswith(_LIBRARIES):
            raise UnsupportedConstraintError(f"%import {found[1]} is not supported: only Lark's own libraries are read")
    try:
        grammar = lark.Lark(source, start=start, parser="earley", lexer="dynamic_complete", import_paths=[])
    except (LarkError, OSError, re.error) as error:
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
    if grammar.ignore_tokens:
        whole = Rule(f"{start} with what is ignored in front")
        whole.body = Sequence((ignored, rules[start]))
        return {**rules, start: whole}
    return rules


def _rule(rules: dict[str, Rule], name: str) -> Rule:
    return rules.setdefault(name, Rule(name))


def _terminal(terminal: TerminalDef) -> Expression:
    pattern = terminal.pattern.to_regexp().replace(_ESCAPED_STRING, _SAME_WITHOUT_LEXER)
    return Isolated(regex_expression(pattern, is_terminal=True))
