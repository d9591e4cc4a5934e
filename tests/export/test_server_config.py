"""The embedded server's configuration: files, flags, version policies, labels, reloads."""

import contextlib
import logging
import pathlib
import shutil
import signal
import threading
import time

import grpc
import pytest
from absl import flags
from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import (
    model_management_pb2,
)
from toy_server import Client, refused, until

from export.server import Loader, Manager, ServedModel, ServingError
from export.server.config_files import MonitoringConfigProto, read_text_proto
from export.server.flags import channel_arguments, parse
from export.server.models.config import ModelServerConfig, models_of
from export.server.program import main, make_server, poll_config_file, version_text

pytestmark = pytest.mark.timeout(120)


def config(*models: str) -> ModelServerConfig:
    entries = "".join(f"config {{ model_platform: 'tensorflow' {model} }}" for model in models)
    return text_format.Parse(f"model_config_list {{ {entries} }}", ModelServerConfig())


def entry(base: pathlib.Path, more: str = "", name: str = "m") -> str:
    return f"name: '{name}' base_path: '{base}' {more}"


ALL = "model_version_policy { all {} }"


@contextlib.contextmanager
def started(*arguments: str):
    values, unknown = parse(
        ["server", "--port=0", "--file_system_poll_wait_seconds=0.05", *arguments]
    )
    assert not unknown
    with make_server(values) as server:
        yield server, Client(server)


# --- policies, labels, reloads


def test_policies_and_labels_follow_each_reload(versions):
    with started("--model_name=m", f"--model_base_path={versions}") as (_, client):
        assert client.states() == {3: "AVAILABLE"}

        client.reload(config(entry(versions, ALL)))
        until(lambda: client.states() == dict.fromkeys((3, 2, 1), "AVAILABLE"))
        labels = "version_labels { key: 'old' value: 1 } version_labels { key: 'new' value: 3 }"
        client.reload(config(entry(versions, f"{ALL} {labels}")))
        assert (client.added("old"), client.added("new"), client.added()) == (1, 3, 3)

        # To a version that is not there: refused, and nothing changes.
        gone = config(entry(versions, f"{ALL} version_labels {{ key: 'old' value: 9 }}"))
        assert refused(client.reload, gone)[0] == "FAILED_PRECONDITION"
        assert (client.added("old"), client.added("new")) == (1, 3)

        moved = "version_labels { key: 'old' value: 2 }"
        client.reload(config(entry(versions, f"{ALL} {moved}")))
        assert client.added("old") == 2
        message = "Unrecognized servable version label: new"
        assert refused(client.added, "new") == ("INVALID_ARGUMENT", message)

        # The label stays when its version goes: asking by it says which version is not served.
        specific = f"model_version_policy {{ specific {{ versions: 2 versions: 7 }} }} {moved}"
        client.reload(config(entry(versions, specific)))
        until(lambda: client.states() == {3: "END", 2: "AVAILABLE", 1: "END"})
        assert client.added("old") == 2
        two = "model_version_policy { latest { num_versions: 2 } }"
        client.reload(config(entry(versions, two)))
        until(lambda: client.states() == {3: "AVAILABLE", 2: "AVAILABLE", 1: "END"})
        client.reload(config(entry(versions, "model_version_policy { latest {} }")))
        until(lambda: client.states() == {3: "AVAILABLE", 2: "END", 1: "END"})


def test_labels_before_the_start(versions, tmp_path):
    file = tmp_path / "models.config"
    file.write_text(str(config(entry(versions, "version_labels { key: 'a' value: 3 }"))))
    with pytest.raises(ServingError, match="version 3 of model m, which is not currently"):
        make_server(parse(["server", "--port=0", f"--model_config_file={file}"])[0]).start()
    arguments = "--allow_version_labels_for_unavailable_models", f"--model_config_file={file}"
    with started(*arguments) as (_, client):
        assert client.added("a") == 3
        # A new label may point to what is not there; one that exists may not move there.
        labels = "version_labels { key: 'a' value: 3 } version_labels { key: 'b' value: 8 }"
        client.reload(config(entry(versions, labels)))
        message = "Servable not found for request: Specific(m, 8)"
        assert refused(client.added, "b") == ("NOT_FOUND", message)
        moved = config(entry(versions, "version_labels { key: 'a' value: 8 }"))
        assert refused(client.reload, moved)[0] == "FAILED_PRECONDITION"


def test_models_come_and_go_while_others_serve(versions, tmp_path):
    broken = tmp_path / "broken" / "1"
    broken.mkdir(parents=True)
    arguments = "--max_num_load_retries=0", "--model_name=m", f"--model_base_path={versions}"
    with started(*arguments) as (_, client):
        kept, added = entry(versions), entry(versions, name="other")
        client.reload(config(kept, added))
        assert client.added(name="other") == 3  # the reload waited until it could be asked
        code, message = refused(
            client.reload, config(kept, added, entry(broken.parent, name="broken"))
        )
        assert code == "UNKNOWN"
        assert message.startswith("1 model(s) did not become available: {{{name: broken version: 1")
        assert client.states("broken") == {1: "END"}
        # It stays given up until it goes away and comes back.
        client.reload(config(kept))
        until(lambda: client.states("other") == {3: "END"})
        shutil.copytree(versions / "1", broken, dirs_exist_ok=True)
        client.reload(config(kept, entry(broken.parent, name="broken")))
        assert client.added(name="broken") == 1


def test_reload_that_waits_ends_with_its_client_and_with_the_server(versions, tmp_path, caplog):
    with started("--model_name=m", f"--model_base_path={versions}") as (server, client):
        waiting = config(entry(versions), entry(tmp_path / "later", name="later"))
        assert refused(client.reload, waiting, timeout=0.3)[0] == "DEADLINE_EXCEEDED"
        assert client.added() == 3
        client.reload(config(entry(versions)))  # no longer waits for that model
        shutil.copytree(versions / "2", tmp_path / "later" / "2")
        client.reload(waiting)
        assert client.states("later") == {2: "AVAILABLE"}
        hanging = config(entry(versions), entry(tmp_path / "never", name="never"))
        call = client.models.HandleReloadConfigRequest.future(
            model_management_pb2.ReloadConfigRequest(config=hanging), timeout=20
        )
        until(lambda: f"{tmp_path / 'never'}, which does not exist" in caplog.text)
        begin = time.monotonic()
        assert server.manager.stop()
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - begin < 10


def test_names_and_labels_lead_nowhere(versions):
    with started("--model_name=m", f"--model_base_path={versions}") as (_, client):
        for name in ("../m", "/m", "m/1", "m/../../etc", "..", "m\0"):
            message = f"Servable not found for request: Latest({name})"
            assert refused(client.added, name=name) == ("NOT_FOUND", message)
            message = f"Unrecognized servable version label: {name}"
            assert refused(client.added, name) == ("INVALID_ARGUMENT", message)


def test_only_folders_named_by_a_number_are_versions(versions, tmp_path):
    shutil.copytree(versions / "1", tmp_path / "1")
    for name in ("-2", "+3", "4 ", "1e1", "0x5", "٦", "9" * 30, "tmp-7"):
        shutil.copytree(versions / "2", tmp_path / name)
    shutil.copytree(versions / "2", tmp_path / "outside" / "8")
    all_versions = config(entry(tmp_path, ALL))
    (models,) = models_of(all_versions)
    with started("--model_name=m", f"--model_base_path={tmp_path}") as (_, client):
        client.reload(all_versions)
        assert client.states() == {1: "AVAILABLE"}
    assert list(models.policy([1, 2])) == [1, 2]


# --- files and flags


def test_config_file_is_polled(versions, tmp_path, caplog):
    file = tmp_path / "models.config"
    file.write_text(str(config(entry(versions))))
    with started(f"--model_config_file={file}") as (server, client):
        stopping = threading.Event()
        arguments = str(file), server.manager, 0.05, stopping
        poller = threading.Thread(target=poll_config_file, args=arguments)
        poller.start()
        try:
            file.write_text(str(config(entry(versions), entry(versions, name="b"))))
            until(lambda: ("b", 3) in server.manager.available_versions())
            with caplog.at_level(logging.ERROR):
                file.write_text("garbage {")
                until(lambda: f"Invalid protobuf file: '{file}'" in caplog.text)
            assert client.added(name="b") == 3
            file.write_text(str(config(entry(versions, ALL))))
            until(lambda: client.states("b") == {3: "END"} and len(client.states()) == 3)
            file.write_text("# an empty one changes nothing")
            time.sleep(0.2)
            assert client.added() == 3
        finally:
            stopping.set()
            poller.join()


def test_text_protos_that_do_not_parse_name_the_file(tmp_path, caplog):
    file = tmp_path / "monitoring.config"
    with pytest.raises(ServingError, match=f"NOT_FOUND: {file}; No such file or directory"):
        read_text_proto(str(file), MonitoringConfigProto)
    for content in (b"", b"nope: 1", b"prometheus_config: 1", b"\xff\xfe", b"prometheus_config {"):
        file.write_bytes(content)
        with pytest.raises(ServingError, match=str(file)) as caught:
            read_text_proto(str(file), MonitoringConfigProto)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "tensorflow.serving.MonitoringConfig" in caplog.text
    file.write_text("prometheus_config { enable: true path: '/m' }")
    assert read_text_proto(str(file), MonitoringConfigProto).prometheus_config.path == "/m"


def test_config_without_a_list_changes_nothing(versions, tmp_path):
    file = tmp_path / "models.config"
    file.write_text("# nothing yet\n")
    with started(f"--model_config_file={file}") as (_, client):
        assert refused(client.states)[0] == "NOT_FOUND"
        client.reload(config(entry(versions)))
        assert client.added() == 3
        custom = ModelServerConfig()
        custom.custom_model_config.SetInParent()
        with pytest.raises(ServingError, match="custom_model_config is not supported"):
            models_of(custom)
        other = config("name: 'm' base_path: '/m'")
        other.model_config_list.config[0].ClearField("model_platform")
        other.model_config_list.config[0].model_type = 2
        with pytest.raises(ServingError, match="to OTHER, model name is m"):
            models_of(other)


def test_flags_and_what_is_none_of_them():
    values, unknown = parse(["server", "--nosuchflag=1", "--port=7", "stray", "--model_name=n"])
    assert (values.port, values.model_name) == (7, "n")
    assert unknown == ["--nosuchflag=1", "stray"]
    for wrong in ("--port=x", "--port=-1", "--port=70000", "--grpc_max_threads=0"):
        with pytest.raises(flags.Error, match=wrong.split("=")[0].strip("-")):
            parse(["server", wrong])
    assert parse(["server", "--enable_batching=true"])[0].enable_batching
    assert not parse(["server", "--enable_batching=false"])[0].enable_batching
    assert "TensorFlow Library: 2." in version_text()
    assert channel_arguments("a=1,b=x=y,,c=-2") == {"a": 1, "b": "x=y", "c": -2}
    with pytest.raises(ValueError, match="'nothing' is not name=value"):
        channel_arguments("nothing")


# Every flag of tensorflow_model_server 2.19 to 2.22, each with a value that the real one takes.
_REAL_FLAGS = """
    --port=8500 --grpc_socket_path=/tmp/s --rest_api_port=8501 --rest_api_num_threads=8
    --rest_api_timeout_in_ms=30000 --rest_api_enable_cors_support=false --enable_batching=false
    --allow_version_labels_for_unavailable_models --batching_parameters_file=
    --enable_per_model_batching_parameters=false --model_config_file=
    --model_config_file_poll_wait_seconds=-1 --model_name=m --model_base_path=/m
    --num_load_threads=2 --num_unload_threads=2 --max_num_load_retries=5
    --load_retry_interval_micros=-1 --file_system_poll_wait_seconds=-1
    --flush_filesystem_caches=true --tensorflow_session_parallelism=0
    --tensorflow_session_config_file= --tensorflow_intra_op_parallelism=2
    --tensorflow_inter_op_parallelism=3 --use_alts_credentials=false --ssl_config_file=
    --platform_config_file= --per_process_gpu_memory_fraction=0.5 --saved_model_tags=serve
    --grpc_channel_arguments=grpc.max_connection_age_ms=2000 --grpc_max_threads=8
    --enable_model_warmup=true --num_request_iterations_for_warmup=0 --version=false
    --monitoring_config_file= --remove_unused_fields_from_bundle_metagraph=true
    --prefer_tflite_model=false --num_tflite_pools=2 --num_tflite_interpreters_per_pool=1
    --enable_signature_method_name_check=false --xla_cpu_compilation_enabled=false
    --xla_gpu_compilation_enabled=true --noenable_profiler --thread_pool_factory_config_file=
    --mixed_precision=bfloat16 --skip_initialize_tpu --enable_grpc_healthcheck_service=false
    --enable_serialization_as_tensor_content=false
"""


def test_start_lines_of_the_real_server_start_this_one(monkeypatch, tmp_path, caplog):
    asked = {}
    monkeypatch.setattr("export.server.program.Server", lambda *_, **options: asked.update(options))
    with caplog.at_level(logging.WARNING):
        values, unknown = parse(["server", *_REAL_FLAGS.split()])
    assert unknown == []
    told = [line for line in caplog.messages if line.endswith("has no effect on this server")]
    assert len(told) == 11
    assert "--mixed_precision has no effect on this server" in told
    make_server(values)
    config = asked["loader"].session_config
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (2, 3)
    assert config.gpu_options.per_process_gpu_memory_fraction == 0.5
    assert asked["loader"].compiles
    assert asked["loader"].warm_up_iterations == 1
    assert asked["retries"].seconds < 0
    assert (asked["load_threads"], asked["unload_threads"]) == (2, 2)
    assert asked["poll_wait_seconds"] == 0
    file = tmp_path / "session.config"
    file.write_text("intra_op_parallelism_threads: 5 inter_op_parallelism_threads: 6")

    def threads(*arguments):
        flag = f"--tensorflow_session_config_file={file}"
        make_server(parse(["server", "--model_base_path=/m", flag, *arguments])[0])
        config = asked["loader"].session_config
        return config.intra_op_parallelism_threads, config.inter_op_parallelism_threads

    assert threads() == (5, 6)
    assert threads("--tensorflow_session_parallelism=4") == (4, 4)
    assert threads("--tensorflow_intra_op_parallelism=7") == (7, 6)
    with pytest.raises(ServingError, match="You cannot configure all"):
        threads(
            *(f"--tensorflow_{kind}_parallelism=2" for kind in ("session", "intra_op", "inter_op"))
        )
    file.write_text("threads: 5")
    with pytest.raises(ServingError, match="Invalid protobuf file"):
        threads()


def test_sessions_are_configured(versions):
    config = config_pb2.ConfigProto(device_count={"CPU": 3})
    servable, _ = Loader(session_config=config).load("m", 1, str(versions / "1"))
    assert len(servable._session.list_devices()) == 3
    servable.close()


def test_a_configuration_that_does_not_parse_ends_the_server(tmp_path, capsys, caplog):
    file = tmp_path / "models.config"
    file.write_text("this is no config")
    numbers = signal.SIGTERM, signal.SIGINT
    before = [signal.getsignal(number) for number in numbers]
    try:
        with caplog.at_level(logging.ERROR), pytest.raises(SystemExit) as ended:
            main(["server", f"--model_config_file={file}"], "")
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
    assert ended.value.code == 255
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig: " in caplog.text
    assert capsys.readouterr().out.startswith("Failed to start server. Error: INVALID_ARGUMENT: ")


@pytest.mark.parametrize("flag", ["--help", "--helpfull"])
def test_help_lists_the_flags(flag, capsys):
    main(["server", flag], "how it is called")
    text = capsys.readouterr().out
    assert text.startswith("how it is called\n")
    assert "--tensorflow_session_parallelism:" in text
    assert ("--verbosity:" in text) == (flag == "--helpfull")


def test_risks_are_told_at_the_start(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr("export.server.program.Server", lambda *_, **options: options)
    monkeypatch.setattr("export.server.program.read_credentials", lambda path: path)

    def told(*arguments):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            make_server(parse(["server", "--model_base_path=/m", *arguments])[0])
        return [word in caplog.text for word in ("WriteFile", "allow_reload_over_grpc", "no TLS")]

    assert told("--rest_api_port=8501") == [True, True, False]
    assert told("--noallow_reload_over_grpc") == [True, False, False]
    assert told("--ssl_config_file=/x") == [True, True, False]
    assert told("--ssl_config_file=/x", "--rest_api_port=8501") == [True, True, True]


def test_reloads_over_grpc_can_be_refused(versions):
    with started(
        f"--model_base_path={versions}", "--model_name=m", "--noallow_reload_over_grpc"
    ) as (server, client):
        code, message = refused(client.reload, config(entry(versions, name="n")))
        assert code == "PERMISSION_DENIED"
        assert "--noallow_reload_over_grpc" in message
        assert client.added() == 3
        server.manager.reload(models_of(config(entry(versions, name="n"))))  # from here it is taken
        assert client.added(name="n") == 3


def test_flags_that_need_each_other(tmp_path, caplog):
    def start(*arguments):
        return make_server(parse(["server", "--model_base_path=/m", *arguments])[0])

    with pytest.raises(ServingError, match="batching_parameters_file is set without"):
        start("--batching_parameters_file=/x")
    with pytest.raises(ServingError, match="enable_per_model_batching_params is set without"):
        start("--enable_per_model_batching_parameters")
    start("--port=7001", "--rest_api_port=7001")
    assert "http_port cannot be same as grpc_port" in caplog.text
    with pytest.raises(ServingError, match="NOT_FOUND"):
        start("--monitoring_config_file=/no/such/file")


def test_no_name_adds_a_line_to_the_log(versions, caplog):
    """In a program of one's own, too, which knows nothing of the filter."""
    name = "a\nE0101 x\x1b\u2028"
    manager = Manager([ServedModel(name, str(versions / "missing"))])
    manager.start()
    until(lambda: "no versions of model a\\nE0101 x\\x1b\\u2028 found" in caplog.text)
    manager.stop()
