// The watch page. One stream, three engines: hls.js (where there is MSE), the browser's own HLS (Safari on a
// phone), dash.js (?dash=1). `window.headrace` shows tests and the curious what goes on.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const video = $("video");
  const options = new URLSearchParams(location.search);
  const [, base, playback] = location.pathname.match(/^(.*)\/watch\/([^/]+)\/?$/) || [null, "", ""];
  const name = decodeURIComponent(playback);
  const query = options.get("token") ? "?token=" + encodeURIComponent(options.get("token")) : "";
  // With ?token= only playlists' own URLs carry it; a link of the form /t/TOKEN/watch/NAME carries it everywhere.
  const prefix = query ? base + "/t/" + encodeURIComponent(options.get("token")) : base;
  const root = location.origin + prefix + "/live/" + playback + "/";
  const hlsUrl = root + "index.m3u8";
  const dashUrl = root + "manifest.mpd";

  const CATCH_UP = 1.1; // playback rate while the latency is too large: converges, and is hardly heard
  const POLL_MIN_MS = 2000;
  const POLL_MAX_MS = 10000;
  const STALL_MS = 8000; // no progress for so long although the stream goes on: start anew
  const SKIP_MS = 4000; // the same, but first try to go where newer video is
  const LOOK_MS = 2000; // how often a standing player looks whether the stream goes on; more than a part's duration
  const BEHIND_S = 8; // further than this behind where we want to be, catching up would take too long: jump

  const shared = (window.headrace = {
    engine: "", player: null, video, state: "starting", latency: null, errors: 0, restarts: 0, levels: [], firstFrameMs: null,
  });
  const opened = performance.now();
  const seekBar = window.headraceSeek({ video, root, reach: () => reach(), place: (at, zero) => place(at, zero), seek: (at) => seek(at), goLive: () => goLive() });

  document.title = name + " · Headrace";
  $("title").textContent = name;
  if (options.get("embed")) document.body.classList.add("embed");

  let away = false; // the stream stands still at its source
  let over = false; // what plays is the recording of a broadcast that has ended: no live edge, no latency
  let done = false; // the end was seen: what is still listed of it is not begun again by itself
  let rewound = false; // by the viewer: not taken to the live edge
  let soughtAt = 0;
  let generation = 0; // counts starts, so that what an old one still says is not heeded
  let pollTimer = 0;
  let pollMs = POLL_MIN_MS;

  function say(state, text) {
    shared.state = state;
    $("state").textContent = text || "";
    // What a viewer should know although the controls are hidden, or have no room for it.
    $("notice").textContent = state === "waiting" && away ? "The broadcaster is away. The stream goes on here by itself." : "";
    $("notice").hidden = !$("notice").textContent;
    $("bar").hidden = state === "offline";
  }

  const ENDED = "The stream has ended";
  const WAITING = "This page starts by itself when the stream does.";
  const AGAIN = WAITING + " Until then, loading it again shows what was recorded.";
  const UNSURE = WAITING + " If it should be live by now, look whether the name in the address is right.";

  function offline(text, hint = WAITING) {
    stop();
    $("offline-text").textContent = text;
    $("offline-hint").textContent = hint;
    $("unmute").hidden = $("play-big").hidden = true;
    $("offline").hidden = false;
    say("offline", "");
    $("live").classList.remove("on");
    $("latency").textContent = "";
    clearTimeout(pollTimer);
    // A random part keeps a crowd that lost its stream at one instant from coming back at one instant.
    pollTimer = setTimeout(poll, pollMs * (0.75 + Math.random() / 2));
    pollMs = Math.min(POLL_MAX_MS, pollMs * 1.3);
  }

  async function poll() {
    try {
      const answer = await fetch(options.get("dash") ? dashUrl : hlsUrl, { cache: "no-store" });
      if (answer.ok) {
        const text = await answer.text();
        const listed = text.includes("#EXT-X-STREAM-INF") || text.includes("#EXTINF") || text.includes("<MPD");
        if (listed && done && (await ended(text))) return offline(ENDED, AGAIN);
        if (listed) return start();
      }
      if (answer.status === 401 || answer.status === 403) {
        // The edge's first line is for programs, the second for people.
        const why = (await answer.text()).split("\n")[1];
        return offline("You cannot watch this", why || "This link is not valid (any more).");
      }
      if (shared.restarts) return offline(done ? ENDED : "The stream is offline");
      offline("Not live yet", answer.status === 404 ? UNSURE : WAITING);
    } catch {
      offline("The server cannot be reached", "This page tries again by itself.");
    }
  }

  // The media playlist behind a multivariant one; the text itself where it is one already, and "" for neither.
  async function media(text) {
    const first = text.includes("#EXT-X-STREAM-INF") && text.split("\n").find((line) => line && !line.startsWith("#"));
    return first ? (await fetch(new URL(first, hlsUrl), { cache: "no-store" })).text() : text.includes("#EXTINF") ? text : "";
  }

  const ended = async (text) => text.includes("<MPD") ? /<MPD[^>]*type="static"/.test(text) : (await media(text)).includes("#EXT-X-ENDLIST");

  function stop() {
    generation += 1;
    const player = shared.player;
    shared.player = null;
    // Of both engines the whole teardown: a reset() of dash.js after it throws.
    if (player) player.destroy();
    if (shared.engine === "native") {
      video.removeAttribute("src");
      video.load();
    }
  }

  function load(url) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = url;
      script.onload = resolve;
      script.onerror = () => reject(new Error("cannot load " + url));
      document.head.append(script);
    });
  }

  async function start() {
    stop();
    clearTimeout(pollTimer);
    const mine = generation;
    over = done = rewound = $("live").hidden = false;
    $("offline").hidden = $("audio").hidden = true;
    staleTracks = new WeakSet(Array.from(video.textTracks));
    captions();
    seekBar.reset();
    video.poster = root + "thumbnail.jpg";
    say("starting", "starting");
    try {
      if (options.get("dash")) {
        if (!window.dashjs) await load(document.body.dataset.dash);
        if (mine === generation) startDash(mine);
        return;
      }
      if (!window.Hls) await load(document.body.dataset.hls);
      if (mine !== generation) return;
      if (window.Hls && window.Hls.isSupported()) startHls(mine);
      else if (video.canPlayType("application/vnd.apple.mpegurl")) startNative(mine);
      else offline("This browser cannot play the stream", "It has neither Media Source Extensions nor HLS of its own.");
    } catch (error) {
      offline("The player cannot be loaded", "This page tries again by itself.");
    }
  }

  function lost(mine, text) {
    if (mine !== generation) return;
    done = text === ENDED;
    shared.restarts += 1;
    pollMs = POLL_MIN_MS;
    offline(text);
  }

  function startHls(mine) {
    const Hls = window.Hls;
    const quick = { maxTimeToFirstByteMs: 8000, maxLoadTimeMs: 12000 };
    const retry = (count) => ({ maxNumRetry: count, retryDelayMs: 300, maxRetryDelayMs: 2000, backoff: "exponential" });
    const policy = (count) => ({ default: { ...quick, timeoutRetry: retry(2), errorRetry: retry(count) } });
    const hls = new Hls({
      lowLatencyMode: true,
      maxLiveSyncPlaybackRate: CATCH_UP,
      liveMaxLatencyDuration: undefined,
      backBufferLength: 30,
      maxBufferLength: 20,
      startFragPrefetch: true,
      testBandwidth: false,
      abrEwmaDefaultEstimate: 3_000_000,
      capLevelToPlayerSize: options.get("embed") !== null,
      manifestLoadPolicy: policy(1),
      playlistLoadPolicy: policy(4),
      fragLoadPolicy: policy(4),
    });
    shared.engine = "hls.js";
    shared.player = hls;
    let mediaErrors = 0;
    hls.on(Hls.Events.MANIFEST_PARSED, (_, data) => {
      shared.levels = data.levels.map((level) => ({ height: level.height, bitrate: level.bitrate, name: level.name }));
      qualities(data.levels.map((level, index) => [index, label(level.height, level.bitrate)]), (value) => {
        hls.nextLevel = value;
      });
      play();
    });
    hls.on(Hls.Events.AUDIO_TRACKS_UPDATED, (_, data) => {
      tracks("audio", data.audioTracks, 2, () => hls.audioTrack, (value) => { hls.audioTrack = value; });
    });
    hls.on(Hls.Events.LEVEL_UPDATED, (_, data) => {
      if (mine === generation) over = $("live").hidden = !data.details.live;
    });
    hls.on(Hls.Events.LEVEL_SWITCHED, (_, data) => {
      const level = hls.levels[data.level];
      $("quality").options[0].textContent = hls.autoLevelEnabled && level ? "Auto (" + (level.height || "audio") + ")" : "Auto";
    });
    hls.on(Hls.Events.ERROR, (_, data) => {
      shared.errors += 1;
      shared.lastError = data.details;
      if (mine !== generation || !data.fatal) return;
      if (data.type === Hls.ErrorTypes.MEDIA_ERROR && mediaErrors < 2) {
        mediaErrors += 1;
        hls.recoverMediaError();
        return;
      }
      lost(mine, "The stream is offline");
    });
    hls.on(Hls.Events.BUFFER_EOS, () => video.addEventListener("ended", () => lost(mine, ENDED), { once: true }));
    hls.subtitleDisplay = false;
    hls.loadSource(hlsUrl);
    hls.attachMedia(video);
  }

  function startNative(mine) {
    shared.engine = "native";
    shared.player = null;
    $("quality").hidden = true;
    video.src = hlsUrl;
    video.onerror = () => lost(mine, "The stream is offline");
    video.onended = () => lost(mine, ENDED);
    play();
  }

  function startDash(mine) {
    const dash = window.dashjs.MediaPlayer().create();
    shared.engine = "dash.js";
    shared.player = dash;
    dash.updateSettings({ streaming: { liveCatchup: { enabled: true }, utcSynchronization: { enabled: true }, text: { defaultEnabled: false } } });
    const events = window.dashjs.MediaPlayer.events;
    const what = () => { over = $("live").hidden = !dash.isDynamic(); };
    dash.on(events.DYNAMIC_TO_STATIC, what);
    dash.on(events.STREAM_INITIALIZED, () => {
      what();
      const list = dash.getRepresentationsByType("video") || [];
      shared.levels = list.map((item) => ({ height: item.height, bitrate: item.bandwidth }));
      qualities(list.map((item, index) => [index, label(item.height, item.bandwidth)]), (value) => {
        dash.updateSettings({ streaming: { abr: { autoSwitchBitrate: { video: value < 0 } } } });
        if (value >= 0) dash.setRepresentationForTypeByIndex("video", value, true);
      });
      play();
    });
    dash.on(events.QUALITY_CHANGE_RENDERED, (event) => {
      if (event.mediaType !== "video" || !event.newRepresentation) return;
      const auto = $("quality").options[0];
      auto.textContent = Number($("quality").value) < 0 ? "Auto (" + event.newRepresentation.height + ")" : "Auto";
    });
    dash.on(events.ERROR, (event) => {
      shared.errors += 1;
      shared.lastError = event.error && event.error.message;
      lost(mine, "The stream is offline");
    });
    dash.on(events.PLAYBACK_ENDED, () => lost(mine, ENDED));
    dash.initialize(video, dashUrl, true);
  }

  const label = (height, bitrate) => (height ? height + "p" : "audio") + (bitrate ? " · " + (bitrate / 1e6).toFixed(1) + " Mb/s" : "");

  function qualities(list, choose) {
    const menu = $("quality");
    menu.replaceChildren(new Option("Auto", "-1"), ...list.slice().reverse().map(([value, text]) => new Option(text, value)));
    menu.hidden = list.length < 2;
    menu.onchange = () => choose(Number(menu.value));
  }

  // A menu of sound or captions: only where there is a choice.
  function tracks(id, list, least, chosen, choose) {
    const menu = $(id);
    menu.replaceChildren(...list.map((item, index) => new Option(item.name || item.lang || "Track " + (index + 1), String(item.id ?? index))));
    menu.value = String(chosen());
    menu.hidden = list.length < least;
    menu.onchange = () => choose(Number(menu.value));
  }

  // Captions of any origin: of the playlists, and of the picture itself (CEA-608). The engines make a track of them
  // when they find them. A track that was made by script can never be taken away again, only be forgotten.
  let staleTracks = new WeakSet();
  const captionTracks = () => Array.from(video.textTracks).filter((t) => ["captions", "subtitles"].includes(t.kind) && !staleTracks.has(t));
  const shownTrack = () => captionTracks().findIndex((t) => t.mode === "showing");
  function captions() {
    const list = captionTracks();
    const names = list.map((track, index) => ({ id: index, name: track.label || track.language || "Captions " + (index + 1) }));
    tracks("captions", [{ id: -1, name: "CC off" }, ...names], 2, shownTrack, (value) => {
      if (shared.engine === "dash.js" && shared.player) return shared.player.setTextTrack(value);
      if (shared.engine === "hls.js" && shared.player) shared.player.subtitleDisplay = value >= 0;
      list.forEach((track, index) => { track.mode = index === value ? "showing" : "disabled"; });
    });
  }
  video.textTracks.addEventListener("addtrack", (event) => {
    staleTracks.delete(event.track);
    captions();
  });
  video.textTracks.addEventListener("removetrack", captions);
  video.textTracks.addEventListener("change", () => { $("captions").value = String(shownTrack()); });

  async function play() {
    try {
      await video.play();
      $("play-big").hidden = true;
    } catch {
      if (!video.muted) {
        video.muted = true;
        return play();
      }
      $("play-big").hidden = false;
    }
  }

  function latency() {
    const player = shared.player;
    if (over) return null;
    if (shared.engine === "hls.js" && player) return player.latency || null;
    if (shared.engine === "dash.js" && player && player.isReady()) return player.getCurrentLiveLatency() || null;
    if (shared.engine === "native" && video.getStartDate) {
      const began = video.getStartDate().getTime();
      return Number.isNaN(began) ? null : Date.now() / 1000 - (began / 1000 + video.currentTime);
    }
    return null;
  }

  function target() {
    const player = shared.player;
    if (shared.engine === "hls.js" && player) return player.targetLatency || 3;
    if (shared.engine === "dash.js" && player && player.isReady()) return player.getTargetLiveDelay() || 3;
    return 6;
  }

  // See seek.js.
  function reach() {
    const player = shared.player;
    const { seekable } = video;
    const known = (start, end) => Number.isFinite(start) && Number.isFinite(end) ? { start, end, live: !over } : null;
    if (shared.state === "offline" || !video.readyState) return null;
    if (shared.engine === "hls.js" && player) {
      const details = player.latestLevelDetails;
      return details ? known(details.fragmentStart, over ? details.edge : player.liveSyncPosition) : null;
    }
    if (shared.engine === "dash.js" && player && player.isReady()) {
      return over ? known(0, video.duration) : known(player.getDvrWindow().start, video.currentTime + latency() - target());
    }
    if (shared.engine !== "native" || !seekable.length) return null;
    over = $("live").hidden = Number.isFinite(video.duration);
    return known(seekable.start(0), seekable.end(seekable.length - 1) - (over ? 0 : target()));
  }

  // Of a recording, the storyboard begins with it; else it knows the wall clock, as the MPD's own time does.
  function place(at, zero) {
    const player = shared.player;
    if (shared.engine === "dash.js") return at;
    if (over) return at - (reach() || { start: 0 }).start;
    if (shared.engine === "native") return video.getStartDate ? (video.getStartDate().getTime() - zero) / 1000 + at : NaN;
    const found = player && player.latestLevelDetails && player.latestLevelDetails.fragments.find((fragment) => at < fragment.end);
    return found && found.programDateTime ? (found.programDateTime - zero) / 1000 + at - found.start : NaN;
  }

  function seek(at) {
    rewound = !over;
    soughtAt = performance.now();
    if (shared.engine === "dash.js" && shared.player) shared.player.seekToPresentationTime(at);
    else video.currentTime = at;
  }

  function goLive() {
    rewound = false;
    const player = shared.player;
    if (shared.engine === "hls.js" && player && player.liveSyncPosition) video.currentTime = player.liveSyncPosition;
    else if (shared.engine === "dash.js" && player) player.seekToOriginalLive();
    else if (video.seekable.length) video.currentTime = video.seekable.end(video.seekable.length - 1) - 3;
    play();
  }

  function newer() {
    const player = shared.player;
    if (shared.engine === "hls.js" && player) return player.liveSyncPosition || 0;
    return video.seekable.length ? video.seekable.end(video.seekable.length - 1) - target() : 0;
  }

  // A player that stands still is left alone while nothing new comes: its engine goes on by itself when the
  // broadcaster is back, and a new start would lose the place. Only when the stream goes on without it we step in.
  let lastLook = 0;
  let lastSeen = "";
  let runningSince = 0;
  async function look(mine) {
    try {
      const answer = await fetch(hlsUrl, { cache: "no-store" });
      const text = answer.ok ? await media(await answer.text()) : "";
      if (mine !== generation) return;
      if (text.includes("#EXT-X-ENDLIST")) {
        if (!(over || rewound) || performance.now() - lastMoved > STALL_MS) lost(mine, ENDED);
        return;
      }
      if (!text) return lost(mine, "The stream is offline");
      if (text === lastSeen) runningSince = 0;
      else if (lastSeen) runningSince = runningSince || performance.now();
      away = text === lastSeen;
      lastSeen = text;
    } catch {
      runningSince = runningSince || performance.now(); // nobody answers: start anew in the end
    }
  }

  let lastTime = -1;
  let lastMoved = performance.now();
  let lastJump = 0;
  setInterval(() => {
    if (shared.state === "offline") return;
    const seconds = latency();
    shared.latency = seconds;
    seekBar.update();
    const { clock } = seekBar;
    if (over) $("latency").textContent = seekBar.open ? clock(video.currentTime) + " / " + clock(video.duration) : "";
    else $("latency").textContent = seconds === null ? "" : seconds < 60 ? seconds.toFixed(1) + " s" : clock(seconds);
    $("latency").title = over ? "Position" : "Behind the encoder";
    $("live").classList.toggle("on", seconds !== null && seconds < target() + 2.5 && !video.paused);
    const now = performance.now();
    if (now - soughtAt > LOOK_MS && seconds !== null && seconds < target() + 1) rewound = false;
    if (video.currentTime !== lastTime) {
      lastTime = video.currentTime;
      lastMoved = now;
      lastSeen = "";
      runningSince = 0;
      away = false;
      if (!video.paused) {
        pollMs = POLL_MIN_MS;
        say("playing", "");
        if (!rewound && seconds !== null && seconds > target() + BEHIND_S && now - lastJump > 5000 && newer() > video.currentTime + 1) {
          lastJump = now;
          goLive();
        }
      }
    } else if (video.paused) {
      lastMoved = now;
      if (video.readyState > 1) say("paused", "paused");
    } else if (now - lastMoved > 1000) {
      if (now - lastLook > LOOK_MS) {
        lastLook = now;
        look(generation);
      }
      const goesOn = runningSince && now - runningSince;
      say("waiting", away ? "waiting for the broadcaster" : "buffering");
      if (goesOn > STALL_MS) {
        lastMoved = now;
        lost(generation, "Reconnecting");
      } else if (!rewound && goesOn > SKIP_MS && now - lastJump > SKIP_MS && newer() > video.currentTime + 1) {
        lastJump = now;
        goLive();
      }
    }
  }, 250);

  video.addEventListener("playing", () => {
    if (shared.firstFrameMs === null) shared.firstFrameMs = Math.round(performance.now() - opened);
  });
  const icon = (path) => '<svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true"><path d="' + path + '"/></svg>';
  const speaker = "M4 9v6h4l5 5V4L8 9z";
  const icons = () => {
    $("play").innerHTML = icon(video.paused ? "M7 4v16l13-8z" : "M6 4h4v16H6zM14 4h4v16h-4z");
    $("play").setAttribute("aria-label", video.paused ? "Play" : "Pause");
    $("mute").innerHTML = icon(video.muted ? speaker + "M16 9l1-1 6 6-1 1zM22 8l1 1-6 6-1-1z" : speaker + "M15 8v8a5 5 0 0 0 0-8z");
    $("mute").setAttribute("aria-label", video.muted ? "Unmute" : "Mute");
    $("unmute").hidden = !video.muted || video.paused;
  };
  for (const event of ["play", "pause", "volumechange", "playing"]) video.addEventListener(event, icons);

  const toggle = () => {
    if (!video.paused) return video.pause();
    const seconds = latency();
    if (seconds === null || seconds < target() + 10) return play();
    // Where one can rewind, a pause is one; without the room for it, back to the others.
    if (!seekBar.open || video.currentTime < reach().start) return goLive();
    rewound = true;
    play();
  };
  const mute = () => { video.muted = !video.muted; };
  const full = () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else if ($("stage").requestFullscreen) $("stage").requestFullscreen();
    else if (video.webkitEnterFullscreen) video.webkitEnterFullscreen();
  };
  let woken = false; // by the finger that is still down: on a phone the first tap shows the controls, and no more
  $("play").onclick = $("play-big").onclick = toggle;
  video.onclick = () => woken || toggle();
  $("mute").onclick = $("unmute").onclick = mute;
  $("live").onclick = goLive;
  $("full").onclick = full;
  video.ondblclick = full;
  $("volume").oninput = (event) => { video.volume = event.target.valueAsNumber; video.muted = video.volume === 0; };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
    const on = { k: toggle, m: mute, f: full, l: goLive }[event.key];
    if (event.key === " " && !event.target.matches("button")) toggle();
    else if (event.key === "ArrowLeft" && seekBar.open) seekBar.step(-5);
    else if (event.key === "ArrowRight" && seekBar.open) seekBar.step(5);
    else if (event.key === "ArrowUp") video.volume = Math.min(1, video.volume + 0.1);
    else if (event.key === "ArrowDown") video.volume = Math.max(0, video.volume - 0.1);
    else if (on) on();
    else return;
    if (event.key.startsWith("Arrow") || event.key === " ") event.preventDefault();
  });

  let idleTimer = 0;
  const wake = (event) => {
    if (event && event.type === "pointerdown") {
      woken = event.pointerType === "touch" && $("stage").classList.contains("idle");
    }
    $("stage").classList.remove("idle");
    clearTimeout(idleTimer);
    idleTimer = setTimeout(() => $("stage").classList.toggle("idle", !video.paused && !seekBar.held), 3000);
  };
  for (const event of ["pointermove", "pointerdown", "keydown"]) document.addEventListener(event, wake);
  video.addEventListener("pause", wake); // by a headset, or the system: nobody touched the page
  wake();
  $("full").innerHTML = icon("M4 4h6v2H6v4H4zM14 4h6v6h-2V6h-4zM4 14h2v4h4v2H4zM18 14h2v6h-6v-2h4z");
  $("play-big").innerHTML = icon("M7 4v16l13-8z");
  icons();
  if (playback) poll();
  else offline("No such page");
})();
