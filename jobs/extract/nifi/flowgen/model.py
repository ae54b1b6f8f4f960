"""NiFi's flow definition format: components with stable identifiers and full settings, nothing about our flows."""

from __future__ import annotations

import uuid
from typing import Any

NIFI = "2.3.0"
NAMESPACE = uuid.UUID("9d1c4f5e-6f0b-4b39-8f0e-2f6f6c9f5a10")

Bundle = tuple[str, str, str]
STANDARD: Bundle = ("org.apache.nifi", "nifi-standard-nar", NIFI)
UPDATE_ATTRIBUTE: Bundle = ("org.apache.nifi", "nifi-update-attribute-nar", NIFI)
RECORDS: Bundle = ("org.apache.nifi", "nifi-record-serialization-services-nar", NIFI)
DBCP: Bundle = ("org.apache.nifi", "nifi-dbcp-service-nar", NIFI)
SSL: Bundle = ("org.apache.nifi", "nifi-ssl-context-service-nar", NIFI)
HTTP_CONTEXT: Bundle = ("org.apache.nifi", "nifi-http-context-map-nar", NIFI)
ETL: Bundle = ("io.etlcloud.nifi", "etl-nifi-nar", "1.0.0")


class Component(str):
    """The identifier of a component; in a property it makes that property a reference to a controller service."""


class Secret(str):
    """The value of a sensitive property: a reference to a sensitive parameter."""


class Flow:
    """One process group. Components are named once; their identifiers follow from the names, so that an upgrade
    recognises what stays."""

    def __init__(self, name: str):
        self.name = name
        self.id = self._id("group")
        self.processors: list[dict[str, Any]] = []
        self.connections: list[dict[str, Any]] = []
        self.services: list[dict[str, Any]] = []
        self.parameters: dict[str, bool] = {}

    def _id(self, *names: str) -> Component:
        return Component(uuid.uuid5(NAMESPACE, "/".join((self.name, *names))))

    def parameter(self, name: str, sensitive: bool = False) -> str:
        """A reference to a parameter, which the deployment has to give a value."""
        self.parameters[name] = sensitive
        return Secret(f"#{{{name}}}") if sensitive else f"#{{{name}}}"

    def service(self, name: str, bundle: Bundle, kind: str, properties: dict[str, str]) -> Component:
        """Add a controller service."""
        self._unused(name, self.services)
        self.services.append(
            self._component(name, "service", bundle, kind, properties)
            | {"scheduledState": "ENABLED", "componentType": "CONTROLLER_SERVICE", "controllerServiceApis": []}
        )
        return Component(self.services[-1]["identifier"])

    def processor(
        self,
        name: str,
        bundle: Bundle,
        kind: str,
        properties: dict[str, str],
        *,
        at: tuple[float, float],
        ends: tuple[str, ...] = (),
        retries: int = 0,
        retried: tuple[str, ...] = ("failure",),
        tasks: int = 1,
        comment: str = "",
    ) -> Component:
        """Add a processor at grid cell `at` (column, row). Relationships in `ends` end there; those in `retried` are
        tried `retries` times more, each time after a longer pause, before they are followed."""
        self._unused(name, self.processors)
        self.processors.append(
            self._component(name, "processor", bundle, kind, properties)
            | {
                "comments": comment,
                "position": {"x": 520.0 * at[0], "y": 220.0 * at[1]},
                "style": {},
                "schedulingPeriod": "0 sec",
                "schedulingStrategy": "TIMER_DRIVEN",
                "executionNode": "ALL",
                "penaltyDuration": "5 sec",
                "yieldDuration": "1 sec",
                "runDurationMillis": 0,
                "concurrentlySchedulableTaskCount": tasks,
                "autoTerminatedRelationships": sorted(ends),
                "retryCount": retries or 10,
                "retriedRelationships": sorted(retried) if retries else [],
                "backoffMechanism": "PENALIZE_FLOWFILE",
                "maxBackoffPeriod": "1 mins",
                "scheduledState": "ENABLED",
                "componentType": "PROCESSOR",
            }
        )
        return Component(self.processors[-1]["identifier"])

    def connect(self, source: Component, target: Component, *relationships: str) -> None:
        """Add a connection."""
        ends = [
            {"id": str(end), "type": "PROCESSOR", "groupId": str(self.id), "name": self._name(end)}
            for end in (source, target)
        ]
        self.connections.append(
            {
                "identifier": str(self._id("connection", *(end["name"] for end in ends), *sorted(relationships))),
                "name": "",
                "source": ends[0],
                "destination": ends[1],
                "selectedRelationships": sorted(relationships),
                "labelIndex": 0,
                "zIndex": 0,
                "backPressureObjectThreshold": 10000,
                "backPressureDataSizeThreshold": "1 GB",
                "flowFileExpiration": "0 sec",
                "prioritizers": [],
                "bends": [],
                "loadBalanceStrategy": "DO_NOT_LOAD_BALANCE",
                "partitioningAttribute": "",
                "loadBalanceCompression": "DO_NOT_COMPRESS",
                "componentType": "CONNECTION",
                "groupIdentifier": str(self.id),
            }
        )

    def definition(self, comments: str) -> dict[str, Any]:
        """The definition as NiFi imports it."""
        return {
            "flowContents": {
                "identifier": str(self.id),
                "name": self.name,
                "comments": comments,
                "position": {"x": 0.0, "y": 0.0},
                "processGroups": [],
                "remoteProcessGroups": [],
                "processors": self.processors,
                "inputPorts": [],
                "outputPorts": [],
                "connections": self.connections,
                "labels": [],
                "funnels": [],
                "controllerServices": self.services,
                "parameterContextName": self.name,
                "defaultFlowFileExpiration": "0 sec",
                "defaultBackPressureObjectThreshold": 10000,
                "defaultBackPressureDataSizeThreshold": "1 GB",
                "scheduledState": "ENABLED",
                "executionEngine": "INHERITED",
                "maxConcurrentTasks": 1,
                "statelessFlowTimeout": "1 min",
                "flowFileConcurrency": "UNBOUNDED",
                "flowFileOutboundPolicy": "STREAM_WHEN_AVAILABLE",
                "componentType": "PROCESS_GROUP",
            },
            "externalControllerServices": {},
            "parameterProviders": {},
            "flowEncodingVersion": "1.0",
            "latest": False,
            "parameterContexts": {
                self.name: {
                    "name": self.name,
                    "description": "",
                    "parameters": [
                        {"name": name, "description": "", "sensitive": sensitive, "provided": False}
                        for name, sensitive in sorted(self.parameters.items())
                    ],
                    "inheritedParameterContexts": [],
                    "componentType": "PARAMETER_CONTEXT",
                }
            },
        }

    def _component(self, name: str, what: str, bundle: Bundle, kind: str, properties: dict[str, str]) -> dict[str, Any]:
        group, artifact, version = bundle
        return {
            "identifier": str(self._id(what, name)),
            "name": name,
            "type": kind,
            "bundle": {"group": group, "artifact": artifact, "version": version},
            "properties": {key: str(value) for key, value in properties.items()},
            "propertyDescriptors": {
                key: {
                    "name": key,
                    "displayName": key,
                    "identifiesControllerService": isinstance(value, Component),
                    "sensitive": isinstance(value, Secret),
                }
                for key, value in properties.items()
                if isinstance(value, Component | Secret)
            },
            "comments": "",
            "bulletinLevel": "WARN",
            "groupIdentifier": str(self.id),
        }

    def _name(self, identifier: Component) -> str:
        return next(p["name"] for p in self.processors if p["identifier"] == identifier)

    @staticmethod
    def _unused(name: str, components: list[dict[str, Any]]) -> None:
        if any(component["name"] == name for component in components):
            raise ValueError(f"two components are named '{name}'")
