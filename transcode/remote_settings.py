"""The section `[workers]`: the door for transcode workers on other machines. `remote` opens it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class WorkersSettings(BaseModel):
    """Who transcodes beside this machine (`headrace worker --core URL` over there)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=False, description="Whether workers of other machines may join.")
    host: str = Field(
        default="127.0.0.1", description="Address to listen on; loopback unless told otherwise. `0.0.0.0` for all."
    )
    port: int = Field(
        default=8083, ge=0, le=65_535, description="TCP port, always TLS, with the certificate of `[rtmps]`."
    )
    token_file: Path | None = Field(
        default=None,
        description="File with the secret that a worker must know; by default `worker-token` in the data folder, made "
        "at the first start.",
    )
    max_workers: int = Field(default=64, ge=1, le=1024, description="Most workers that may be connected; one each job.")
