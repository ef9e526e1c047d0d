from __future__ import annotations

import socket
import traceback
from pathlib import Path

import pytest

from headwater.config import Config, load_config
from headwater.config.toml_lines import line_of
from headwater.errors import ConfigError

PASSWORD = "hunter2-hunter2"
FILE = """\
namespace = "shop"

[kafka]
bootstrap_servers = "file:9092"

[kafka.config]
"security.protocol" = "SASL_SSL"
sasl.username = "me"       # without quotes TOML makes tables of it
"socket.timeout.ms" = 1500
"enable.ssl.certificate.verification" = false

[worker]
port = 7000
archive = ""
state = "data"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(file: str | None = None, flags=None, **environ: str) -> str:
    """Return the line that a configuration is refused with."""
    if file is not None:
        Path("headwater.toml").write_text(file, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(flags=flags, environ=environ)
    text = str(caught.value)
    assert "\n" not in text
    # Nor may the traceback show it.
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    return text


def test_without_any_source_everything_has_its_default() -> None:
    config = load_config(environ={})
    assert config.namespace == "default"
    assert config.kafka.bootstrap_servers == "127.0.0.1:9092"
    assert config.worker.id == socket.gethostname()
    assert config.worker.checkpoints == Path("headwater-state/checkpoints")
    assert (config.worker.port, config.worker.metrics_port) == (6566, 9464)
    assert config.target == "127.0.0.1:6566"
    assert config == Config()


def test_flags_win_over_variables_over_the_file_over_defaults() -> None:
    Path("headwater.toml").write_text(FILE, encoding="utf-8")
    environ = {
        "HEADWATER_WORKER__PORT": "8000",
        "HEADWATER_KAFKA__BOOTSTRAP_SERVERS": "env:9092",
        "HOME": "/home/somebody",
    }
    flags = {"--port": ("worker.port", 9000), "--host": ("worker.host", None)}
    config = load_config(flags=flags, environ=environ)
    assert config.worker.port == 9000
    assert config.kafka.bootstrap_servers == "env:9092"
    assert config.namespace == "shop"
    assert config.worker.host == "127.0.0.1"


def test_a_config_built_by_hand_reads_nothing_around_it(monkeypatch) -> None:
    monkeypatch.setenv("HEADWATER_NAMESPACE", "elsewhere")
    assert Config().namespace == "default"
    assert load_config().namespace == "elsewhere"


def test_librdkafkas_keys_come_from_the_file_and_from_variables_together() -> None:
    Path("headwater.toml").write_text(FILE, encoding="utf-8")
    environ = {
        "HEADWATER_KAFKA__CONFIG": '{"ssl.ca.location": "ca.pem", "sasl.username": "you"}',
        "HEADWATER_KAFKA__CONFIG__SASL_PASSWORD": PASSWORD,
        "HEADWATER_KAFKA__CONFIG__LOG_LEVEL": "7",
    }
    assert dict(load_config(environ=environ).kafka.config) == {
        "security.protocol": "SASL_SSL",
        "sasl.username": "you",
        "socket.timeout.ms": "1500",
        "enable.ssl.certificate.verification": "false",
        "ssl.ca.location": "ca.pem",
        "sasl.password": PASSWORD,
        "log_level": "7",
    }


def test_secrets_are_never_shown() -> None:
    keys = ("sasl.password", "ssl.key.password", "ssl.key.pem", "basic.auth.user.info")
    config = Config.model_validate(
        {"kafka": {"config": {**dict.fromkeys(keys, PASSWORD), "sasl.username": "me"}}}
    )
    for shown in (repr(config), str(config), repr(config.kafka), f"{config.kafka}"):
        assert PASSWORD not in shown
        assert "sasl.username" in shown
        assert "'me'" in shown
    assert config.kafka.config["sasl.password"] == PASSWORD


def test_the_registrys_credentials_are_a_secret_too() -> None:
    environ = {
        "HEADWATER_SCHEMA_REGISTRY__URL": "http://registry:8081",
        "HEADWATER_SCHEMA_REGISTRY__BASIC_AUTH": f"me:{PASSWORD}",
    }
    config = load_config(environ=environ)
    assert config.schema_registry.basic_auth == f"me:{PASSWORD}"
    assert "registry:8081" in repr(config)
    assert PASSWORD not in repr(config)
    said = refused(f'[schema_registry]\nbasic_auth = ["{PASSWORD}"]')
    assert said == "headwater.toml, line 2: schema_registry.basic_auth must be a text"


def test_the_url_of_the_registry_may_hold_a_password_and_is_never_shown() -> None:
    url = f"postgresql://me:{PASSWORD}@host/db"
    config = load_config(environ={"HEADWATER_REGISTRY__URL": url})
    assert config.registry.url == url
    assert PASSWORD not in repr(config)
    assert load_config(environ={}).registry.url == "sqlite:///headwater-registry.db"
    said = refused(f'registry = "{url}"')
    assert said == "headwater.toml, line 1: registry must be a table"
    assert refused(f'[registry]\nurl = ["{url}"]').endswith("registry.url must be a text")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().worker.port = 1


def test_empty_stands_for_no_archive_the_hosts_name_and_the_states_folder() -> None:
    environ = {
        "HEADWATER_WORKER__ARCHIVE": "",
        "HEADWATER_WORKER__ID": "",
        "HEADWATER_WORKER__CHECKPOINTS": "",
        "HEADWATER_WORKER__STATE": "s",
    }
    worker = load_config(environ=environ).worker
    assert worker.archive is None
    assert worker.id == socket.gethostname()
    assert worker.checkpoints == Path("s/checkpoints")


def test_the_file_is_named_by_the_flag_then_by_the_variable(folder) -> None:
    for name in ("a", "b", "headwater"):
        (folder / f"{name}.toml").write_text(f'namespace = "{name}"', encoding="utf-8")
    environ = {"HEADWATER_CONFIG": "b.toml"}
    assert load_config(Path("a.toml"), environ=environ).namespace == "a"
    assert load_config(environ=environ).namespace == "b"
    assert load_config(environ={}).namespace == "headwater"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            "[worker]\n# ports\nprot = 1",
            'headwater.toml, line 3: no setting "worker.prot". Did you mean "worker.port"?',
        ),
        (
            'namespce = "x"',
            'headwater.toml, line 1: no setting "namespce". Did you mean "namespace"?',
        ),
        ("[zebra]\nx = 1", 'headwater.toml, line 1: no setting "zebra". Remove it.'),
        (
            '[worker]\nid = "a"\nport = "abc"',
            'headwater.toml, line 3: worker.port is "abc", must be a whole number',
        ),
        (
            "worker.port = 70000",
            "headwater.toml, line 1: worker.port is 70000, must be at most 65535",
        ),
        (
            "[worker]\nport = true",
            "headwater.toml, line 2: worker.port is true, must be a number",
        ),
        (
            '[worker]\non_stale = "ignore"',
            "headwater.toml, line 2: worker.on_stale is \"ignore\", must be 'mark' or 'refuse'",
        ),
        ("worker = 3", "headwater.toml, line 1: worker is 3, must be a table"),
        ("namespace = 3", "headwater.toml, line 1: namespace is 3, must be a text"),
        (
            'namespace = "a b"',
            (
                'headwater.toml, line 1: namespace is "a b", must begin with a letter or a digit'
                " and hold only letters, digits, . _ and -"
            ),
        ),
        (
            "[worker]\nwatchdog_s = -1",
            "headwater.toml, line 2: worker.watchdog_s is -1, must be more than 0",
        ),
        (
            '[worker]\nadvertise = "host"',
            (
                'headwater.toml, line 2: worker.advertise is "host",'
                ' must be host:port, such as "worker-1.example.com:6566"'
            ),
        ),
        (
            "[worker]\nprocesses = 10\nmetrics_port = 6570",
            (
                "headwater.toml, line 1: worker: port 6566 and metrics_port 6570 are too close"
                " together for 10 processes"
            ),
        ),
        (
            '[kafka.config]\n"debug" = [1]',
            'headwater.toml, line 1: kafka.config: "debug" must be a text, a number or a switch',
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(file, said) -> None:
    assert refused(file) == said


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (
            {"HEADWATER_WORKER__PORT": "abc"},
            'HEADWATER_WORKER__PORT: worker.port is "abc", must be a whole number',
        ),
        (
            {"HEADWATER_WORKER__PROT": "1"},
            'HEADWATER_WORKER__PROT: no setting "worker.prot". Did you mean "worker.port"?',
        ),
        (
            {"HEADWATER_WORKER_PORT": "1"},
            'no setting for HEADWATER_WORKER_PORT. Did you mean "HEADWATER_WORKER__PORT"?',
        ),
        ({"HEADWATER_ZEBRA": "1"}, "no setting for HEADWATER_ZEBRA. Remove it."),
        (
            {"HEADWATER_WORKER": '{"port": "x"}'},
            'HEADWATER_WORKER: worker.port is "x", must be a whole number',
        ),
    ],
)
def test_a_wrong_variable_is_named(environ, said) -> None:
    assert refused(**environ) == said


def test_a_wrong_flag_is_named() -> None:
    said = refused(flags={"--worker-id": ("worker.id", "a/b")}, HEADWATER_WORKER__ID="fine")
    assert said.startswith('--worker-id: worker.id is "a/b", must begin with')


def test_a_variable_that_is_not_json_is_named_without_its_text() -> None:
    said = refused(HEADWATER_KAFKA__CONFIG=f"sasl.password={PASSWORD}")
    assert said.startswith("HEADWATER_KAFKA__CONFIG is not JSON (")
    assert PASSWORD not in said


def test_a_wrong_secret_is_told_without_its_text() -> None:
    said = refused(f'[kafka.config]\n"sasl.password" = ["{PASSWORD}"]')
    assert '"sasl.password" must be a text' in said
    assert PASSWORD not in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[worker", "headwater.toml is not TOML: "),
        (b'namespace = "\xff"', "headwater.toml is not UTF-8; save it as that"),
    ],
)
def test_a_file_that_is_no_toml_is_named(folder, content, said) -> None:
    (folder / "headwater.toml").write_bytes(content)
    assert refused().startswith(said)


def test_a_named_file_must_be_there() -> None:
    assert refused(HEADWATER_CONFIG="no.toml") == (
        "no file no.toml, which HEADWATER_CONFIG names; give a TOML file that is there"
    )
    with pytest.raises(ConfigError, match=r"no file no\.toml, which --config names"):
        load_config(Path("no.toml"), environ={})


def test_the_links_that_kubernetes_sets_are_not_settings() -> None:
    environ = {
        "HEADWATER_PORT": "tcp://10.0.0.1:6566",
        "HEADWATER_SERVICE_HOST": "10.0.0.1",
        "HEADWATER_SERVICE_PORT_GRPC": "6566",
        "HEADWATER_WORKER_PORT_6566_TCP_ADDR": "10.0.0.1",
        "HEADWATER_WORKER_PORT": "tcp://10.0.0.1:6566",
    }
    assert load_config(environ=environ) == Config()


@pytest.mark.parametrize(
    ("worker", "slot", "address"),
    [
        ({}, None, "127.0.0.1:6566"),
        ({}, 2, "127.0.0.1:6568"),
        ({"advertise": "w.example.com:7000"}, None, "w.example.com:7000"),
        ({"advertise": "w.example.com:7000"}, 1, "w.example.com:7001"),
        ({"host": "0.0.0.0"}, None, f"{socket.gethostname()}:6566"),
        ({"host": "::1"}, None, "[::1]:6566"),
    ],
)
def test_a_worker_is_reached_at(worker, slot, address) -> None:
    config = Config.model_validate({"worker": {"processes": 4, **worker}})
    assert config.worker.address_of(slot) == address


def test_slots_have_names_and_ports_of_their_own() -> None:
    worker = Config.model_validate({"worker": {"id": "w", "metrics_port": 0}}).worker
    assert [worker.id_of(slot) for slot in (None, 0, 1)] == ["w", "w-0", "w-1"]
    assert [worker.port_of(slot) for slot in (None, 0, 1)] == [6566, 6566, 6567]
    # Any free port is what each of them asks for.
    assert worker.metrics_port_of(1) == 0
    assert worker.address_of(1, 50_001) == "127.0.0.1:50001"


def test_a_client_talks_to_its_target_or_to_the_worker_configured_here() -> None:
    assert Config.model_validate({"worker": {"port": 7000}}).target == "127.0.0.1:7000"
    config = Config.model_validate({"worker": {"port": 7000}, "client": {"target": "a:1"}})
    assert config.target == "a:1"


def test_connect_without_a_target_takes_it_from_the_configuration(monkeypatch) -> None:
    import headwater as hw

    monkeypatch.setenv("HEADWATER_CLIENT__TARGET", "127.0.0.1:7007")
    with hw.connect() as store:
        assert store.client.target == "127.0.0.1:7007"
    with hw.connect("127.0.0.1:7008") as store:
        assert store.client.target == "127.0.0.1:7008"


def test_a_line_is_found_however_the_key_is_written() -> None:
    text = "[a]\nx = 1\n\n[ kafka . config ]  # c\n\"a.b\" = 1\nc.d = 2\n'e'=3\n[b]\nt = {u = 1}\n"
    assert line_of(text, ("a", "x")) == 2
    assert line_of(text, ("kafka", "config", "a.b")) == 5
    assert line_of(text, ("kafka", "config", "c.d")) == 6
    assert line_of(text, ("kafka", "config", "e")) == 7
    assert line_of(text, ("kafka", "config", "none")) == 4
    assert line_of(text, ("b", "t", "u")) == 9
    assert line_of(text, ("nowhere",)) is None


def test_places_are_folders_or_urls_of_object_stores() -> None:
    environ = {"HEADWATER_WORKER__ARCHIVE": "s3://shop/archive"}
    worker = load_config(
        environ=environ, flags={"--checkpoints": ("worker.checkpoints", "c")}
    ).worker
    assert worker.archive == "s3://shop/archive"
    assert worker.checkpoints == Path("c")
    said = refused('[worker]\narchive = "http://shop/archive"')
    assert said == (
        'headwater.toml, line 2: worker.archive is "http://shop/archive", must be a folder, or a'
        " URL that begins with s3://, gs://, az://"
    )


def test_options_of_an_object_store_come_from_the_file_and_from_variables_together() -> None:
    Path("headwater.toml").write_text(
        '[object_store]\nendpoint = "http://a"\nclient.timeout = "9s"\n"retry.max_retries" = 3\n'
        "virtual_hosted_style_request = false\n",
        encoding="utf-8",
    )
    environ = {
        "HEADWATER_OBJECT_STORE__SECRET_ACCESS_KEY": PASSWORD,
        "HEADWATER_OBJECT_STORE__CLIENT__TIMEOUT": "8s",
    }
    config = load_config(environ=environ)
    assert config.object_store == {
        "endpoint": "http://a",
        "client.timeout": "8s",
        "retry.max_retries": "3",
        "virtual_hosted_style_request": "false",
        "secret_access_key": PASSWORD,
    }
    for shown in (repr(config), str(config)):
        assert PASSWORD not in shown
        assert "http://a" in shown


@pytest.mark.parametrize(
    "key", ["secret_access_key", "account_key", "sas_key", "service_account_key", "session_token"]
)
def test_keys_of_object_stores_are_secrets(key) -> None:
    config = Config(object_store={key: PASSWORD, "access_key_id": "someone"})
    assert PASSWORD not in repr(config)
    assert "someone" in repr(config)
    said = refused(f'[object_store]\n{key} = ["{PASSWORD}"]')
    assert said.startswith("headwater.toml, line 1: object_store")
