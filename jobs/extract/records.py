"""Where the records of a delivered text file begin and end: to count them, and to find the original of one that was rejected."""

from __future__ import annotations

import re

LINE = re.compile(rb"[^\r\n]*[^\s][^\r\n]*")
CSV_END = re.compile(rb"\r\n|\n|\r|$")
JSON_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{},]|[^\s\[\]{},"]+|"', re.DOTALL)


def spans(kind: str, content: bytes) -> list[tuple[int, int]]:
    """(start, end) of every record of a file in a format of SPANS; the header of a CSV is none."""
    found = SPANS[kind](content)
    return found[1:] if kind == "csv" else found


def csv_spans(content: bytes, delimiter: bytes = b",") -> list[tuple[int, int]]:
    """(start, end) of every record, the header among them, without its line end; empty lines are none.

    A quote counts where it opens a field; inside, line ends and delimiters are text and a doubled quote is a quote (RFC 4180).
    """
    plain = rb"[^\r\n%s]*+" % re.escape(delimiter)
    field = re.compile(rb'[ \t]*+"(?:[^"]|"")*+"%s|%s' % (plain, plain))
    spans, start, at = [], 0, 0
    while at < len(content):
        at = field.match(content, at).end()
        if content[at : at + 1] == delimiter:
            at += 1
            if at < len(content):
                continue
        if at > start:
            spans.append((start, at))
        at = start = CSV_END.match(content, at).end()
    return spans


def line_spans(content: bytes) -> list[tuple[int, int]]:
    """(start, end) of every line that is not blank (JSON lines)."""
    return [match.span() for match in LINE.finditer(content)]


def json_spans(content: bytes) -> list[tuple[int, int]]:
    """(start, end) of every element of the array that the file holds, else of every value in it (JSON lines).

    What a truncated file has of its last element is one too.
    """
    tokens = [(match[0], *match.span()) for match in JSON_TOKEN.finditer(content)]
    level = 1 if tokens and tokens[0][0] == b"[" else 0
    spans, depth, start, end = [], 0, None, 0
    for token, begin, stop in tokens:
        opens, closes = token in (b"[", b"{"), token in (b"]", b"}")
        if closes:
            depth -= 1
        if depth < level or (depth == level and token == b","):
            if start is not None:
                spans.append((start, end))
            start = None
        elif start is None:
            start = begin
        end = stop
        if opens:
            depth += 1
            if depth <= level:
                start = None
        elif level == 0 and depth == 0 and start is not None:
            spans.append((start, stop))
            start = None
    if start is not None:
        spans.append((start, end))
    return spans


SPANS = {"csv": csv_spans, "json": json_spans, "jsonl": line_spans}
