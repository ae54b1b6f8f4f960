"""What comes in: a request is checked, answered and led to its dataset."""

from __future__ import annotations

import re

from jobs.declaration import Declaration, Source
from jobs.extract.landing import LETTER
from jobs.extract.nifi.flowgen.blocks import FORMAT, PREFIX, Blocks, P
from jobs.extract.nifi.flowgen.model import STANDARD, Component

RUN_ID = "[A-Za-z0-9_.-]{1,250}"
ATTEMPT = "[1-9][0-9]{0,3}"
DAY = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
TIME = f"{DAY} ([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
MAX_REQUEST_BYTES = 100_000
DIRECTIVES = {"%Y": "[0-9]{4}", "%m": "[0-9]{2}", "%d": "[0-9]{2}", "*": f"{LETTER}*", "?": LETTER}


def entry(blocks: Blocks) -> Component:
    """Listener to dataset choice; returns the choice, which has a relationship for each dataset."""
    name, sources = blocks.declaration.pipeline, blocks.declaration.sources.values()
    listen = blocks.flow.processor(
        "listen",
        STANDARD,
        P + "HandleHttpRequest",
        {
            "Listening Port": str(blocks.declaration.port),
            "SSL Context Service": blocks.tls,
            "HTTP Context Map": blocks.contexts,
            "Allowed Paths": f"/extract/{name}",
            "Allow GET": "false",
            "Allow POST": "true",
            "Allow PUT": "false",
            "Allow DELETE": "false",
            "Client Authentication": "Need Authentication",
            "Maximum Threads": "20",
        },
        at=(1, 0),
    )
    client = f"http.subject.dn:equals({blocks.flow.parameter('request.client')})"
    caller = blocks.route(
        "caller?",
        {
            "known": f"${{{client}:and(${{fileSize:le({MAX_REQUEST_BYTES})}})}}",
            "known, but too large": f"${{{client}:and(${{fileSize:gt({MAX_REQUEST_BYTES})}})}}",
        },
        at=(1, 1),
    )
    read = blocks.flow.processor(
        "read request",
        STANDARD,
        P + "EvaluateJsonPath",
        {"Destination": "flowfile-attribute", "Return Type": "json", "Path Not Found Behavior": "ignore"}
        | {key: f"$.{key}" for key in ("pipeline", "run_id", "attempt", "dataset", "from", "to", "files", "list")},
        at=(1, 2),
    )
    describe = blocks.attributes("describe request", _description(blocks.declaration), at=(1, 3))
    directories = [s for s in sources if s.kind == "directory"]
    routes = {"yes": "${reason:isEmpty():and(${list:equals('true'):not()})}"}
    if directories:
        routes["list"] = "${reason:isEmpty():and(${list:equals('true')})}"
    accepted = blocks.route("accepted?", routes, at=(1, 4))
    forbidden = blocks.attributes(
        "forbidden", {"http.code": "403", "reason": "this certificate may not ask for an extract"}, at=(0, 1)
    )
    unreadable = blocks.attributes(
        "unreadable",
        {"http.code": "400", "reason": f"the request must be JSON of at most {MAX_REQUEST_BYTES} bytes"},
        at=(0, 2),
    )
    refused = blocks.attributes("refused", {"http.code": "400"}, at=(0, 3))
    why = blocks.text("why not", '{"error":"${reason:substringBeforeLast("; "):escapeJson()}"}', at=(0, 4))
    no = blocks.answer("answer no", "${http.code}", at=(0, 5), ends=("success", "failure"))
    told = blocks.text("what was accepted", f'{{{blocks.request},"prefix":"{PREFIX}"}}', at=(1, 5))
    yes = blocks.answer("answer 202", "202", at=(1, 6))
    choice = blocks.route("which dataset?", {s.name: f"${{dataset:equals('{s.name}')}}" for s in sources}, at=(1, 7))

    blocks.flow.connect(listen, caller, "success")
    blocks.flow.connect(caller, forbidden, "unmatched")
    blocks.flow.connect(caller, unreadable, "known, but too large")
    blocks.flow.connect(caller, read, "known")
    blocks.flow.connect(read, unreadable, "failure", "unmatched")
    blocks.flow.connect(read, describe, "matched")
    blocks.flow.connect(describe, accepted, "success")
    blocks.flow.connect(accepted, refused, "unmatched")
    blocks.flow.connect(accepted, told, "yes")
    if directories:
        _listing(blocks, directories, accepted, why)
    for rejection in (forbidden, unreadable, refused):
        blocks.flow.connect(rejection, why, "success")
    blocks.flow.connect(why, no, "success", "failure")
    blocks.flow.connect(told, yes, "success", "failure")
    blocks.flow.connect(yes, choice, "success")
    blocks.fails(yes, "answer", "the caller was gone before it was answered", (2, 6), "failure")
    blocks.fails(choice, "dataset", "no dataset '${dataset}'", (2, 7), "unmatched")
    return choice


def _description(declaration: Declaration) -> dict[str, str]:
    """What follows from a request, and what is wrong with it: `reason`, empty when it is acceptable."""
    sources = declaration.sources.values()

    def by_dataset(value: str) -> str:
        return "".join(f"${{dataset:equals('{s.name}'):ifElse('{getattr(s, value)}','')}}" for s in sources)

    def check(condition: str, text: str) -> str:
        return f"${{{condition}:ifElse('','{text}; ')}}"

    def is_time(name: str) -> str:
        # toDate throws on what does not match; `and` and `or` look at their argument only when it matters
        calendar = f"{name}:toDate('{FORMAT}','UTC'):format('{FORMAT}','UTC'):equals(${{{name}}})"
        return f"{name}:matches('{TIME}'):and(${{{calendar}}})"

    def number(name: str) -> str:
        return f"{name}:toDate('{FORMAT}','UTC'):toNumber()"

    names = "|".join(s.name for s in sources)
    directories = [s.name for s in sources if s.kind == "directory"]
    before = f"{number('from')}:lt(${{{number('to')}}})"
    order = f"{is_time('from')}:not():or(${{{is_time('to')}:not()}}):or(${{{before}}})"
    checks = [
        check(f"pipeline:equals('{declaration.pipeline}')", f"pipeline must be {declaration.pipeline}"),
        check(f"run_id:matches('{RUN_ID}')", "run_id must be 1 to 250 letters, digits, _ . or -"),
        check(f"attempt:matches('{ATTEMPT}')", "attempt must be a number from 1 to 9999"),
        check(f"dataset:matches('{names}')", f"dataset must be one of {names.replace('|', ', ')}"),
        check(is_time("from"), "from must be a time like 2013-01-31 00:00:00"),
        check(is_time("to"), "to must be a time like 2013-01-31 00:00:00"),
        check(order, "from must be before to"),
        *(
            check(
                f"dataset:equals('{s.name}'):not():or(${{list:equals('true')}}):or(${{{_acceptable_files(s)}}})",
                f'files must be a list like [{{"name": "...", "size": 1}}] of names like {s.files}',
            )
            for s in sources
            if s.files
        ),
        check(
            f"list:equals('true'):not():or(${{dataset:matches('{'|'.join(directories) or '-'}')}})",
            f"only of {', '.join(directories) or 'no dataset'} files can be listed here",
        ),
    ]
    return {
        "reason": "".join(checks),
        "source": by_dataset("connection"),
        "extension": by_dataset("format"),
        "dt": f"${{from:matches('{TIME}'):ifElse(${{from:substringBefore(' ')}},'')}}",
        "request": "${UUID()}",
    }


def _listing(blocks: Blocks, directories: list[Source], accepted: Component, why: Component) -> None:
    """Answers with a directory's files: size, time of change and name of each, ended by NUL."""
    where = "".join(
        f"${{dataset:equals('{s.name}'):ifElse({blocks.flow.parameter(f'{s.connection}.directory')},'')}}"
        for s in directories
    )
    listed = blocks.flow.processor(
        "list files",
        STANDARD,
        P + "ExecuteStreamCommand",
        {
            "Command Path": "/usr/bin/find",
            "Command Arguments": f"{where};-maxdepth;1;-type;f;-printf;%s %T@ %f\\0",
            "Argument Delimiter": ";",
            "Ignore STDIN": "true",
        },
        at=(3, 4),
        ends=("original",),
    )
    tell = blocks.answer("answer files", "200", at=(3, 5), ends=("success", "failure"))
    unlisted = blocks.attributes(
        "not listed",
        {"http.code": "500", "reason": "${execution.error:replaceEmpty('the directory could not be listed')}; "},
        at=(2, 5),
    )
    blocks.flow.connect(accepted, listed, "list")
    blocks.flow.connect(listed, tell, "output stream")
    blocks.flow.connect(listed, unlisted, "nonzero status")
    blocks.flow.connect(unlisted, why, "success")


def _acceptable_files(source: Source) -> str:
    """An expression: the request's files are names that the declaration allows (none at all for a single file)."""
    name = "".join(
        DIRECTIVES.get(part) or (part if part.isalnum() or part in "_-" else f"[{part}]")
        for part in re.findall("%.|.", source.files)
    )
    # the expression language takes one of two backslashes
    listed = rf"""files:matches('\\[([{{]"name":"{name}"(,"size":[0-9]{{1,15}})?[}}],?)+\\]')"""
    return listed if source.several_files else f"files:isEmpty():or(${{{listed}}})"
