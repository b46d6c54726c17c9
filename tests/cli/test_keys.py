"""API keys by command, and a server that asks for them."""

from __future__ import annotations

import httpx


def test_keys_are_created_listed_and_revoked(tmp_path, face_server):
    """The secret is shown once and stored nowhere; a revoked key is gone."""
    made = face_server("keys", "create", "--role", "operate", "--label", "gate", "--data", tmp_path, "--json").json
    listed = face_server("keys", "list", "--data", tmp_path, "--json")
    assert [(one["id"], one["role"], one["label"]) for one in listed.json] == [(made["id"], "operate", "gate")]
    assert made["secret"] not in listed.out
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert made["secret"].encode() not in stored
    assert face_server("keys", "revoke", made["id"], "--data", tmp_path).code == 0
    assert face_server("keys", "list", "--data", tmp_path, "--json").json == []
    again = face_server("keys", "revoke", made["id"], "--data", tmp_path)
    assert (again.code, len(again.err.splitlines())) == (2, 1)


def test_the_secret_alone_is_on_stdout(tmp_path, face_server):
    """KEY=$(face-server keys create --role read) works in a script."""
    ended = face_server("keys", "create", "--role", "read", "--expires-days", "30", "--data", tmp_path)
    assert len(ended.out.splitlines()) == 1
    assert " " not in ended.out.strip()


def test_a_server_with_keys_asks_for_them(data, face_server, server_with):
    """Once a key exists, even loopback needs one; roles hold."""
    secret = face_server("keys", "create", "--role", "read", "--data", data).out.strip()
    address = server_with("--host", "0.0.0.0").address
    assert httpx.get(f"{address}/v1/collections").status_code == 401
    assert httpx.get(f"{address}/v1/collections", headers={"x-api-key": secret}).status_code == 200
    assert httpx.post(f"{address}/v1/collections", json={"name": "x"}, headers={"authorization": f"Bearer {secret}"}).status_code == 403
