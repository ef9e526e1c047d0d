"""Schema registries: writers' schemas by id, over Confluent's REST API.

https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from __future__ import annotations

import base64
import http.client
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

import msgspec

from headwater.errors import ConfigError, HeadwaterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "BASIC_AUTH_VARIABLE",
    "URL_VARIABLE",
    "RegistryError",
    "RegistrySettings",
    "SchemaRegistry",
    "SchemaTexts",
    "UnusableSchemaError",
]

URL_VARIABLE: Final = "HEADWATER_SCHEMA_REGISTRY__URL"
BASIC_AUTH_VARIABLE: Final = "HEADWATER_SCHEMA_REGISTRY__BASIC_AUTH"

RESPONSE_BYTES_MAX: Final = 2 * 1024 * 1024
REFERENCES_MAX: Final = 64

# Between one try and the next. With 5 s for each try it all ends within 18 s, before a watchdog on
# progress takes the worker for stuck.
PAUSES_S: Final = (0.5, 2.0)
TRY_TIMEOUT_S: Final = 5.0

# The registry's own codes for "no schema with this id"; any other 404 comes from something else.
NO_SUCH_SCHEMA: Final = frozenset({40403})
PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

SchemaTexts = tuple[str, ...]
"""JSON texts of a schema: those that it refers to come first, its own is the last."""


class RegistryError(HeadwaterError):
    """A registry that gives no answer: nothing can be said about the records, so reading stops."""


class UnusableSchemaError(HeadwaterError):
    """A schema that will never decode a record here, whatever the record."""


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Where this deployment's registry is, and how it is reached.

    `url` stands in where a definition names none. `basic_auth` ("user:password") goes to that URL
    and to no other, so that no definition can choose who is told it.
    """

    url: str = ""
    basic_auth: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Refuse a URL or credentials that can't be used; their text stays out of the message."""
        if self.url:
            check_url(self.url, URL_VARIABLE)
        if self.basic_auth and ":" not in self.basic_auth:
            raise ConfigError(
                f'{BASIC_AUTH_VARIABLE} is not of the form "user:password"; write both, with a'
                " colon between"
            )
        if self.basic_auth and not self.url:
            raise ConfigError(
                f"{BASIC_AUTH_VARIABLE} is set and {URL_VARIABLE} is not; set it too: the password"
                " is sent to that registry only"
            )

    @classmethod
    def of(cls, url: str, basic_auth: str) -> RegistrySettings | None:
        """Return what a configuration says, None where it names no registry."""
        return cls(url, basic_auth) if url else None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> RegistrySettings:
        """Read the two HEADWATER_SCHEMA_REGISTRY variables; absent ones are empty."""
        return cls(environment.get(URL_VARIABLE, ""), environment.get(BASIC_AUTH_VARIABLE, ""))


def check_url(url: str, where: str) -> None:
    """Raise ConfigError for a URL that is no place of a registry."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or any(c.isspace() for c in url):
        raise ConfigError(f"{where}: not the URL of a registry; write http://host:8081 or https://")
    if parts.username or parts.password:
        raise ConfigError(
            f"{where}: the URL holds credentials; put them in {BASIC_AUTH_VARIABLE} and leave the"
            " URL without"
        )


class _Reference(msgspec.Struct, frozen=True):
    subject: str
    version: int


class _Found(msgspec.Struct, frozen=True):
    schema: str
    schema_type: str = msgspec.field(name="schemaType", default="AVRO")
    references: tuple[_Reference, ...] = ()


class _Refusal(msgspec.Struct, frozen=True):
    error_code: int = 0
    message: str = ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a redirect would carry the password to another server."""

    def redirect_request(self, *_: object) -> None:
        return None


class SchemaRegistry:
    """Asks one registry for schemas; keeps nothing, so that callers bound what is kept.

    Each request has 5 s, and is tried three times where trying again can help.
    """

    def __init__(
        self,
        url: str,
        settings: RegistrySettings,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Ask the registry at a URL, or at the settings' where it is empty."""
        self.url = (url or settings.url).rstrip("/")
        if not self.url:
            raise ConfigError(
                "Avro with schemas from a registry, and no registry is named: set"
                f' {URL_VARIABLE}, or write hw.avro(registry="http://...")'
            )
        check_url(self.url, "registry")
        self._authorization = ""
        if settings.basic_auth and self.url == settings.url.rstrip("/"):
            token = base64.b64encode(settings.basic_auth.encode()).decode()
            self._authorization = f"Basic {token}"
        self._clock_s = clock_s
        self._sleep = sleep
        self._opener = urllib.request.build_opener(_NoRedirect)

    def schema(self, schema_id: int) -> SchemaTexts | None:
        """Return the Avro schema of an id with what it refers to; None if there is no such id.

        Raises UnusableSchemaError for a schema of another kind, ConfigError for a registry that
        refuses the credentials or is none, and RegistryError for one that gives no answer.
        """
        found = self._ask(f"/schemas/ids/{schema_id}")
        if found is None:
            return None
        texts: dict[tuple[str, int], str] = {}
        self._add_references(found, texts, depth=0)
        return (*texts.values(), _avro_text(found))

    def _add_references(
        self, found: _Found, texts: dict[tuple[str, int], str], *, depth: int
    ) -> None:
        for one in found.references:
            key = (one.subject, one.version)
            if key in texts:
                continue
            if depth >= REFERENCES_MAX or len(texts) >= REFERENCES_MAX:
                raise UnusableSchemaError(f"it refers to more than {REFERENCES_MAX} other schemas")
            path = f"/subjects/{quote(one.subject, safe='')}/versions/{one.version}"
            referred = self._ask(path)
            if referred is None:
                raise UnusableSchemaError(
                    f'it refers to version {one.version} of "{one.subject}", which isn\'t there'
                )
            self._add_references(referred, texts, depth=depth + 1)
            texts[key] = _avro_text(referred)

    def _ask(self, path: str) -> _Found | None:
        for pause_s in (*PAUSES_S, None):
            try:
                status, body = self._get(path)
            except (OSError, http.client.HTTPException) as error:
                # URLError's own text is "<urlopen error ...>" around the reason.
                reason = getattr(error, "reason", None) or error
                problem = f"{type(error).__name__}: {reason}"
            else:
                if status not in PASSING:
                    return self._answer(path, status, body)
                problem = f"status {status}"
            if pause_s is None:
                break
            self._sleep(pause_s)
        raise RegistryError(
            f"schema registry {self.url} gave no answer for {path} in {len(PAUSES_S) + 1} tries"
            f" ({problem}); see that it runs and can be reached from here: no record is read until"
            " then, and none is lost"
        )

    def _get(self, path: str) -> tuple[int, bytes]:
        headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if self._authorization:
            headers["Authorization"] = self._authorization
        # check_url has let through http and https only.
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310
        deadline_s = self._clock_s() + TRY_TIMEOUT_S
        try:
            response = self._opener.open(request, timeout=TRY_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(RESPONSE_BYTES_MAX)
        with response:
            body = bytearray()
            # A time-out is per read: bytes that trickle in would keep it from ever coming.
            while chunk := response.read1(65_536):
                body += chunk
                if len(body) > RESPONSE_BYTES_MAX:
                    raise UnusableSchemaError(f"it has more than {RESPONSE_BYTES_MAX} bytes")
                if self._clock_s() > deadline_s:
                    raise TimeoutError(f"not all there after {TRY_TIMEOUT_S:g} s")
            return int(response.status), bytes(body)

    def _answer(self, path: str, status: int, body: bytes) -> _Found | None:
        if status == http.HTTPStatus.OK:
            try:
                return msgspec.json.decode(body, type=_Found)
            except (msgspec.DecodeError, RecursionError) as error:
                raise self._no_registry(path, f"an answer that is no schema: {error}") from None
        if status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
            sent = "these credentials" if self._authorization else "a request without credentials"
            raise ConfigError(
                f"schema registry {self.url} refuses {sent} (status {status}); see"
                f" {BASIC_AUTH_VARIABLE} and {URL_VARIABLE}"
            )
        try:
            refusal = msgspec.json.decode(body, type=_Refusal)
        except (msgspec.DecodeError, RecursionError):
            refusal = _Refusal()
        if status == http.HTTPStatus.NOT_FOUND and refusal.error_code in NO_SUCH_SCHEMA:
            return None
        if status == http.HTTPStatus.NOT_FOUND and path.startswith("/subjects/"):
            return None
        raise self._no_registry(path, f"status {status}, error_code {refusal.error_code}")

    def _no_registry(self, path: str, problem: str) -> ConfigError:
        return ConfigError(
            f"{self.url} does not answer {path} as a schema registry does ({problem}); see that the"
            " URL is the registry's, with any path in front of /schemas"
        )


def _avro_text(found: _Found) -> str:
    if found.schema_type != "AVRO":
        raise UnusableSchemaError(f"it is a schema of {found.schema_type}, not of Avro")
    return found.schema
