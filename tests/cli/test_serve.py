"""`silva serve`: flags become settings, mistakes one line. Nothing is served here."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from calls import done, refused, silva

from silva.errors import ModelError, ServingError
from silva.models.model_cache import ModelCache, Origin
from silva.serving import launch as launching
from silva.serving.api.serve import listen
from silva.serving.launch import LaunchConfig

MIB = 1 << 20


class Launched:
    """What the command would have launched."""

    config: LaunchConfig
    model: Path
    during: Callable[[], None] = staticmethod(lambda: None)
    """Called while it would serve."""


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launched:
    found = Launched()

    def launch(
        config: LaunchConfig, model: AbstractContextManager[Path], announce: Any, joining: Any
    ) -> None:
        with model as found.model:
            found.config = config
            announce("http://127.0.0.1:4711")
            found.during()

    monkeypatch.setattr(launching, "launch", launch)
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory that counts as a model whose weights need no conversion."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def no_conversion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SILVA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("silva.models.convert.needs_conversion", lambda path, dtype: False)


def test_without_flags_the_defaults_are_served(launched: Launched, model: Path) -> None:
    assert done("serve", model) == "silva: serving at http://127.0.0.1:4711/v1\n"
    assert launched.config == LaunchConfig(model=str(model))
    assert launched.model == model


def test_a_model_of_the_cache_is_not_given_up_while_it_is_served(launched: Launched) -> None:
    cache = ModelCache()
    origin = Origin("tiny", "", "", "float32")
    folder = cache.put("tiny", origin, 1, lambda place: (place / "config.json").write_text("{}"))
    removed: list[bool] = []
    launched.during = lambda: removed.append(cache.remove("tiny"))
    done("serve", folder)
    assert removed == [False] and folder.is_dir()
    assert cache.remove("tiny") and not folder.is_dir()


def test_flags_become_settings(launched: Launched, model: Path, tmp_path: Path) -> None:
    words = ["--prefill", 2, "--decode", 3, "--cache", 0, "--dtype", "bfloat16"]
    words += ["--cache-ram", "256MiB", "--cache-disk", "0", "--kv", "2GB", "--tpot-target", "50ms"]
    words += ["--transfer", "tcp", "--host", "0.0.0.0", "--port", 0, "--name", "mine", "--no-mtp"]
    words += ["--ep", 4, "--prefill-ep", 2, "--wire", "int8"]
    words += ["--forest", tmp_path / "forest", "--unknown-client", "root"]
    words += ["--api-key", "alice=secret-of-alice", "--api-key", "bob=secret-of-bob"]
    words += ["--admin-key", "root=secret-of-root", "--keys", tmp_path / "keys.toml"]
    done("serve", model, *words)
    config, serve, http = launched.config, launched.config.serve, launched.config.http
    pools = serve.pools
    assert (pools.prefill, pools.decode, pools.cache) == (2, 3, 0)
    assert (serve.kv.cache_ram_bytes, serve.kv.cache_disk_bytes) == (256 * MIB, 0)
    assert (serve.kv.peer_bytes, serve.step.tpot_target_s) == (2 * 10**9, 0.05)
    assert (serve.transfer, serve.dtype, serve.colocated) == ("tcp", "bfloat16", False)
    assert not serve.mtp and LaunchConfig().serve.mtp
    experts = serve.experts
    assert (experts.ranks, experts.prefill_ranks, experts.wire) == (4, 2, "int8")
    assert (serve.forest, serve.unknown_client) == (str(tmp_path / "forest"), "root")
    assert (http.host, http.port, config.name) == ("0.0.0.0", 0, "mine")
    assert http.api_keys == ("alice=secret-of-alice", "bob=secret-of-bob")
    assert (http.admin_keys, http.keys) == (
        ("root=secret-of-root",),
        str(tmp_path / "keys.toml"),
    )


def test_flags_override_the_file_and_sets_override_both(
    launched: Launched, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(
        f'model = "{model}"\nserve.colocated = true\nserve.grace_s = 7\n'
        "serve.pools.decode = 4\nhttp.limits.max_choices = 3\nhttp.port = 8001\n"
    )
    words = ["--config", file, "--port", 8002, "--prefill", 2, "--set", "serve.pools.prefill=5"]
    done("serve", *words)
    serve, http = launched.config.serve, launched.config.http
    assert launched.model == model
    assert serve.colocated and serve.grace_s == 7
    assert (serve.pools.prefill, serve.pools.decode, serve.pools.cache) == (5, 4, 1)
    assert (http.limits.max_choices, http.port) == (3, 8002)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cache-ram", "1GiBB"], "--cache-ram: '1GiBB' is no size; write 512MiB or 2GB"),
        (["--kv", "much"], "--kv: 'much' is not a size"),
        (["--tpot-target", "50kg"], "--tpot-target: '50kg' is no time; write 50ms or 2s"),
        (["--prefill", "0"], "prefill"),
        (["--ep", "0"], "ranks"),
        (["--prefill-ep", "0"], "prefill_ranks"),
        (["--wire", "pigeon"], "wire"),
        (["--unknown-client", "guess"], "unknown_client"),
        (["--transfer", "pigeon"], "transfer"),
        (["--dtype", "float8"], "dtype"),
        (["--set", "serve.kernels=cuda"], "kernels"),
        (["--port", "70000"], "port"),
        (["--set", "serve.kv.blocks=3"], "blocks"),
        (["--set", "nothing"], "'nothing' is no setting"),
        (["--config", "missing.toml"], "missing.toml"),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(
    launched: Launched, model: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    assert said in refused(tmp_path, "serve", model, *words)
    assert not hasattr(launched, "config")


def test_an_unknown_model_is_named(launched: Launched, tmp_path: Path) -> None:
    line = refused(tmp_path, "serve", "no-such-model")
    assert "no model 'no-such-model'; give smollm2" in line
    assert not hasattr(launched, "config")


def test_a_port_in_use_is_found_before_a_model_is_looked_for(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(tmp_path, "serve", "no-such-model", "--port", port)
    assert f"127.0.0.1:{port}: the port is in use; stop the server that has it" in line


class Closing:
    """Whatever a server holds, and says when it was given back."""

    def __init__(self, name: str, closed: list[str]) -> None:
        self._name, self._closed = name, closed

    def close(self) -> None:
        self._closed.append(self._name)


class Doomed(Closing):
    """A backend that cannot be opened."""

    async def open(self) -> None:
        raise ServingError("no folder for sockets can be made", remedy="free space there")

    async def close(self, grace_s: float) -> None:  # type: ignore[override]
        assert grace_s == 0
        super().close()


@pytest.mark.parametrize("fails", ["text", "backend", "app", "open"])
def test_all_is_given_back_when_the_server_cannot_start(
    monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path, fails: str
) -> None:
    closed: list[str] = []
    socks: list[socket.socket] = []

    def listening(host: str, port: int) -> socket.socket:
        socks.append(listen(host, port))
        return socks[0]

    def made(name: str, thing: object) -> object:
        if fails == name:
            raise ModelError("is damaged", remedy="give another")
        return thing

    monkeypatch.setattr(launching, "listen", listening)
    monkeypatch.setattr(launching, "load_text", lambda _: made("text", Closing("text", closed)))
    monkeypatch.setattr(
        launching, "make_backend", lambda *_: made("backend", Doomed("backend", closed))
    )
    monkeypatch.setattr(launching, "create_app", lambda *_, **__: made("app", None))
    refused(tmp_path, "serve", model, "--port", 0)
    expected = {"text": [], "backend": ["text"], "app": ["text"], "open": ["backend", "text"]}
    assert closed == expected[fails]
    assert socks[0].fileno() == -1


def test_a_folder_that_is_no_model_is_refused(model: Path, tmp_path: Path) -> None:
    assert "no config.json here" in refused(tmp_path, "serve", model, "--port", 0)


def test_a_wrong_api_key_is_refused_without_showing_it(model: Path, tmp_path: Path) -> None:
    line = refused(tmp_path, "serve", model, "--api-key", "alice=short")
    assert "--api-key: the key is too short" in line and "=short" not in line
    assert "an API key needs a name" in refused(tmp_path, "serve", model, "--admin-key", "secret-x")


def test_help_names_every_flag() -> None:
    result = silva("serve", "--help")
    assert result.exit_code == 0
    assert "--tpot-target" in result.stdout and "--colocated" in result.stdout
