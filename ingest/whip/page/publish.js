// A browser goes live over WHIP (RFC 9725): one POST with the offer, PATCH for candidates and ICE restarts, DELETE.
// No libraries and nothing from elsewhere. The key stays in the form and in Authorization; it is never put in a URL.

const $ = (id) => document.getElementById(id);
const page = {
  form: $("form"), key: $("key"), go: $("go"), mute: $("mute"), preview: $("preview"), hint: $("hint"),
  camera: $("camera"), microphone: $("microphone"), size: $("size"), bitrate: $("bitrate"),
  state: $("state"), health: $("health"), error: $("error"),
};
const ENDPOINT = new URL("whip", document.baseURI);
const RESTART_AFTER_MS = 2000;
const GIVE_UP_MS = 25000;
const REJOIN_MS = 3000;
const REJOIN_FOR_MS = 300000;

let stream = null;   // what the preview shows and what is sent
let session = null;  // the WhipSession that is live, if any

// ---- words for people -------------------------------------------------------------------------------------------

const CAPTURE_ERRORS = {
  NotAllowedError: "The browser may not use the camera or microphone. Allow it in the address bar, then try again.",
  NotFoundError: "No camera or microphone was found.",
  NotReadableError: "Another program is using the camera or microphone.",
  OverconstrainedError: "This camera cannot deliver the chosen picture. Choose a smaller one.",
  AbortError: "The capture was stopped by the system.",
};

function refusal(status, detail) {
  const known = {
    401: "The server does not accept this stream key.",
    403: "This key may not publish now.",
    404: "This server does not take streams from browsers.",
    409: "The stream is on air already, from somewhere else.",
    429: "Too many attempts. Wait a moment, then try again.",
    503: "The server has no room, or is shutting down. Try again soon.",
  };
  const text = known[status] ?? `The server refused (${status}).`;
  return detail && detail !== text ? `${text} ${detail}` : text;
}

function showError(text) {
  page.error.textContent = text ?? "";
  page.error.hidden = !text;
}

function showState(state, text) {
  page.state.dataset.state = state;
  page.state.textContent = text;
  const active = state !== "idle";
  page.go.dataset.live = String(active);
  page.go.textContent = active ? "Stop" : "Go live";
  page.key.disabled = active;
}

// ---- capture ----------------------------------------------------------------------------------------------------

function chosenSource() {
  return new FormData(page.form).get("source");
}

async function capture() {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers give camera and microphone to pages over HTTPS or on localhost only.");
  }
  const [width, height] = page.size.value.split("x").map(Number);
  const picture = { width: { ideal: width }, height: { ideal: height }, frameRate: { ideal: 30, max: 60 } };
  const sound = { echoCancellation: false, noiseSuppression: true, autoGainControl: true, channelCount: { ideal: 2 } };
  if (page.microphone.value) sound.deviceId = { exact: page.microphone.value };
  if (chosenSource() === "screen") {
    const screen = await navigator.mediaDevices.getDisplayMedia({ video: picture, audio: true });
    if (!screen.getAudioTracks().length && page.microphone.value !== "none") {
      const voice = await navigator.mediaDevices.getUserMedia({ audio: sound });
      voice.getAudioTracks().forEach((track) => screen.addTrack(track));
    }
    return screen;
  }
  if (page.camera.value) picture.deviceId = { exact: page.camera.value };
  const audio = page.microphone.value === "none" ? false : sound;
  return navigator.mediaDevices.getUserMedia({ video: picture, audio });
}

async function refreshPreview() {
  showError();
  try {
    const fresh = await capture();
    stream?.getTracks().forEach((track) => track.stop());
    stream = fresh;
  } catch (error) {
    showError(CAPTURE_ERRORS[error.name] ?? error.message);
    return false;
  }
  for (const track of stream.getTracks()) track.addEventListener("ended", () => onTrackEnded(track));
  page.preview.srcObject = stream;
  page.hint.hidden = true;
  page.mute.disabled = !stream.getAudioTracks().length;
  setMuted(page.mute.getAttribute("aria-pressed") === "true");
  await listDevices();
  await session?.replace(stream);
  return true;
}

function onTrackEnded(track) {
  if (!stream?.getTracks().includes(track)) return;
  showError(track.kind === "video" ? "The picture has ended (sharing was stopped or the camera was unplugged)."
    : "The microphone is gone.");
  if (track.kind === "video" && session) stop();
}

async function listDevices() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  fill(page.camera, devices.filter((device) => device.kind === "videoinput"), "Camera");
  fill(page.microphone, devices.filter((device) => device.kind === "audioinput"), "Microphone");
  page.microphone.add(new Option("No sound", "none"));
  for (const track of stream?.getTracks() ?? []) {
    const id = track.getSettings().deviceId;
    const select = track.kind === "video" ? page.camera : page.microphone;
    if ([...select.options].some((option) => option.value === id)) select.value = id;
  }
  if (stream && !stream.getAudioTracks().length) page.microphone.value = "none";
}

function fill(select, devices, word) {
  const options = devices.map((device, at) => new Option(device.label || `${word} ${at + 1}`, device.deviceId));
  select.replaceChildren(...options);
}

function setMuted(muted) {
  page.mute.setAttribute("aria-pressed", String(muted));
  page.mute.textContent = muted ? "Unmute" : "Mute";
  stream?.getAudioTracks().forEach((track) => { track.enabled = !muted; });
}

// ---- WHIP -------------------------------------------------------------------------------------------------------

class WhipSession {
  #pc; #key; #url = null; #etag = null; #senders = {}; #restartTimer = 0; #giveUpTimer = 0; #pending = [];
  #restarting = false; #unreachable = false;
  onState = () => {};

  constructor(key) { this.#key = key; }

  get pc() { return this.#pc; }

  // The server has said goodbye (DTLS close) and is still there: it ended the session, which was not lost.
  get dismissed() {
    const closed = Object.values(this.#senders).some((sender) => sender.transport?.state === "closed");
    return closed && !this.#unreachable;
  }

  async start(media, kilobits) {
    this.#pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    for (const kind of ["video", "audio"]) {
      const [track] = media.getTracks().filter((candidate) => candidate.kind === kind);
      if (!track) continue;
      const transceiver = this.#pc.addTransceiver(track, { direction: "sendonly", streams: [media] });
      this.#senders[kind] = transceiver.sender;
      if (kind === "video") {
        preferH264(transceiver);
        if (chosenSource() === "camera") track.contentHint = "motion";
      }
    }
    this.#pc.addEventListener("icecandidate", (event) => this.#trickle(event.candidate));
    this.#pc.addEventListener("connectionstatechange", () => this.#changed());
    await this.#pc.setLocalDescription();
    const response = await this.#send(ENDPOINT, "POST", "application/sdp", this.#pc.localDescription.sdp);
    if (response.status !== 201) {
      throw Object.assign(new Error(await describe(response)), { retry: [429, 503].includes(response.status) });
    }
    this.#url = new URL(response.headers.get("Location"), ENDPOINT);
    this.#etag = response.headers.get("ETag");
    this.#useServers(response.headers.get("Link"));
    await this.#pc.setRemoteDescription({ type: "answer", sdp: startingAt(await response.text(), kilobits) });
    await this.limit(kilobits);
    this.#pending.splice(0).forEach((candidate) => this.#trickle(candidate));
    this.#giveUpTimer = setTimeout(() => this.onState("failed"), GIVE_UP_MS);
  }

  async limit(kilobits) {
    const sender = this.#senders.video;
    if (!sender) return;
    const parameters = sender.getParameters();
    for (const encoding of parameters.encodings ?? []) encoding.maxBitrate = kilobits * 1000;
    parameters.degradationPreference = "balanced";
    await sender.setParameters(parameters);
  }

  async replace(media) {
    for (const track of media.getTracks()) await this.#senders[track.kind]?.replaceTrack(track);
  }

  async stop() {
    clearTimeout(this.#restartTimer);
    clearTimeout(this.#giveUpTimer);
    this.onState = () => {};
    const url = this.#url;
    this.#url = null;
    // DELETE before the connection is closed, so that the server sees a goodbye and not a loss.
    const goodbye = url ? this.#send(url, "DELETE").catch(() => {}) : null;
    await Promise.race([goodbye, new Promise((resolve) => setTimeout(resolve, 1500))]);
    this.#pc?.close();
  }

  leave() {  // the page is going away: a request that outlives it
    if (this.#url) fetch(this.#url, { method: "DELETE", headers: { Authorization: `Bearer ${this.#key}` }, keepalive: true });
  }

  #send(url, method, type, body, more = {}) {
    const headers = { Authorization: `Bearer ${this.#key}`, ...more };
    if (type) headers["Content-Type"] = type;
    return fetch(url, { method, headers, body, cache: "no-store", redirect: "follow" });
  }

  #useServers(link) {
    const servers = [];
    for (const part of (link ?? "").split(/,\s*(?=<)/)) {
      const url = /^<((?:stun|turn)s?:[^>]+)>.*rel="?ice-server"?/.exec(part);
      if (!url) continue;
      const value = (name) => new RegExp(`${name}="([^"]*)"`).exec(part)?.[1];
      servers.push({ urls: url[1], username: value("username"), credential: value("credential") });
    }
    if (servers.length) this.#pc.setConfiguration({ bundlePolicy: "max-bundle", iceServers: servers });
  }

  async #trickle(candidate) {
    if (!candidate || this.#restarting) return;
    if (!this.#url) { this.#pending.push(candidate); return; }
    const ufrag = candidate.usernameFragment;
    const lines = [ufrag ? `a=ice-ufrag:${ufrag}` : "", `m=video 9 UDP/TLS/RTP/SAVPF 0`, `a=mid:${candidate.sdpMid ?? 0}`];
    if (candidate.candidate) lines.push(`a=${candidate.candidate}`);
    else lines.push("a=end-of-candidates");
    const body = lines.filter(Boolean).join("\r\n") + "\r\n";
    await this.#send(this.#url, "PATCH", "application/trickle-ice-sdpfrag", body, { "If-Match": this.#etag }).catch(() => {});
  }

  #changed() {
    const state = this.#pc.connectionState;
    clearTimeout(this.#restartTimer);
    if (state === "connected") {
      clearTimeout(this.#giveUpTimer);
      this.#giveUpTimer = 0;
    } else if (state === "disconnected" || state === "failed") {
      this.#giveUpTimer ||= setTimeout(() => this.onState("failed"), GIVE_UP_MS);
      this.#restartTimer = setTimeout(() => this.restart(), state === "failed" ? 0 : RESTART_AFTER_MS);
      this.onState("disconnected");
      return;
    }
    this.onState(state);
  }

  // The network has changed: new candidates on both sides, same media and keys (RFC 9725 4.3.3).
  async restart() {
    if (!this.#url || this.#restarting) return false;
    this.#restarting = true;
    try {
      this.#pc.restartIce();
      const old = this.#pc.currentRemoteDescription.sdp;
      await this.#pc.setLocalDescription();
      await gathered(this.#pc);
      const offer = this.#pc.localDescription.sdp;
      const line = (name) => new RegExp(`^a=${name}:.*$`, "m").exec(offer)?.[0].trim();
      const candidates = [...new Set(offer.match(/^a=candidate:.*$/gm) ?? [])].map((text) => text.trim());
      const body = [line("ice-ufrag"), line("ice-pwd"), "m=video 9 UDP/TLS/RTP/SAVPF 0", line("mid"), ...candidates,
        "a=end-of-candidates"].join("\r\n") + "\r\n";
      const response = await this.#send(this.#url, "PATCH", "application/trickle-ice-sdpfrag", body, { "If-Match": "*" });
      if (response.status === 404 && this.#pc.connectionState !== "connected") this.onState("failed");
      if (response.status !== 200) throw new Error(await describe(response));
      this.#etag = response.headers.get("ETag");
      await this.#pc.setRemoteDescription({ type: "answer", sdp: renewed(old, await response.text()) });
      return true;
    } catch (error) {
      this.#unreachable = error instanceof TypeError;
      await this.#pc.setLocalDescription({ type: "rollback" }).catch(() => {});
      return false;
    } finally {
      this.#restarting = false;
    }
  }
}

// Chromium begins at 300 kb/s and takes half a minute to climb: tell it to begin nearer to what was chosen. Others
// ignore the parameter.
function startingAt(answer, kilobits) {
  return answer.replace(/^(a=fmtp:\d+ .*profile-level-id=[^\r\n]*)/gm, `$1;x-google-start-bitrate=${Math.round(kilobits * 0.7)}`);
}

function gathered(pc) {
  return new Promise((resolve) => {
    if (pc.iceGatheringState === "complete") { resolve(); return; }
    const timer = setTimeout(resolve, 1500);
    pc.addEventListener("icegatheringstatechange", () => {
      if (pc.iceGatheringState === "complete") { clearTimeout(timer); resolve(); }
    });
  });
}

// The old answer with the ICE part of the fragment in every media section.
function renewed(answer, fragment) {
  const value = (name) => new RegExp(`^a=${name}:(.*)$`, "m").exec(fragment)[1].trim();
  const candidates = fragment.match(/^a=candidate:.*$/gm).map((text) => text.trim()).join("\r\n");
  return answer
    .replace(/^a=(candidate:.*|end-of-candidates)\r\n/gm, "")
    .replace(/^a=ice-ufrag:.*$/gm, `a=ice-ufrag:${value("ice-ufrag")}`)
    .replace(/^a=ice-pwd:.*$/gm, `a=ice-pwd:${value("ice-pwd")}\r\n${candidates}\r\na=end-of-candidates`)
    .replace(/\r\r\n/g, "\r\n");
}

function preferH264(transceiver) {
  const codecs = RTCRtpSender.getCapabilities("video")?.codecs ?? [];
  const h264 = codecs.filter((codec) => codec.mimeType === "video/H264");
  const rest = codecs.filter((codec) => codec.mimeType !== "video/H264");
  if (h264.length) transceiver.setCodecPreferences([...h264, ...rest]);
}

async function describe(response) {
  let detail = "";
  if ((response.headers.get("Content-Type") ?? "").includes("json")) detail = (await response.json()).detail;
  return refusal(response.status, detail);
}

// ---- health -----------------------------------------------------------------------------------------------------

let last = null;

async function health() {
  if (!session?.pc) return;
  const now = { at: performance.now(), bytes: 0, frames: 0, lost: 0, rtt: null, limited: "none", width: 0, height: 0, packets: 0 };
  for (const report of (await session.pc.getStats()).values()) {
    if (report.type === "outbound-rtp") {
      now.bytes += report.bytesSent;
      now.packets += report.packetsSent;
      if (report.kind === "video") {
        now.frames = report.framesSent ?? 0;
        now.limited = report.qualityLimitationReason ?? "none";
        now.width = report.frameWidth ?? 0;
        now.height = report.frameHeight ?? 0;
      }
    } else if (report.type === "remote-inbound-rtp") {
      now.lost += report.packetsLost ?? 0;
    } else if (report.type === "candidate-pair" && report.nominated && report.currentRoundTripTime !== undefined) {
      now.rtt = report.currentRoundTripTime * 1000;
    }
  }
  if (last) {
    const seconds = (now.at - last.at) / 1000;
    const megabits = ((now.bytes - last.bytes) * 8) / seconds / 1e6;
    const rate = (now.frames - last.frames) / seconds;
    const lost = Math.max(0, now.lost - last.lost) / Math.max(1, now.packets - last.packets);
    const parts = [`${megabits.toFixed(2)} Mb/s`, `${rate.toFixed(0)} fps`];
    if (now.width) parts.push(`${now.width}×${now.height}`);
    if (now.rtt !== null) parts.push(`${now.rtt.toFixed(0)} ms`);
    parts.push(`${(lost * 100).toFixed(1)} % lost`);
    let verdict = "good";
    if (now.limited === "bandwidth") { verdict = "fair"; parts.push("the upload is too slow for this quality"); }
    if (now.limited === "cpu") { verdict = "fair"; parts.push("this computer is too slow for this picture"); }
    if (lost > 0.05) { verdict = "poor"; parts.push("the network loses packets"); }
    page.health.dataset.verdict = verdict;
    page.health.textContent = parts.join(" · ");
  }
  last = now;
}

// ---- the page ---------------------------------------------------------------------------------------------------

async function start(rejoinUntil = 0) {
  showError();
  showState("busy", rejoinUntil ? "Reconnecting" : "Connecting");
  if (!stream && !(await refreshPreview())) { showState("idle", "Not live"); return; }
  const fresh = new WhipSession(page.key.value.trim());
  session = fresh;
  let wasLive = rejoinUntil > 0;
  fresh.onState = (state) => {
    if (session !== fresh) return;
    if (state === "connected") {
      rejoinUntil = 0;
      wasLive = true;
      showState("live", "Live");
    }
    if (state === "disconnected") showState("busy", "Reconnecting");
    if (state === "failed" || state === "closed") lost(fresh, wasLive, rejoinUntil);
  };
  try {
    await fresh.start(stream, Number(page.bitrate.value));
  } catch (error) {
    if (session !== fresh) return;
    const offline = error instanceof TypeError;
    if (rejoinUntil && (offline || error.retry)) { lost(fresh, true, rejoinUntil); return; }
    await stop();
    showError(offline ? "The server cannot be reached." : error.message);
  }
}

// The connection is lost: viewers are kept for a while, so come back as a new session of the same stream.
function lost(old, wasLive, rejoinUntil) {
  const until = rejoinUntil || performance.now() + REJOIN_FOR_MS;
  if (!wasLive || old.dismissed || performance.now() > until) {
    stop();
    showError(old.dismissed ? "The server has ended the stream."
      : "The connection to the server was lost. Check the network, then go live again.");
    return;
  }
  showState("busy", "Reconnecting");
  old.stop();
  setTimeout(() => { if (session === old) start(until); }, rejoinUntil ? REJOIN_MS : 0);
}

async function stop() {
  const old = session;
  session = null;
  last = null;
  page.health.textContent = "\u00a0";
  delete page.health.dataset.verdict;
  showState("idle", "Not live");
  await old?.stop();
}

page.form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (session) stop(); else start();
});
page.form.addEventListener("change", (event) => {
  if (event.target === page.bitrate) session?.limit(Number(page.bitrate.value));
  else if (event.target !== page.key) refreshPreview();
});
page.mute.addEventListener("click", () => setMuted(page.mute.getAttribute("aria-pressed") !== "true"));
addEventListener("pagehide", () => session?.leave());
setInterval(health, 1000);
globalThis.headrace = { get session() { return session; } };  // for tests and the console

if (navigator.mediaDevices) refreshPreview();
else showError("Browsers give camera and microphone to pages over HTTPS or on localhost only.");
