"""Which cameras may be named, and how their addresses are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from face_server.errors import InvalidInput, SourceFailed
from face_server.video.camera_addresses import check_addresses, check_source_url, local_file, redact_url, resolve_and_check
from face_server.video.capture_options import CaptureOptions

OPTIONS = CaptureOptions()


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://192.168.1.20/stream2",
        "rtsps://admin:s3cret@camera.example:322/a?b=c",
        "RTSP://10.0.0.3:554/user=admin_password=x_channel=1_stream=0.sdp",
        "rtspt://[fd12::7]/live",
        "http://camera.local/video.mjpg",
        "https://example.org/live/index.m3u8",
        "rtmp://127.0.0.1/live/key",
        "rtmps://localhost:1936/live/key",
    ],
)
def test_addresses_of_cameras_pass(url: str) -> None:
    """Private, public and loopback addresses and names are fine, in every scheme."""
    check_source_url(url, OPTIONS)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "1 to 2048 characters"),
        ("rtsp://camera/" + "x" * 2048, "1 to 2048 characters"),
        ("ftp://camera/x", "unknown scheme 'ftp'"),
        ("concat:rtsp://camera/x", "unknown scheme 'concat'"),
        ("rtsp:/camera/x", "names no host"),
        ("rtsp://", "names no host"),
        ("rtsp://camera:port/x", "malformed"),
        ("rtsp://camera:99999/x", "malformed"),
        ("rtsp://camera:0/x", "port 0"),
        ("rtsp://[::1/x", "malformed"),
        ("rtsp://ca,mera/x", "malformed"),
        ("rtsp://camera/a b", "spaces or control"),
        ("rtsp://camera/\r\nX: y", "spaces or control"),
    ],
)
def test_what_is_no_camera_address_is_named(url: str, says: str) -> None:
    """Each refusal names the field and says what is wrong, without repeating the address."""
    with pytest.raises(InvalidInput, match=says) as refused:
        check_source_url(url, OPTIONS)
    assert refused.value.field == "url"
    assert "camera/" not in refused.value.message


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "0xA9FEA9FE", "2852039166", "0.0.0.0", "0", "[fe80::1]", "[fe80::1%25eth0]", "[::ffff:169.254.1.1]",
     "[fd00:ec2::254]", "100.100.100.200", "224.0.0.1", "255.255.255.255", "[::]", "[64:ff9b::a9fe:a9fe]",
     "[64:ff9b:1::a9fe:a9fe]", "[::ffff:0:169.254.169.254]", "169.254.169.254."],
)  # fmt: skip
def test_link_local_and_metadata_addresses_never_pass(host: str) -> None:
    """However they are written."""
    with pytest.raises(InvalidInput, match="refused"):
        check_source_url(f"http://{host}/latest/meta-data", OPTIONS)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "localhost", "LOCALHOST.", "a.localhost", "[::1]", "[::ffff:127.0.0.1]", "0x7f000001"]
)
def test_loopback_is_an_option(host: str) -> None:
    """Cameras of the machine itself are refused where the service is open to others."""
    check_source_url(f"rtsp://{host}/x", OPTIONS)
    with pytest.raises(InvalidInput, match="loopback"):
        check_source_url(f"rtsp://{host}/x", CaptureOptions(allow_loopback=False))


def test_names_are_checked_by_every_address_they_have() -> None:
    """One address out of bounds among good ones refuses the name; an unknown name cannot be reached."""
    with pytest.raises(SourceFailed, match="loopback") as refused:
        resolve_and_check("rtsp://localhost/x", CaptureOptions(allow_loopback=False))
    assert (refused.value.code, refused.value.needs_operator) == ("source_forbidden", True)
    check_addresses(["192.168.1.4", "fd12::7", "203.0.113.9"], OPTIONS)
    with pytest.raises(SourceFailed, match="metadata"):
        check_addresses(["192.168.1.4", "169.254.169.254"], OPTIONS)
    with pytest.raises(SourceFailed) as unknown:
        resolve_and_check("rtsp://no-such-camera.invalid/x", OPTIONS)
    assert unknown.value.code == "source_unreachable"


def test_files_only_from_media_folders(tmp_path: Path) -> None:
    """Links and dots are followed before the folder is compared."""
    media, other = tmp_path / "media", tmp_path / "media2"
    for folder in (media, other):
        folder.mkdir()
        (folder / "a b.mp4").touch()
    (media / "inside.mp4").symlink_to(media / "a b.mp4")
    (media / "outside.mp4").symlink_to(other / "a b.mp4")
    options = CaptureOptions(media_folders=(media,))
    for url in (str(media / "a b.mp4"), "a b.mp4", f"file://{media}/a%20b.mp4", str(media / "inside.mp4"), str(media / "later.mp4")):
        check_source_url(url, options)
    assert local_file("inside.mp4", options) == media / "a b.mp4"
    for url in (
        str(other / "a b.mp4"),
        str(media / "outside.mp4"),
        "../media2/a b.mp4",
        "/etc/passwd",
        "file:///etc/passwd",
        f"{media}/../x.mp4",
    ):
        with pytest.raises(InvalidInput, match="outside of the media folders"):
            check_source_url(url, options)
    with pytest.raises(InvalidInput, match="another machine"):
        check_source_url("file://server/share/x.mp4", options)
    with pytest.raises(InvalidInput, match="null character"):
        check_source_url("a\0.mp4", options)
    with pytest.raises(InvalidInput, match="cannot be followed"):
        check_source_url("a" * 300 + ".mp4", options)
    with pytest.raises(InvalidInput, match="with a blank"):
        check_source_url(" rtsp://192.168.1.20/stream2", options)
    with pytest.raises(InvalidInput, match="--media DIR"):
        check_source_url("a.mp4", OPTIONS)


def test_the_second_media_folder_counts_too(tmp_path: Path) -> None:
    """A relative path is found in whichever folder has it."""
    folders = (tmp_path / "one", tmp_path / "two")
    for folder in folders:
        folder.mkdir()
    (folders[1] / "x.mp4").touch()
    assert local_file("x.mp4", CaptureOptions(media_folders=folders)) == folders[1] / "x.mp4"


def test_devices_need_permission() -> None:
    """/dev/video* with the option, other devices never."""
    with pytest.raises(InvalidInput, match="--allow-devices"):
        check_source_url("/dev/video0", OPTIONS)
    devices = CaptureOptions(allow_devices=True, media_folders=(Path("/dev"),))
    check_source_url("/dev/video0", devices)
    for url in ("/dev/sda", "/dev/video0/../mem", "/dev/stdin"):
        with pytest.raises(InvalidInput, match="no camera"):
            check_source_url(url, devices)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://camera/x", "rtsp://camera/x"),
        ("rtsp://admin:s3cret@camera:554/x?a=b", "rtsp://***@camera:554/x?a=b"),
        ("rtsp://admin@camera", "rtsp://***@camera"),
        ("rtsp://admin:p@ss@camera/x", "rtsp://***@camera/x"),
        ("rtsp://admin:pa/ss@camera/x", "rtsp://***@camera/x"),
        ("rtsp://admin:pa?ss@camera/x", "rtsp://***@camera/x"),
        ("rtsp://admin:12#ss@10.0.0.1/x", "rtsp://***@10.0.0.1/x"),
        ("rtsp://10.0.0.1:554/a@b", "rtsp://10.0.0.1:554/a@b"),
        ("rtsp://[fd12::7]:554/a@b", "rtsp://[fd12::7]:554/a@b"),
        ("http://camera/video?user=me&pwd=you&size=1", "http://camera/video?user=***&pwd=***&size=1"),
        ("rtsp://camera/user=admin_password=a_b_channel=1_stream=0.sdp", "rtsp://camera/user=***_password=***_channel=1_stream=0.sdp"),
        ("https://[fd12::7]:8443/x?Token=abc", "https://[fd12::7]:8443/x?Token=***"),
        ("clip.mp4", "clip.mp4"),
    ],
)
def test_credentials_are_not_shown(url: str, shown: str) -> None:
    """Neither before the host nor in the query nor in the path of cameras that take them there."""
    assert redact_url(url) == shown
