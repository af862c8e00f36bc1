"""`-{zh-hans:计算机;zh-hant:電腦}-` -> one text, as a reader in mainland China sees it.

Chinese wikis mark what differs between scripts and regions inside the text. The grammar is
MediaWiki's: `-{flags|rules}-`, where rules are `variant:text` or `from=>variant:text` joined by
semicolons, or plain text to leave as it is. Rules for the rest of the page (flags H, A, -) and
the page's title (T) only show or hide their own text here; script conversion of the body is not
done.
"""

from __future__ import annotations

import re

CHAIN = ("zh-cn", "zh-hans", "zh-sg", "zh-my", "zh", "zh-hant", "zh-tw", "zh-hk", "zh-mo")
_INNERMOST = re.compile(r"-\{(?!\{(?!\{))((?:(?!-\{|\}-).)*)\}-", re.DOTALL)
_FLAGS = re.compile(r"\s*([A-Z\-]|zh(?:-[a-z]+)?)(?:\s*;\s*(?:[A-Z\-]|zh(?:-[a-z]+)?))*\s*\Z")
_RULE = re.compile(r"\s*(?:[^;]*?=>\s*)?(zh(?:-[a-z]+)?)\s*:", re.IGNORECASE)
_HIDDEN = frozenset("HT-")
_MAX_DEPTH = 8


def resolve(text: str) -> str:
    """Replace every conversion block, innermost first, by the text of the first variant it has."""
    for _ in range(_MAX_DEPTH):
        if "-{" not in text:
            break
        text, number = _INNERMOST.subn(lambda match: _choose(match[1]), text)
        if not number:
            break
    return text


def _choose(content: str) -> str:
    """Return what one block shows."""
    flags, bar, body = content.partition("|")
    found = set()
    if bar and (not flags.strip() or _FLAGS.match(flags)):
        found = {flag.strip() for flag in flags.split(";")}
    else:
        body = content
    if found & _HIDDEN:
        return ""
    if "R" in found:
        return body
    variants = found & set(CHAIN)
    if variants and not variants & set(CHAIN[:5]):
        return ""  # `-{zh-hant;zh-tw|…}-`: shown to readers of those variants alone
    rules = parse_rules(body)
    if not rules:
        return body
    return next((rules[name] for name in CHAIN if name in rules), next(iter(rules.values())))


def parse_rules(body: str) -> dict[str, str]:
    """Return variant -> text of `zh-hans:甲;zh-hant:乙;`; {} for plain text.

    A semicolon ends a rule only where another rule, or nothing, follows it (`&nbsp;` has one too).
    """
    rules: dict[str, str] = {}
    match = _RULE.match(body)
    while match:
        end = match.end()
        following = None
        stop = len(body)
        for semicolon in re.finditer(";", body[end:]):
            after = end + semicolon.end()
            following = _RULE.match(body, after)
            if following or not body[after:].strip():
                stop = after - 1
                break
        rules.setdefault(match[1].lower(), body[end:stop].strip())
        match = following
    return rules
