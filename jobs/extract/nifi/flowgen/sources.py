"""What is extracted: a query, files, or the pages of an API, each from the choice of the dataset to its contents."""

from __future__ import annotations

import json
from urllib.parse import quote

from jobs.declaration import Source
from jobs.extract.nifi.flowgen.blocks import FORMAT, Blocks, P
from jobs.extract.nifi.flowgen.model import STANDARD, Component
from jobs.extract.nifi.flowgen.output import Parts
from jobs.validation import PLACEHOLDER


def sql(blocks: Blocks, source: Source, column: int, choice: Component, parts: Parts) -> None:
    """A query, its two parameters the bounds of the request when the declaration names an `interval`."""
    bounds = {"1": "from", "2": "to"} if source.interval else {}
    arguments = blocks.attributes(
        f"{source.name}: bounds",
        {
            f"sql.args.{n}.{key}": value
            for n, bound in bounds.items()
            for key, value in {"type": "93", "value": f"${{{bound}}}", "format": FORMAT}.items()
        }
        or {"bounds": "none, the whole table"},
        at=(column, 8),
    )
    query = blocks.flow.processor(
        f"{source.name}: query",
        STANDARD,
        P + "ExecuteSQLRecord",
        {
            "Database Connection Pooling Service": blocks.pool(source.connection),
            "SQL Query": source.query,
            "esqlrecord-record-writer": blocks.avro(),
            "esql-max-rows": blocks.flow.parameter("rows.per.file"),
            # one transaction and one result: an error in mid-result leaves no object
            "esql-output-batch-size": "0",
            "esql-fetch-size": "10000",
            "esql-auto-commit": "false",
            "dbf-user-logical-types": "true",
            # of a numeric without precision, as a sum or product is one: by default it would be rounded to a whole number
            "dbf-default-precision": "38",
            "dbf-default-scale": "18",
        },
        at=(column, 10),
    )
    blocks.flow.connect(choice, arguments, source.name)
    blocks.flow.connect(arguments, query, "success")
    blocks.flow.connect(query, parts.whole, "success")
    blocks.fails(query, f"{source.name}: query", "${executesql.error.message}", (column + 0.5, 9), "failure")


def files(blocks: Blocks, source: Source, column: int, choice: Component, parts: Parts) -> None:
    """Each file that the request names, or the one that the declaration does; one that has grown since it was listed fails."""
    default = json.dumps([{"name": source.files}], separators=(",", ":"))
    names = blocks.text(f"{source.name}: files", f"${{files:replaceEmpty('{default}')}}", at=(column, 8))
    split = blocks.flow.processor(
        f"{source.name}: each file",
        STANDARD,
        P + "SplitJson",
        {"JsonPath Expression": "$.*"},
        at=(column, 9),
        ends=("original",),
    )
    name = blocks.flow.processor(
        f"{source.name}: file name",
        STANDARD,
        P + "EvaluateJsonPath",
        {
            "Destination": "flowfile-attribute",
            "Return Type": "json",
            "Path Not Found Behavior": "ignore",
            "file": "$.name",
            "size": "$.size",
        },
        at=(column, 10),
    )
    at = (column + 0.5, 9.5)
    stage = f"{source.name}: fetch"
    fetch = (_fetch_sftp if source.kind == "sftp" else _fetch_file)(blocks, source, column, at, stage)
    whole = blocks.route(
        f"{source.name}: as listed?", {"yes": "${size:isEmpty():or(${fileSize:equals(${size})})}"}, at=(column, 12)
    )
    blocks.flow.connect(choice, names, source.name)
    blocks.flow.connect(names, split, "success")
    blocks.flow.connect(split, name, "split")
    blocks.flow.connect(name, fetch, "matched")
    blocks.flow.connect(fetch, whole, "success")
    blocks.flow.connect(whole, parts.whole, "yes")
    blocks.fails(names, f"{source.name}: files", "the list of files could not be made", at, "failure")
    blocks.fails(split, f"{source.name}: split", "the list of files could not be read", at, "failure")
    blocks.fails(name, f"{source.name}: name", "a file in the list has no name", at, "failure", "unmatched")
    blocks.fails(fetch, f"{stage} (missing)", f"{source.connection} has no file ${{file}}", at, "not.found")
    blocks.fails(
        fetch, f"{stage} (denied)", f"{source.connection} does not let us read ${{file}}", at, "permission.denied"
    )
    blocks.fails(
        whole,
        f"{stage} (changing)",
        f"{source.connection}: ${{file}} has ${{fileSize}} bytes, when it was listed it had ${{size}}: it is still being written",
        at,
        "unmatched",
    )


def _fetch_sftp(blocks: Blocks, source: Source, column: int, at: tuple[float, float], stage: str) -> Component:
    where = {
        key: blocks.flow.parameter(f"{source.connection}.{key}")
        for key in ("host", "port", "user", "directory", "key_file", "known_hosts")
    }
    fetch = blocks.flow.processor(
        stage,
        STANDARD,
        P + "FetchSFTP",
        {
            "Hostname": where["host"],
            "Port": where["port"],
            "Username": where["user"],
            "Private Key Path": where["key_file"],
            "Host Key File": where["known_hosts"],
            "Strict Host Key Checking": "true",
            "Remote File": where["directory"] + "/${file}",
            "Completion Strategy": "None",
            "Disable Directory Listing": "true",
        },
        at=(column, 11),
        retries=2,
        retried=("comms.failure",),
    )
    blocks.fails(
        fetch,
        f"{stage} (connection)",
        f"{source.connection} ({where['host']}) could not be reached, or its host key or our key was refused",
        at,
        "comms.failure",
    )
    return fetch


def _fetch_file(blocks: Blocks, source: Source, column: int, at: tuple[float, float], stage: str) -> Component:
    fetch = blocks.flow.processor(
        stage,
        STANDARD,
        P + "FetchFile",
        {
            "File to Fetch": blocks.flow.parameter(f"{source.connection}.directory") + "/${file}",
            "Completion Strategy": "None",
        },
        at=(column, 11),
    )
    blocks.fails(fetch, f"{stage} (reading)", f"{source.connection}: ${{file}} could not be read", at, "failure")
    return fetch


def rest(blocks: Blocks, source: Source, column: int, choice: Component, parts: Parts) -> None:
    """The first page, and from each page to the next until all rows are there; what does not add up fails."""
    page, most = source.page, source.page.most
    base = blocks.flow.parameter(f"{source.connection}.url") + source.path
    zone = blocks.declaration.timezone
    query = [f"{quote(name, '')}={_bound(value, zone)}" for name, value in source.parameters.items()]
    if page.next:
        url = f"{base}?{'&'.join(query)}" if query else base
        following = "${page.next}"
    else:
        query += [f"{page.size}={page.rows}", f"{page.number}="]
        url = f"{base}?{'&'.join(query)}1"
        following = "${url:substringBeforeLast('=')}=${page:plus(1)}"
    first = blocks.attributes(
        f"{source.name}: first page",
        {"url": url, "page": "1", "seen": "0", "fragment.identifier": "${request}"},
        at=(column, 8),
    )
    get = blocks.flow.processor(
        f"{source.name}: get page",
        STANDARD,
        P + "InvokeHTTP",
        {
            "HTTP Method": "GET",
            "HTTP URL": "${url}",
            "SSL Context Service": blocks.tls,
            "Connection Timeout": "10 secs",
            "Socket Read Timeout": "60 secs",
            "Response Redirects Enabled": "False",
            "Authorization": blocks.flow.parameter(f"{source.connection}.authorization", sensitive=True),
        },
        at=(column, 9),
        ends=("Original",),
        retries=3,
        retried=("Retry", "No Retry", "Failure"),
    )
    read = blocks.flow.processor(
        f"{source.name}: read page",
        STANDARD,
        P + "EvaluateJsonPath",
        {
            "Destination": "flowfile-attribute",
            "Return Type": "scalar",
            "Path Not Found Behavior": "ignore",
            "page.rows": f"$.{source.records}.length()",
        }
        | ({"page.next": f"$.{page.next}"} if page.next else {"page.total": f"$.{page.total}"}),
        at=(column, 10),
    )
    count = blocks.attributes(
        f"{source.name}: count",
        {
            "seen": "${page.rows:matches('[0-9]+'):ifElse(${seen:plus(${page.rows:replaceEmpty('0')})},${seen})}",
            "first.total": "${page:equals('1'):ifElse(${page.total},${first.total})}",
        },
        at=(column, 11),
    )
    within = f"${{page:lt({most})}}"
    if page.next:
        valid = "page.rows:matches('[0-9]+')"
        # to anything but HTTPS the token would go in the clear
        more = f"page.next:startsWith('https://'):and(${{page.next:equals(${{url}}):not()}}):and(${{page.rows:gt(0)}}):and({within})"
        last = "page.next:isEmpty()"
    else:
        valid = (
            "page.rows:matches('[0-9]+'):and(${page.total:matches('[0-9]+')}):and(${page.total:equals(${first.total})})"
        )
        full = f"${{page.rows:equals('{page.rows}')}}"
        more = f"seen:lt(${{page.total:replaceEmpty('0')}}):and({full}):and({within})"
        last = "seen:equals(${page.total})"
    route = blocks.route(
        f"{source.name}: which page?",
        {"more": f"${{{valid}:and(${{{more}}})}}", "last": f"${{{valid}:and(${{{last}}})}}"},
        at=(column, 12),
    )
    after = blocks.attributes(
        f"{source.name}: next page", {"url": following, "page": "${page:plus(1)}"}, at=(column - 0.5, 10)
    )
    index = {"fragment.index": "${page:minus(1)}"}
    part = blocks.attributes(f"{source.name}: page", index, at=(column, 12.4))
    end = blocks.attributes(f"{source.name}: last page", index | {"fragment.count": "${page}"}, at=(column, 12.7))
    blocks.flow.connect(choice, first, source.name)
    blocks.flow.connect(first, get, "success")
    blocks.flow.connect(get, read, "Response")
    blocks.flow.connect(read, count, "matched")
    blocks.flow.connect(count, route, "success")
    blocks.flow.connect(route, after, "more")
    blocks.flow.connect(after, get, "success")
    blocks.flow.connect(route, part, "more")
    blocks.flow.connect(route, end, "last")
    blocks.flow.connect(part, parts.fragments, "success")
    blocks.flow.connect(end, parts.fragments, "success")
    at, name = (column + 0.5, 9.5), source.connection
    blocks.fails(
        get,
        f"{source.name}: get page",
        f"{name}: page ${{page}} (${{url}}) could not be had: ${{invokehttp.status.code}} ${{invokehttp.status.message}} "
        "${invokehttp.java.exception.message}",
        at,
        "Retry",
        "No Retry",
        "Failure",
    )
    blocks.fails(
        read,
        f"{source.name}: read page",
        f"{name}: page ${{page}} (${{url}}) is not JSON",
        at,
        "failure",
        "unmatched",
    )
    blocks.fails(
        route,
        f"{source.name}: pages",
        f"{name}: page ${{page}} (${{url}}) does not add up: ${{page.rows:replaceEmpty('no')}} rows in {source.records}, "
        + (
            "next page '${page.next}'"
            if page.next
            else "${seen} so far of ${first.total:replaceEmpty('no total')} (now ${page.total})"
        )
        + f", at most {most} pages",
        at,
        "unmatched",
    )


def _bound(text: str, zone: str) -> str:
    """A parameter's value with the run's bounds in it, for a URL; its other letters mean nothing there, nor to NiFi."""
    parts = enumerate(PLACEHOLDER.split(text))  # what stands between placeholders, and by turns their names
    text = "".join(f"{{{part}}}" if number % 2 else quote(part, ",:") for number, part in parts)
    for name in ("from", "to"):
        moment = f"{name}:toDate('{FORMAT}','{zone}')"
        utc = f"""${{{moment}:format("yyyy-MM-dd'T'HH:mm:ss'Z'",'UTC'):urlEncode()}}"""
        local = f"${{{name}:replace(' ','T'):urlEncode()}}"
        text = text.replace(f"{{{name}_utc}}", utc).replace(f"{{{name}}}", local)
    return text


KINDS = {"sql": sql, "sftp": files, "directory": files, "rest": rest}
