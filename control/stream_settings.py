"""The settings of one stream, kept with it in the database. Those of the server are in `control.settings`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"
"""Text that any database stores, any file system takes, and any terminal shows, as it is."""

Text = Annotated[str, Field(pattern=NO_CONTROLS, max_length=4096)]


class StreamSettings(BaseModel):
    """How one stream behaves. Set with `headrace stream add --set FIELD=VALUE` or by `PATCH /v1/streams/NAME`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_second_publisher: Literal["takeover", "reject"] = Field(
        default="takeover",
        description="What happens when someone with a good key publishes while another is on air: `takeover` "
        "replaces the first, so that a half-open connection never locks anyone out; `reject` refuses the second.",
    )
    reconnect_window_s: float = Field(
        default=30.0,
        ge=0,
        le=1800,
        description="Seconds that viewers are kept after the publisher is lost, for it to come back in.",
    )
    dvr_window_s: int = Field(
        default=0,
        ge=0,
        le=14 * 86_400,
        description="Seconds that viewers can rewind, and that a broadcast stays watchable after its end, from disk; "
        "0: as far as the memory reaches. Holds on air too, from the next segment on, and for what is on disk.",
    )
    ladder: tuple[Text, ...] | None = Field(
        default=None,
        description="A ladder by its name (`mobile`, or one of your own), or rungs under the source, e.g. "
        "`720p,480p`; `none` for none; unset for the server's own. Holds on air too, from the next segment on.",
    )
    audio_tracks: tuple[Text, ...] = Field(
        default=(),
        description="`LANGUAGE:NAME` for each audio track in order, over what the publisher says, e.g. "
        "`en:English,de:Commentary`; either part may be empty.",
    )
    rungs: Literal["always", "watched"] | None = Field(
        default=None,
        description="`always`: every rung is encoded; `watched`: those that somebody asks for; unset: as the server's "
        "`transcode.rungs` says.",
    )
    srt_passphrase: Literal["off", "required"] = Field(
        default="off",
        description="Whether SRT callers must encrypt with the passphrase that is shown beside each key.",
    )
    rotate_every_s: int | None = Field(
        default=None,
        ge=60,
        le=10 * 366 * 86_400,
        description="Seconds after which a new key is made by itself; it is written to `rotate_file`.",
    )
    rotate_grace_s: int = Field(
        default=60, ge=0, le=7 * 86400, description="Seconds that the old keys live on after a scheduled rotation."
    )
    rotate_file: Text | None = Field(
        default=None,
        description="File that receives the new key of a scheduled rotation, readable by its owner only.",
    )

    @model_validator(mode="after")
    def _new_keys_must_reach_someone(self) -> StreamSettings:
        if self.rotate_every_s is not None and not self.rotate_file:
            raise ValueError("rotate_every_s needs rotate_file: a key that nobody receives locks everyone out")
        return self
