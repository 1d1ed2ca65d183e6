"""Where `serve` listens and who may ask it, as settings: `host:port`, tokens, files with tokens."""

from __future__ import annotations

import os

import pytest

from embed_assets.access import Address, read_tokens
from embed_assets.errors import ConfigurationError
from embed_assets.settings import Settings, forget_secrets

SECRET = "a-secret-0123456789"


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000, True),
        ("127.8.9.1:1", "127.8.9.1", 1, True),
        ("localhost:0", "localhost", 0, True),
        ("[::1]:65535", "::1", 65535, True),
        ("0.0.0.0:80", "0.0.0.0", 80, False),
        ("[::]:80", "::", 80, False),
        ("music-box.lan:80", "music-box.lan", 80, False),
        ("localhost.example.com:80", "localhost.example.com", 80, False),
    ],
)
def test_an_address_is_a_host_and_a_port(text, host, port, loopback):
    address = Address.parse(text)
    assert address == Address(host, port)
    assert address.is_loopback is loopback
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("foo", "host:port"),
        ("8000", "host:port"),
        (":8000", "host:port"),
        ("127.0.0.1:", "host:port"),
        ("127.0.0.1:http", "host:port"),
        ("http://127.0.0.1:80", "host:port"),
        ("user@host:80", "host:port"),
        ("127.0.0.1:65536", "65535"),
        ("127.0.0.1:-1", "host:port"),
        ("::1:80", "[::1]:8000"),
        ("[no]:80", "[::1]:8000"),
    ],
)
def test_another_value_is_refused_with_the_name_of_the_setting(monkeypatch, text, why):
    monkeypatch.setenv("EMBED_HTTP", text)
    with pytest.raises(ConfigurationError, match="EMBED_HTTP=") as refused:
        Settings.load()
    assert why in str(refused.value)


def test_other_machines_need_a_token_of_either_kind(monkeypatch):
    monkeypatch.setenv("EMBED_HTTP", "0.0.0.0:8000")
    with pytest.raises(ConfigurationError, match=r"EMBED_HTTP=0.0.0.0:8000.*EMBED_HTTP_TOKEN"):
        Settings.load().require_http()
    monkeypatch.setenv("EMBED_HTTP_READ_TOKEN", SECRET)
    Settings.load().require_http()
    monkeypatch.delenv("EMBED_HTTP_READ_TOKEN")
    monkeypatch.setenv("EMBED_HTTP_TOKEN", SECRET)
    Settings.load().require_http()


def test_a_token_can_be_in_a_file(monkeypatch, tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    for name in ("EMBED_HTTP_TOKEN_FILE", "EMBED_HTTP_READ_TOKEN_FILE"):
        monkeypatch.setenv(name, "token")  # from the folder where the command was started
        tokens = Settings.load().http_tokens()
        assert (tokens.full, tokens.read) == ((SECRET, "") if "READ" not in name else ("", SECRET))
        assert SECRET not in repr(tokens)
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"", "empty"),
        (b" \n\n", "empty"),
        (f"{SECRET}\nand another line".encode(), "one line"),
        (f"{SECRET}\0".encode(), "ASCII"),
        (f"{SECRET}é".encode(), "ASCII"),
        (SECRET.encode() * 1000, "is it the file"),
    ],
)
def test_a_file_without_a_usable_token_is_refused_and_its_content_not_shown(tmp_path, content, why):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"EMBED_HTTP_TOKEN_FILE={file}") as refused:
        read_tokens("", file, "", None)
    assert why in str(refused.value)
    assert SECRET not in str(refused.value)


def test_tokens_that_contradict_each_other_are_refused(tmp_path):
    file = tmp_path / "token"
    file.write_text(SECRET)
    with pytest.raises(ConfigurationError, match="EMBED_HTTP_READ_TOKEN_FILE are both set") as two:
        read_tokens("", None, "another", file)
    with pytest.raises(ConfigurationError, match="same as EMBED_HTTP_TOKEN") as equal:
        read_tokens(SECRET, None, "", file)
    for refused in (two, equal):
        assert SECRET not in str(refused.value)


def test_tokens_reach_no_process_but_the_one_that_serves(monkeypatch, tmp_path):
    given = {
        "EMBED_HTTP": "127.0.0.1:8000",
        "EMBED_HTTP_TOKEN": SECRET,
        "embed_http_read_token": f"{SECRET}-r",
        "EMBED_SERVER_ND_PASSWORD": f"{SECRET}-p",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load(library=tmp_path, servers="nd=navidrome+http://host")
    assert not [name for name in settings.environment() if "HTTP" in name or "SERVER_" in name]
    assert settings.http_environment() == {name.upper(): value for name, value in given.items()}
    assert settings.music_servers()[0].password == f"{SECRET}-p"
    assert not settings.without_http().http_tokens()
    assert settings.without_http().music_servers()[0].password == ""
    assert settings.without_http().library == tmp_path
    assert SECRET not in repr(settings)
    forget_secrets()
    assert not Settings.load().http_tokens()
    assert "EMBED_SERVER_ND_PASSWORD" not in os.environ
