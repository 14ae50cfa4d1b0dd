// The watch page. One stream, one of three engines (engines.js): hls.js (where there is MSE), the browser's own HLS
// (Safari on a phone), dash.js (?dash=1); and a seek bar (seek.js). `window.headrace` shows tests and the curious what goes on.
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
  let engine = null;
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
    const old = engine;
    engine = shared.player = null;
    if (old) old.destroy();
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
        if (mine === generation) begin(mine, window.headraceEngines.dash);
        return;
      }
      if (!window.Hls) await load(document.body.dataset.hls);
      if (mine !== generation) return;
      if (window.Hls && window.Hls.isSupported()) begin(mine, window.headraceEngines.hls);
      else if (video.canPlayType("application/vnd.apple.mpegurl")) begin(mine, window.headraceEngines.native);
      else offline("This browser cannot play the stream", "It has neither Media Source Extensions nor HLS of its own.");
    } catch (error) {
      offline("The player cannot be loaded", "This page tries again by itself.");
    }
  }

  function lost(mine, text) {
    if (mine !== generation) return;
    done = text === ENDED;
    shared.restarts += 1;
    shared.lastLoss = text + (shared.lastError ? " (last error: " + shared.lastError + ")" : "");
    pollMs = POLL_MIN_MS;
    offline(text);
  }

  function begin(mine, make) {
    const current = () => mine === generation;
    const started = make({
      video, hlsUrl, dashUrl, play, embed: options.get("embed") !== null,
      levels(list, choose) {
        shared.levels = list;
        qualities(list.map((level, index) => [index, label(level.height, level.bitrate)]), choose);
      },
      level(height) {
        $("quality").options[0].textContent = Number($("quality").value) < 0 && height !== undefined ? "Auto (" + (height || "audio") + ")" : "Auto";
      },
      sounds: (list, chosen, choose) => tracks("audio", list, 2, chosen, choose),
      recorded(yes) { if (current()) over = $("live").hidden = yes; },
      ended: () => lost(mine, ENDED),
      error(text, fatal) {
        shared.errors += 1;
        shared.lastError = text;
        if (fatal) lost(mine, "The stream is offline");
      },
    });
    if (!current()) return started.destroy();
    engine = started;
    shared.engine = engine.name;
    shared.player = engine.player;
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
      if (engine) engine.captions(list[value], list);
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

  const latency = () => engine && !over ? engine.latency() : null;
  const target = () => engine ? engine.target() : 3;
  const newer = () => engine ? engine.edge() : 0;

  // See seek.js.
  function reach() {
    const found = engine && shared.state !== "offline" && video.readyState ? engine.reach(over) : null;
    return found && Number.isFinite(found.start) && Number.isFinite(found.end) ? { ...found, live: !over } : null;
  }

  // The storyboard of a recording begins with it.
  function place(at, zero) {
    if (!engine) return NaN;
    return over ? at - (engine.reach(over) || { start: 0 }).start : engine.place(at, zero);
  }

  function seek(at) {
    rewound = !over;
    soughtAt = performance.now();
    if (engine) engine.seek(at);
  }

  function goLive() {
    rewound = false;
    if (engine) engine.goLive();
    play();
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
    idleTimer = setTimeout(() => seekBar.held ? wake() : $("stage").classList.toggle("idle", !video.paused), 3000);
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
