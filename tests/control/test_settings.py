"""Settings: where they come from, and what a person reads when they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.settings import Settings, SettingsError, data_folder, load
from control.settings_reference import reference


def text_of(tmp_path: Path, toml: str = "", flags: tuple[str, ...] = (), **environment: str) -> str:
    """What the error says."""
    (tmp_path / "headrace.toml").write_text(toml)
    with pytest.raises(SettingsError) as caught:
        load(environment=environment, flags=flags, folder=tmp_path)
    return caught.value.text


def test_flags_go_over_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text("[rtmp]\nport = 1\nhost = '127.0.0.1'\n[srt]\nport = 2\n[api]\nport = 3\n")
    environment = {"HEADRACE_SRT__PORT": "20", "HEADRACE_API__PORT": "30", "HEADRACE_DATA": "x", "PATH": "/bin"}
    found = load(environment=environment, flags=["api.port=300"], folder=tmp_path)
    assert (found.rtmp.port, found.rtmp.host, found.srt.port, found.api.port) == (1, "127.0.0.1", 20, 300)
    assert found == load(file, environment=environment, flags=["api.port=300"])
    assert found == load(environment={**environment, "HEADRACE_CONFIG": str(file)}, flags=["api.port=300"])


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    found = load(environment={}, folder=tmp_path)
    assert found == Settings()
    ports = (found.rtmp.port, found.rtmps.port, found.srt.port, found.edge.port, found.origin.port, found.api.port)
    assert ports == (1935, 1936, 8890, 8080, 8082, 8081)
    assert found.api.host == "127.0.0.1"


def test_what_kubernetes_says_of_services_is_no_setting(tmp_path: Path) -> None:
    """It tells each container of every service beside it, and one is likely to be called `headrace`."""
    told = {
        "HEADRACE_SERVICE_HOST": "10.0.0.11",
        "HEADRACE_SERVICE_PORT": "8080",
        "HEADRACE_SERVICE_PORT_RTMP": "1935",
        "HEADRACE_PORT": "tcp://10.0.0.11:8080",
        "HEADRACE_PORT_8080_TCP": "tcp://10.0.0.11:8080",
        "HEADRACE_PORT_8080_TCP_PROTO": "tcp",
        "HEADRACE_PORT_8890_UDP_ADDR": "10.0.0.11",
        "HEADRACE_EDGE_SERVICE_HOST": "10.0.0.12",
        "HEADRACE_EDGE_PORT": "tcp://10.0.0.12:80",
        "HEADRACE_EDGE_PORT_80_TCP_PORT": "80",
    }
    assert load(environment=told, folder=tmp_path) == Settings()
    said = text_of(tmp_path, HEADRACE_EDGE_PORT="8080", HEADRACE_PORT="8080", HEADRACE_SERVICE="x")
    assert {line.split(":")[0] for line in said.splitlines()} == {
        "HEADRACE_EDGE_PORT",
        "HEADRACE_PORT",
        "HEADRACE_SERVICE",
    }


def test_lists_and_switches_from_the_environment(tmp_path: Path) -> None:
    environment = {
        "HEADRACE_TRANSCODE__ENCODERS": "h264_nvenc, libx264",
        "HEADRACE_TRANSCODE__ENABLED": "false",
        "HEADRACE_WHIP__ICE_SERVERS": '[{"urls": ["stun:stun.example.org"]}]',
        "HEADRACE_EDGE__WORKERS": "",
    }
    found = load(environment=environment, folder=tmp_path)
    assert found.transcode.encoders == ("h264_nvenc", "libx264")
    assert not found.transcode.enabled
    assert found.whip.ice_servers[0].urls == ("stun:stun.example.org",)
    assert found.edge.workers is None


def test_every_mistake_is_told_at_once_with_its_full_name_and_source(tmp_path: Path) -> None:
    text = text_of(
        tmp_path,
        "[rtmp]\nprot = 1\n[whpi]\nx = 1\n[edge]\nmax_bitrate_bits = 1\n[packager]\ndvr_window_s = 600\n",
        ("limits.max_tracks=many", "nonsense", "a.b.c=1"),
        HEADRACE_SRT__PORT="99999",
        HEADRACE_RTMPS="1",
        HEADRACE_APY__PORT="1",
    )
    lines = text.splitlines()
    file = tmp_path / "headrace.toml"
    assert f"{file}: there is no setting rtmp.prot; did you mean rtmp.port?" in lines
    assert f"{file}: there is no section [whpi]; did you mean whip?" in lines
    assert f"{file}: there is no setting edge.max_bitrate_bits; did you mean limits.max_bitrate_bits?" in lines
    stream = "each stream has its own (headrace stream set NAME dvr_window_s=...)"
    assert f"{file}: there is no setting packager.dvr_window_s: {stream}" in lines
    assert "HEADRACE_APY__PORT: there is no section [apy]; did you mean api?" in lines
    assert any(line.startswith("--set limits.max_tracks: limits.max_tracks = 'many': ") for line in lines)
    assert any(line.startswith("HEADRACE_SRT__PORT: srt.port = '99999': ") for line in lines)
    assert any(line.startswith("HEADRACE_RTMPS: ") for line in lines)
    assert "--set nonsense: write SECTION.FIELD=VALUE" in lines
    assert len(lines) == 10


@pytest.mark.parametrize("toml", ["[rtmp", "rtmp = 5", "[[rtmp]]\nport=1", "\x00"])
def test_a_broken_file_is_told_in_words(tmp_path: Path, toml: str) -> None:
    text = text_of(tmp_path, toml)
    assert str(tmp_path / "headrace.toml") in text
    assert "Traceback" not in text


def test_a_missing_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load(tmp_path / "other.toml", environment={})


def test_a_password_is_not_repeated(tmp_path: Path) -> None:
    text = text_of(tmp_path, HEADRACE_WHIP__ICE_SERVERS='[{"urls": [], "credential": 5}]')
    assert "whip.ice_servers.0.credential: " in text


def test_data_folder() -> None:
    assert data_folder(Path("a"), {"HEADRACE_DATA": "b"}) == Path("a")
    assert data_folder(None, {"HEADRACE_DATA": "b"}) == Path("b")
    assert data_folder(None, {}) == Path("headrace-data")


def test_the_reference_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text() == reference(), "run: python -m control.settings_reference > docs/settings.md"


def test_the_example_file_is_understood() -> None:
    example = Path(__file__).parents[2] / "headrace.example.toml"
    load(example, environment={})
    uncommented = "\n".join(
        line.removeprefix("# ") if "=" in line else line for line in example.read_text().splitlines()
    )
    assert uncommented.count("=") > 5


def test_a_ladder_of_ones_own_is_read_from_toml_and_fitted(tmp_path: Path) -> None:
    from control.planning import ladder_of
    from control.stream_settings import StreamSettings

    (tmp_path / "headrace.toml").write_text(
        '[[transcode.ladders]]\nname = "mine"\npassthrough = ["h264", "hevc"]\n'
        "[[transcode.ladders.rungs]]\nheight = 288\nbitrate = 400_000\nframe_rate = 12.5\n"
        '[[transcode.ladders.rungs]]\nheight = 576\nbitrate = 900_000\ncodec = "hevc"\nvalue = 3\n'
    )
    settings = load(tmp_path / "headrace.toml", environment={})
    ladder = ladder_of(StreamSettings(ladder=("mine",)), settings.transcode)
    assert [(r.height, r.codec.value, float(r.max_rate), r.value) for r in ladder.rungs] == [
        (576, "hevc", 30.0, 3),
        (288, "h264", 12.5, 0),
    ]
    assert {codec.value for codec in ladder.passthrough} == {"h264", "hevc"}


def test_a_mistake_in_an_own_ladder_is_told(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text(
        '[[transcode.ladders]]\nname = "mine"\n[[transcode.ladders.rungs]]\nheight = 20\nbitrate = 400_000\n'
    )
    with pytest.raises(SettingsError, match="height"):
        load(tmp_path / "headrace.toml", environment={})
