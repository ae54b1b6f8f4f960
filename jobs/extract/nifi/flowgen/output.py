"""What goes out: parts and the manifest that seals them, or one failure record."""

from __future__ import annotations

from typing import NamedTuple

from jobs.extract.nifi.flowgen.blocks import PREFIX, Blocks, P
from jobs.extract.nifi.flowgen.model import STANDARD, Component


class Parts(NamedTuple):
    """Where contents go in: `whole` those that come in one piece or whose number is known; `fragments` those with fragment.identifier
    and .index of their own, of which one, the last, has .count."""

    whole: Component
    fragments: Component


def parts(blocks: Blocks) -> Parts:
    """Any number of contents to parts and a manifest; returns where contents go in."""
    counted = blocks.attributes(
        "count parts",
        {
            # what came in one piece has no fragment attributes
            "fragment.identifier": "${fragment.identifier:replaceEmpty(${request})}",
            "fragment.index": "${fragment.index:replaceEmpty('0')}",
            "fragment.count": "${fragment.count:replaceEmpty('1')}",
        },
        at=(1, 12.5),
    )
    digest = blocks.flow.processor(
        "sha256",
        STANDARD,
        P + "CryptographicHashContent",
        {"hash_algorithm": "SHA-256", "fail_when_empty": "false"},
        at=(1, 13),
    )
    named = blocks.attributes(
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
    put = blocks.put("put part", "${key}", "refuse", "application/octet-stream", at=(1, 15), retries=3, tasks=2)
    record = blocks.text(
        "part record",
        '{"key":"${key}","rows":${rows},"bytes":${bytes},"sha256":"${sha256}"'
        """${file:isEmpty():ifElse('',${file:prepend(',"name":"'):append('"')})}}""",
        at=(1, 16),
    )
    merge = blocks.flow.processor(
        "merge parts",
        STANDARD,
        P + "MergeContent",
        {
            "Merge Strategy": "Defragment",
            "Merge Format": "Binary Concatenation",
            "Attribute Strategy": "Keep Only Common Attributes",
            "Delimiter Strategy": "Text",
            "Header File": f"{{{blocks.request},"
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
    seal = blocks.put(
        "put manifest",
        PREFIX + "/_manifest.json",
        "refuse",
        "application/json",
        at=(1, 18),
        retries=3,
        ends=("success",),
    )
    blocks.flow.connect(counted, digest, "success")
    blocks.flow.connect(digest, named, "success")
    blocks.flow.connect(named, put, "success")
    blocks.flow.connect(put, record, "success")
    blocks.flow.connect(record, merge, "success")
    blocks.flow.connect(merge, seal, "merged")
    store = "${s3.error.status} ${s3.error.code}: ${s3.error.message}"
    blocks.fails(digest, "sha256", "the content could not be read again", (2, 13), "failure")
    blocks.fails(put, "put part", store, (2, 15), "failure", "exists")
    blocks.fails(record, "part record", "the record could not be written", (2, 16), "failure")
    blocks.fails(merge, "merge parts", "of ${fragment.count} parts not all arrived", (2, 17), "failure")
    blocks.fails(seal, "put manifest", store, (2, 18), "failure", "exists")
    return Parts(whole=counted, fragments=digest)


def failure(blocks: Blocks) -> Component:
    """Contents with `stage` and `reason` to the failure record; returns where they go in."""
    record = blocks.text(
        "failure record",
        f'{{{blocks.request},"stage":"${{stage:escapeJson()}}","reason":"${{reason:escapeJson()}}"}}\n',
        at=(4, 16),
    )
    put = blocks.put(
        "put failure record",
        PREFIX + "/_failure.json",
        "refuse",
        "application/json",
        at=(4, 17),
        retries=10,
        ends=("success", "exists"),
        comment="exists: another part of this request failed before; the first failure stands.",
    )
    lost = blocks.flow.processor(
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
    blocks.flow.connect(record, put, "success")
    blocks.flow.connect(record, lost, "failure")
    blocks.flow.connect(put, lost, "failure")
    return record
