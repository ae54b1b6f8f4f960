"""The extract flow of one pipeline: a request comes in, raw objects and one manifest (or one failure record) come out.

    listen ─ caller? ─ read ─ describe ─ accepted? ─ answer 202 ─ which dataset? ┬ query ──────────┬ sha256 ─ name part ─ put part
               │                            │                                    ├ files ─ fetch ──┤                        │
              403                      400 + reason                              └ page ─ next? ───┘                        │
                                       200 + a directory's files                    manifest ◄─ put ◄─ merge ◄─ part record ┘

Every failure after the 202 ends in one `_failure.json` with stage and reason; the first failure of a request stands.
A flow keeps nothing between requests: run, attempt and bounds come with each of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from jobs.declaration import Declaration, Source
from jobs.extract.nifi.flowgen.model import (
    DBCP,
    ETL,
    HTTP_CONTEXT,
    RECORDS,
    SSL,
    STANDARD,
    UPDATE_ATTRIBUTE,
    Component,
    Flow,
)

P = "org.apache.nifi.processors.standard."
RUN_ID = "[A-Za-z0-9_.-]{1,250}"
ATTEMPT = "[1-9][0-9]{0,3}"
DAY = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
TIME = f"{DAY} ([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
FORMAT = "yyyy-MM-dd HH:mm:ss"
PREFIX = "${source}/${dataset}/dt=${dt}/run_id=${run_id}/attempt=${attempt}"
REQUEST = (
    '"run_id":"${run_id}","attempt":${attempt},"pipeline":"%s","source":"${source}","dataset":"${dataset}",'
    '"from":"${from}","to":"${to}","format":"${extension}","flow_version":"%s"'
)
MAX_REQUEST_BYTES = 100_000


def build(declaration: Declaration) -> dict[str, Any]:
    """The definition of a pipeline's flow; its version, the hash of all the rest, goes to every manifest."""
    unversioned = json.dumps(_Extract(declaration, "").definition(), sort_keys=True)
    return _Extract(declaration, hashlib.sha256(unversioned.encode()).hexdigest()[:12]).definition()


class _Extract:
    def __init__(self, declaration: Declaration, version: str):
        self.declaration = declaration
        self.version = version
        self.request = REQUEST % (declaration.pipeline, version)
        self.flow = Flow(declaration.pipeline)
        self.tls = self._tls()
        self.contexts = self.flow.service(
            "requests awaiting an answer",
            HTTP_CONTEXT,
            "org.apache.nifi.http.StandardHttpContextMap",
            {"Maximum Outstanding Requests": "1000", "Request Expiration": "1 min"},
        )
        self.failure = self._failure()
        parts = self._parts()
        accepted = self._entry()
        kinds = {"sql": self._sql, "sftp": self._files, "directory": self._files, "rest": self._rest}
        for column, source in enumerate(declaration.sources.values()):
            kinds[source.kind](source, column, accepted, parts)

    def definition(self) -> dict[str, Any]:
        """The flow as NiFi imports it."""
        return self.flow.definition(f"{self.declaration.description} Flow version {self.version}.")

    # What comes in

    def _entry(self) -> Component:
        """Listener to dataset choice; returns the choice, which has a relationship for each dataset."""
        name, sources = self.declaration.pipeline, self.declaration.sources.values()
        listen = self.flow.processor(
            "listen",
            STANDARD,
            P + "HandleHttpRequest",
            {
                "Listening Port": str(self.declaration.port),
                "SSL Context Service": self.tls,
                "HTTP Context Map": self.contexts,
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
        client = f"http.subject.dn:equals({self.flow.parameter('request.client')})"
        caller = self._route(
            "caller?",
            {
                "known": f"${{{client}:and(${{fileSize:le({MAX_REQUEST_BYTES})}})}}",
                "known, but too large": f"${{{client}:and(${{fileSize:gt({MAX_REQUEST_BYTES})}})}}",
            },
            at=(1, 1),
        )
        read = self.flow.processor(
            "read request",
            STANDARD,
            P + "EvaluateJsonPath",
            {"Destination": "flowfile-attribute", "Return Type": "json", "Path Not Found Behavior": "ignore"}
            | {key: f"$.{key}" for key in ("pipeline", "run_id", "attempt", "dataset", "from", "to", "files", "list")},
            at=(1, 2),
        )
        describe = self._attributes("describe request", self._description(), at=(1, 3))
        directories = [s for s in sources if s.kind == "directory"]
        routes = {"yes": "${reason:isEmpty():and(${list:equals('true'):not()})}"}
        if directories:
            routes["list"] = "${reason:isEmpty():and(${list:equals('true')})}"
        accepted = self._route("accepted?", routes, at=(1, 4))
        forbidden = self._attributes(
            "forbidden", {"http.code": "403", "reason": "this certificate may not ask for an extract"}, at=(0, 1)
        )
        unreadable = self._attributes(
            "unreadable",
            {"http.code": "400", "reason": f"the request must be JSON of at most {MAX_REQUEST_BYTES} bytes"},
            at=(0, 2),
        )
        refused = self._attributes("refused", {"http.code": "400"}, at=(0, 3))
        why = self._text("why not", '{"error":"${reason:substringBeforeLast("; "):escapeJson()}"}', at=(0, 4))
        no = self._answer("answer no", "${http.code}", at=(0, 5), ends=("success", "failure"))
        told = self._text("what was accepted", f'{{{self.request},"prefix":"{PREFIX}"}}', at=(1, 5))
        yes = self._answer("answer 202", "202", at=(1, 6))
        choice = self._route("which dataset?", {s.name: f"${{dataset:equals('{s.name}')}}" for s in sources}, at=(1, 7))

        self.flow.connect(listen, caller, "success")
        self.flow.connect(caller, forbidden, "unmatched")
        self.flow.connect(caller, unreadable, "known, but too large")
        self.flow.connect(caller, read, "known")
        self.flow.connect(read, unreadable, "failure", "unmatched")
        self.flow.connect(read, describe, "matched")
        self.flow.connect(describe, accepted, "success")
        self.flow.connect(accepted, refused, "unmatched")
        self.flow.connect(accepted, told, "yes")
        if directories:
            self._listing(directories, accepted, why)
        for rejection in (forbidden, unreadable, refused):
            self.flow.connect(rejection, why, "success")
        self.flow.connect(why, no, "success", "failure")
        self.flow.connect(told, yes, "success", "failure")
        self.flow.connect(yes, choice, "success")
        self._fails(yes, "answer", "the caller was gone before it was answered", (2, 6), "failure")
        self._fails(choice, "dataset", "no dataset '${dataset}'", (2, 7), "unmatched")
        return choice

    def _description(self) -> dict[str, str]:
        """What follows from a request, and what is wrong with it: `reason`, empty when it is acceptable."""
        sources = self.declaration.sources.values()

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
            check(f"pipeline:equals('{self.declaration.pipeline}')", f"pipeline must be {self.declaration.pipeline}"),
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

    # What is extracted

    def _sql(self, source: Source, column: int, choice: Component, parts: Component) -> None:
        bounds = {"1": "from", "2": "to"} if source.interval else {}
        arguments = self._attributes(
            f"{source.name}: bounds",
            {
                f"sql.args.{n}.{key}": value
                for n, bound in bounds.items()
                for key, value in {"type": "93", "value": f"${{{bound}}}", "format": FORMAT}.items()
            }
            or {"bounds": "none, the whole table"},
            at=(column, 8),
        )
        query = self.flow.processor(
            f"{source.name}: query",
            STANDARD,
            P + "ExecuteSQLRecord",
            {
                "Database Connection Pooling Service": self._pool(source.connection),
                "SQL Query": source.query,
                "esqlrecord-record-writer": self._avro(),
                "esql-max-rows": self.flow.parameter("rows.per.file"),
                # one transaction and one result: an error in mid-result leaves no object
                "esql-output-batch-size": "0",
                "esql-fetch-size": "10000",
                "esql-auto-commit": "false",
                "dbf-user-logical-types": "true",
            },
            at=(column, 10),
        )
        self.flow.connect(choice, arguments, source.name)
        self.flow.connect(arguments, query, "success")
        self.flow.connect(query, parts, "success")
        self._fails(query, f"{source.name}: query", "${executesql.error.message}", (column + 0.5, 9), "failure")

    def _listing(self, directories: list[Source], accepted: Component, why: Component) -> None:
        """Answers with a directory's files: size, time of change and name of each, ended by NUL."""
        where = "".join(
            f"${{dataset:equals('{s.name}'):ifElse({self.flow.parameter(f'{s.connection}.directory')},'')}}"
            for s in directories
        )
        listed = self.flow.processor(
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
        tell = self._answer("answer files", "200", at=(3, 5), ends=("success", "failure"))
        unlisted = self._attributes(
            "not listed",
            {"http.code": "500", "reason": "${execution.error:replaceEmpty('the directory could not be listed')}; "},
            at=(2, 5),
        )
        self.flow.connect(accepted, listed, "list")
        self.flow.connect(listed, tell, "output stream")
        self.flow.connect(listed, unlisted, "nonzero status")
        self.flow.connect(unlisted, why, "success")

    def _files(self, source: Source, column: int, choice: Component, parts: Component) -> None:
        default = json.dumps([{"name": source.files}], separators=(",", ":"))
        names = self._text(f"{source.name}: files", f"${{files:replaceEmpty('{default}')}}", at=(column, 8))
        split = self.flow.processor(
            f"{source.name}: each file",
            STANDARD,
            P + "SplitJson",
            {"JsonPath Expression": "$.*"},
            at=(column, 9),
            ends=("original",),
        )
        name = self.flow.processor(
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
        fetch = (self._fetch_sftp if source.kind == "sftp" else self._fetch_file)(source, column, at, stage)
        whole = self._route(
            f"{source.name}: as listed?", {"yes": "${size:isEmpty():or(${fileSize:equals(${size})})}"}, at=(column, 12)
        )
        self.flow.connect(choice, names, source.name)
        self.flow.connect(names, split, "success")
        self.flow.connect(split, name, "split")
        self.flow.connect(name, fetch, "matched")
        self.flow.connect(fetch, whole, "success")
        self.flow.connect(whole, parts, "yes")
        self._fails(names, f"{source.name}: files", "the list of files could not be made", at, "failure")
        self._fails(split, f"{source.name}: split", "the list of files could not be read", at, "failure")
        self._fails(name, f"{source.name}: name", "a file in the list has no name", at, "failure", "unmatched")
        self._fails(fetch, f"{stage} (missing)", f"{source.connection} has no file ${{file}}", at, "not.found")
        self._fails(
            fetch, f"{stage} (denied)", f"{source.connection} does not let us read ${{file}}", at, "permission.denied"
        )
        self._fails(
            whole,
            f"{stage} (changing)",
            f"{source.connection}: ${{file}} has ${{fileSize}} bytes, when it was listed it had ${{size}}: it is still being written",
            at,
            "unmatched",
        )

    def _fetch_sftp(self, source: Source, column: int, at: tuple[float, float], stage: str) -> Component:
        where = {
            key: self.flow.parameter(f"{source.connection}.{key}")
            for key in ("host", "port", "user", "directory", "key_file", "known_hosts")
        }
        fetch = self.flow.processor(
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
        self._fails(
            fetch,
            f"{stage} (connection)",
            f"{source.connection} ({where['host']}) could not be reached, or its host key or our key was refused",
            at,
            "comms.failure",
        )
        return fetch

    def _fetch_file(self, source: Source, column: int, at: tuple[float, float], stage: str) -> Component:
        fetch = self.flow.processor(
            stage,
            STANDARD,
            P + "FetchFile",
            {
                "File to Fetch": self.flow.parameter(f"{source.connection}.directory") + "/${file}",
                "Completion Strategy": "None",
            },
            at=(column, 11),
        )
        self._fails(fetch, f"{stage} (reading)", f"{source.connection}: ${{file}} could not be read", at, "failure")
        return fetch

    def _rest(self, source: Source, column: int, choice: Component, parts: Component) -> None:
        """The first page, and from each page to the next until all rows are there; what does not add up fails."""
        page, most = source.page, source.page.most
        base = self.flow.parameter(f"{source.connection}.url") + source.path
        query = [f"{name}={self._bound(value)}" for name, value in source.parameters.items()]
        if page.next:
            url = f"{base}?{'&'.join(query)}" if query else base
            following = "${page.next}"
        else:
            query += [f"{page.size}={page.rows}", f"{page.number}="]
            url = f"{base}?{'&'.join(query)}1"
            following = "${url:substringBeforeLast('=')}=${page:plus(1)}"
        first = self._attributes(
            f"{source.name}: first page",
            {"url": url, "page": "1", "seen": "0", "fragment.identifier": "${request}"},
            at=(column, 8),
        )
        get = self.flow.processor(
            f"{source.name}: get page",
            STANDARD,
            P + "InvokeHTTP",
            {
                "HTTP Method": "GET",
                "HTTP URL": "${url}",
                "SSL Context Service": self.tls,
                "Connection Timeout": "10 secs",
                "Socket Read Timeout": "60 secs",
                "Response Redirects Enabled": "False",
                "Authorization": self.flow.parameter(f"{source.connection}.authorization", sensitive=True),
            },
            at=(column, 9),
            ends=("Original",),
            retries=3,
            retried=("Retry", "No Retry", "Failure"),
        )
        read = self.flow.processor(
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
        count = self._attributes(
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
            more = f"page.next:isEmpty():not():and(${{page.next:equals(${{url}}):not()}}):and(${{page.rows:gt(0)}}):and({within})"
            last = "page.next:isEmpty()"
        else:
            valid = "page.rows:matches('[0-9]+'):and(${page.total:matches('[0-9]+')}):and(${page.total:equals(${first.total})})"
            full = f"${{page.rows:equals('{page.rows}')}}"
            more = f"seen:lt(${{page.total:replaceEmpty('0')}}):and({full}):and({within})"
            last = "seen:equals(${page.total})"
        route = self._route(
            f"{source.name}: which page?",
            {"more": f"${{{valid}:and(${{{more}}})}}", "last": f"${{{valid}:and(${{{last}}})}}"},
            at=(column, 12),
        )
        after = self._attributes(
            f"{source.name}: next page", {"url": following, "page": "${page:plus(1)}"}, at=(column - 0.5, 10)
        )
        index = {"fragment.index": "${page:minus(1)}"}
        part = self._attributes(f"{source.name}: page", index, at=(column, 12.4))
        end = self._attributes(f"{source.name}: last page", index | {"fragment.count": "${page}"}, at=(column, 12.7))
        self.flow.connect(choice, first, source.name)
        self.flow.connect(first, get, "success")
        self.flow.connect(get, read, "Response")
        self.flow.connect(read, count, "matched")
        self.flow.connect(count, route, "success")
        self.flow.connect(route, after, "more")
        self.flow.connect(after, get, "success")
        self.flow.connect(route, part, "more")
        self.flow.connect(route, end, "last")
        self.flow.connect(part, self.digest, "success")
        self.flow.connect(end, self.digest, "success")
        at, name = (column + 0.5, 9.5), source.connection
        self._fails(
            get,
            f"{source.name}: get page",
            f"{name}: page ${{page}} (${{url}}) could not be had: ${{invokehttp.status.code}} ${{invokehttp.status.message}} "
            "${invokehttp.java.exception.message}",
            at,
            "Retry",
            "No Retry",
            "Failure",
        )
        self._fails(
            read,
            f"{source.name}: read page",
            f"{name}: page ${{page}} (${{url}}) is not JSON",
            at,
            "failure",
            "unmatched",
        )
        self._fails(
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

    def _bound(self, text: str) -> str:
        """A parameter's value with the run's bounds in it, for a URL."""
        zone = self.declaration.timezone
        for name in ("from", "to"):
            moment = f"{name}:toDate('{FORMAT}','{zone}')"
            utc = f"""${{{moment}:format("yyyy-MM-dd'T'HH:mm:ss'Z'",'UTC'):urlEncode()}}"""
            local = f"${{{name}:replace(' ','T'):urlEncode()}}"
            text = text.replace(f"{{{name}_utc}}", utc).replace(f"{{{name}}}", local)
        return text

    # What goes out

    def _parts(self) -> Component:
        """Any number of contents to parts and a manifest; returns where contents go in whose number is known.

        Contents with fragment.identifier and .index of their own go to `self.digest`; one of them, the last, has .count.
        """
        counted = self._attributes(
            "count parts",
            {
                # what came in one piece has no fragment attributes
                "fragment.identifier": "${fragment.identifier:replaceEmpty(${request})}",
                "fragment.index": "${fragment.index:replaceEmpty('0')}",
                "fragment.count": "${fragment.count:replaceEmpty('1')}",
            },
            at=(1, 12.5),
        )
        digest = self.digest = self.flow.processor(
            "sha256",
            STANDARD,
            P + "CryptographicHashContent",
            {"hash_algorithm": "SHA-256", "fail_when_empty": "false"},
            at=(1, 13),
        )
        named = self._attributes(
            "name part",
            {
                "rows": "${executesql.row.count:replaceEmpty(${page.rows:replaceEmpty('null')})}",
                "bytes": "${fileSize}",
                "sha256": "${content_SHA-256}",
                "key": PREFIX
                + "/part-${fragment.index:padLeft(5,'0')}.${extension}${file:endsWith('.gz'):ifElse('.gz','')}",
            },
            at=(1, 14),
        )
        put = self._put("put part", "${key}", "refuse", "application/octet-stream", at=(1, 15), retries=3, tasks=2)
        record = self._text(
            "part record",
            '{"key":"${key}","rows":${rows},"bytes":${bytes},"sha256":"${sha256}"'
            """${file:isEmpty():ifElse('',${file:prepend(',"name":"'):append('"')})}}""",
            at=(1, 16),
        )
        merge = self.flow.processor(
            "merge parts",
            STANDARD,
            P + "MergeContent",
            {
                "Merge Strategy": "Defragment",
                "Merge Format": "Binary Concatenation",
                "Attribute Strategy": "Keep Only Common Attributes",
                "Delimiter Strategy": "Text",
                "Header File": f"{{{self.request},"
                """"extracted_at":"${now():format("yyyy-MM-dd'T'HH:mm:ss'Z'",'UTC')}","files":[\n""",
                "Demarcator File": ",\n",
                "Footer File": "\n]}\n",
                # longer than any extract may take; after it the parts that did come are given up
                "Max Bin Age": "40 min",
                "Maximum number of Bins": "500",
            },
            at=(1, 17),
            ends=("original",),
        )
        seal = self._put(
            "put manifest",
            PREFIX + "/_manifest.json",
            "refuse",
            "application/json",
            at=(1, 18),
            retries=3,
            ends=("success",),
        )
        self.flow.connect(counted, digest, "success")
        self.flow.connect(digest, named, "success")
        self.flow.connect(named, put, "success")
        self.flow.connect(put, record, "success")
        self.flow.connect(record, merge, "success")
        self.flow.connect(merge, seal, "merged")
        store = "${s3.error.status} ${s3.error.code}: ${s3.error.message}"
        self._fails(digest, "sha256", "the content could not be read again", (2, 13), "failure")
        self._fails(put, "put part", store, (2, 15), "failure", "exists")
        self._fails(record, "part record", "the record could not be written", (2, 16), "failure")
        self._fails(merge, "merge parts", "of ${fragment.count} parts not all arrived", (2, 17), "failure")
        self._fails(seal, "put manifest", store, (2, 18), "failure", "exists")
        return counted

    def _failure(self) -> Component:
        """Contents with `stage` and `reason` to the failure record; returns where they go in."""
        record = self._text(
            "failure record",
            f'{{{self.request},"stage":"${{stage:escapeJson()}}","reason":"${{reason:escapeJson()}}"}}\n',
            at=(4, 16),
        )
        put = self._put(
            "put failure record",
            PREFIX + "/_failure.json",
            "refuse",
            "application/json",
            at=(4, 17),
            retries=10,
            ends=("success", "exists"),
            comment="exists: another part of this request failed before; the first failure stands.",
        )
        lost = self.flow.processor(
            "failure that could not be recorded",
            STANDARD,
            P + "LogAttribute",
            {
                "Log Level": "error",
                "Attributes to Log": "run_id,attempt,dataset,from,to,stage,reason,s3.error.code,s3.error.message",
            },
            at=(4, 18),
            ends=("success",),
        )
        self.flow.connect(record, put, "success")
        self.flow.connect(record, lost, "failure")
        self.flow.connect(put, lost, "failure")
        return record

    def _fails(self, source: Component, stage: str, reason: str, at: tuple[float, float], *relationships: str) -> None:
        to = self._attributes(f"failed: {stage}", {"stage": stage, "reason": reason}, at=at)
        self.flow.connect(source, to, *relationships)
        self.flow.connect(to, self.failure, "success")

    # Parts that repeat

    def _attributes(self, name: str, attributes: dict[str, str], at: tuple[float, float]) -> Component:
        kind = "org.apache.nifi.processors.attributes.UpdateAttribute"
        return self.flow.processor(
            name, UPDATE_ATTRIBUTE, kind, attributes | {"Store State": "Do not store state"}, at=at
        )

    def _route(self, name: str, routes: dict[str, str], at: tuple[float, float]) -> Component:
        properties = {"Routing Strategy": "Route to Property name"} | routes
        return self.flow.processor(name, STANDARD, P + "RouteOnAttribute", properties, at=at)

    def _text(self, name: str, text: str, at: tuple[float, float]) -> Component:
        return self.flow.processor(
            name,
            STANDARD,
            P + "ReplaceText",
            {"Replacement Strategy": "Always Replace", "Evaluation Mode": "Entire text", "Replacement Value": text},
            at=at,
        )

    def _answer(self, name: str, status: str, at: tuple[float, float], ends: tuple[str, ...] = ()) -> Component:
        properties = {"HTTP Status Code": status, "HTTP Context Map": self.contexts}
        return self.flow.processor(name, STANDARD, P + "HandleHttpResponse", properties, at=at, ends=ends)

    def _put(self, name: str, key: str, overwrite: str, content_type: str, **settings: Any) -> Component:
        return self.flow.processor(
            name,
            ETL,
            "io.etlcloud.nifi.PutS3",
            {
                "Endpoint URL": self.flow.parameter("s3.endpoint"),
                "Region": self.flow.parameter("s3.region"),
                "Bucket": self.flow.parameter("s3.bucket"),
                "Object Key": key,
                "Access Key ID": self.flow.parameter("s3.access_key"),
                "Secret Access Key": self.flow.parameter("s3.secret_key", sensitive=True),
                "SSL Context Service": self.tls,
                "Overwrite": overwrite,
                "Content Type": content_type,
            },
            **settings,
        )

    def _tls(self) -> Component:
        return self.flow.service(
            "TLS",
            SSL,
            "org.apache.nifi.ssl.StandardSSLContextService",
            {
                "Keystore Filename": self.flow.parameter("tls.keystore"),
                "Keystore Password": self.flow.parameter("tls.keystore.password", sensitive=True),
                "Keystore Type": "PKCS12",
                "Truststore Filename": self.flow.parameter("tls.truststore"),
                "Truststore Password": self.flow.parameter("tls.truststore.password", sensitive=True),
                "Truststore Type": "PKCS12",
            },
        )

    def _avro(self) -> Component:
        return self._once(
            "Avro",
            RECORDS,
            "org.apache.nifi.avro.AvroRecordSetWriter",
            {"Schema Write Strategy": "avro-embedded", "compression-format": "SNAPPY"},
        )

    def _pool(self, connection: str) -> Component:
        return self._once(
            connection,
            DBCP,
            "org.apache.nifi.dbcp.DBCPConnectionPool",
            {
                "Database Connection URL": self.flow.parameter(f"{connection}.url"),
                "Database Driver Class Name": self.flow.parameter(f"{connection}.driver"),
                "database-driver-locations": self.flow.parameter("jdbc.drivers"),
                "Database User": self.flow.parameter(f"{connection}.user"),
                "Password": self.flow.parameter(f"{connection}.password", sensitive=True),
                "Validation-query": "select 1",
                "Max Wait Time": "10 seconds",
                # a pool that keeps nothing open needs no care after the source restarts
                "dbcp-min-idle-conns": "0",
                "dbcp-max-idle-conns": "0",
            },
        )

    def _once(self, name: str, bundle: tuple[str, str, str], kind: str, properties: dict[str, str]) -> Component:
        for service in self.flow.services:
            if service["name"] == name:
                return Component(service["identifier"])
        return self.flow.service(name, bundle, kind, properties)


DIRECTIVES = {"%Y": "[0-9]{4}", "%m": "[0-9]{2}", "%d": "[0-9]{2}", "*": "[A-Za-z0-9_.-]*", "?": "[A-Za-z0-9_.-]"}


def _acceptable_files(source: Source) -> str:
    """An expression: the request's files are names that the declaration allows (none at all for a single file)."""
    name = "".join(
        DIRECTIVES.get(part) or (part if part.isalnum() or part in "_-" else f"[{part}]")
        for part in re.findall("%.|.", source.files)
    )
    # the expression language takes one of two backslashes
    listed = rf"""files:matches('\\[([{{]"name":"{name}"(,"size":[0-9]{{1,15}})?[}}],?)+\\]')"""
    return listed if source.several_files else f"files:isEmpty():or(${{{listed}}})"
