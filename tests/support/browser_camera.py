"""A camera for pages that publish: a canvas that turns white, once a second, while a tone sounds.

`camera(width, height)` is the script to add to a page before it loads; it answers getUserMedia. `SWITCHES` start
Chromium so that nothing has to be allowed or clicked.
"""

from __future__ import annotations

SWITCHES = (
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
_SCRIPT = """
navigator.mediaDevices.getUserMedia = async () => {
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH; canvas.height = HEIGHT;
  const picture = canvas.getContext("2d");
  const sound = new AudioContext({ sampleRate: 48000 });
  await sound.resume();
  const out = sound.createMediaStreamDestination();
  const tone = new OscillatorNode(sound, { frequency: 1000 });
  const gain = new GainNode(sound, { gain: 0 });
  tone.connect(gain).connect(out);
  tone.start();
  let until = 0, next = performance.now() + 1000, count = 0;
  setInterval(() => {
    const now = performance.now();
    if (now >= next) { next += 1000; until = now + 200; gain.gain.value = 0.5; }
    if (now >= until) gain.gain.value = 0;
    picture.fillStyle = now < until ? "white" : "black";
    picture.fillRect(0, 0, WIDTH, HEIGHT);
    for (let i = 0; i < BOXES; i++) {
      picture.fillStyle = `hsl(${(count * 7 + i * 9) % 360} 90% 50%)`;
      picture.fillRect((count * 11 + i * 31) % WIDTH, HEIGHT - 10 - (i * 37) % (HEIGHT / 5), 8 + i % 30, 8);
    }
    count++;
  }, 33);
  const stream = canvas.captureStream(30);
  stream.addTrack(out.stream.getAudioTracks()[0]);
  return stream;
};
"""


def camera(width: int, height: int, boxes: int = 1) -> str:
    """The script; more moving `boxes` make the picture harder to encode."""
    return _SCRIPT.replace("WIDTH", str(width)).replace("HEIGHT", str(height)).replace("BOXES", str(boxes))
