"""What an extract flow is made of over and over: components with the settings that ours have in common."""

from __future__ import annotations

from typing import Any

from jobs.declaration import Declaration
from jobs.extract.nifi.flowgen.model import (
    DBCP,
    ETL,
    HTTP_CONTEXT,
    RECORDS,
    SSL,
    STANDARD,
    UPDATE_ATTRIBUTE,
    Bundle,
    Component,
    Flow,
)

P = "org.apache.nifi.processors.standard."  # package of the processors in STANDARD
FORMAT = "yyyy-MM-dd HH:mm:ss"  # of the bounds in a request
PREFIX = "${source}/${dataset}/dt=${dt}/run_id=${run_id}/attempt=${attempt}"
REQUEST = (
    '"run_id":"${run_id}","attempt":${attempt},"pipeline":"%s","source":"${source}","dataset":"${dataset}",'
    '"from":"${from}","to":"${to}","format":"${extension}","flow_version":"%s"'
)


class Blocks:
    """The flow of a pipeline under construction. `request` is the request as JSON fields, for every record about it; `failure` takes
    contents with the attributes `stage` and `reason` once `output.failure` has made it."""

    failure: Component

    def __init__(self, declaration: Declaration, version: str):
        self.declaration = declaration
        self.request = REQUEST % (declaration.pipeline, version)
        self.flow = Flow(declaration.pipeline)
        self.tls = self._tls()
        self.contexts = self.flow.service(
            "requests awaiting an answer",
            HTTP_CONTEXT,
            "org.apache.nifi.http.StandardHttpContextMap",
            {"Maximum Outstanding Requests": "1000", "Request Expiration": "1 min"},
        )

    def attributes(self, name: str, attributes: dict[str, str], at: tuple[float, float]) -> Component:
        """Add a processor that sets attributes."""
        kind = "org.apache.nifi.processors.attributes.UpdateAttribute"
        return self.flow.processor(
            name, UPDATE_ATTRIBUTE, kind, attributes | {"Store State": "Do not store state"}, at=at
        )

    def route(self, name: str, routes: dict[str, str], at: tuple[float, float]) -> Component:
        """Add a choice: a relationship by name for each expression that may be true, and `unmatched`."""
        properties = {"Routing Strategy": "Route to Property name"} | routes
        return self.flow.processor(name, STANDARD, P + "RouteOnAttribute", properties, at=at)

    def text(self, name: str, text: str, at: tuple[float, float]) -> Component:
        """Add a processor that replaces the content."""
        return self.flow.processor(
            name,
            STANDARD,
            P + "ReplaceText",
            {"Replacement Strategy": "Always Replace", "Evaluation Mode": "Entire text", "Replacement Value": text},
            at=at,
        )

    def answer(self, name: str, status: str, at: tuple[float, float], ends: tuple[str, ...] = ()) -> Component:
        """Add an answer to the caller's request."""
        properties = {"HTTP Status Code": status, "HTTP Context Map": self.contexts}
        return self.flow.processor(name, STANDARD, P + "HandleHttpResponse", properties, at=at, ends=ends)

    def put(self, name: str, key: str, overwrite: str, content_type: str, **settings: Any) -> Component:
        """Add a processor that puts the content to an object of the raw bucket; `settings` are those of Flow.processor."""
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

    def fails(self, source: Component, stage: str, reason: str, at: tuple[float, float], *relationships: str) -> None:
        """Lead these relationships to the failure record, with stage and reason."""
        to = self.attributes(f"failed: {stage}", {"stage": stage, "reason": reason}, at=at)
        self.flow.connect(source, to, *relationships)
        self.flow.connect(to, self.failure, "success")

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

    def avro(self) -> Component:
        """The writer of Avro records, one for all queries."""
        return self._once(
            "Avro",
            RECORDS,
            "org.apache.nifi.avro.AvroRecordSetWriter",
            {"Schema Write Strategy": "avro-embedded", "compression-format": "SNAPPY"},
        )

    def pool(self, connection: str) -> Component:
        """The pool of a database's connections, one for all that name it."""
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

    def _once(self, name: str, bundle: Bundle, kind: str, properties: dict[str, str]) -> Component:
        for service in self.flow.services:
            if service["name"] == name:
                return Component(service["identifier"])
        return self.flow.service(name, bundle, kind, properties)
