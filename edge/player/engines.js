// The engines behind one face. Each plays at once, and gives
//   name, player      for tests and the curious
//   latency()         seconds behind the encoder, null while nobody knows; target(): those that it aims at
//   reach(over)       { start, end } of what can be played again, seconds of video.currentTime; null while nobody knows.
//                     `end` of a live stream is where its viewers are; `over`: it is a recording
//   place(at, zero)   where on the storyboard of a live stream that is; its zero is the wall clock `zero`, in ms
//   edge()            where viewers belong, seconds of video.currentTime; 0 while nobody knows
//   seek(at), goLive(), captions(track, tracks), destroy()
// `host` is the page:
//   video, hlsUrl, dashUrl, embed, play()
//   levels(list, choose), level(height)    what there is to choose from (choose(-1): automatic), what is shown of it
//   sounds(list, chosen, choose)           audio tracks
//   recorded(over), ended()                it is a recording; it has been played to its end
//   error(text, fatal)
"use strict";
window.headraceEngines = (() => {
  const CATCH_UP = 1.1; // playback rate while the latency is too large: converges, and is hardly heard

  function end(video) {
    return video.seekable.length ? video.seekable.end(video.seekable.length - 1) : 0;
  }

  function show(track, tracks) {
    for (const item of tracks) item.mode = item === track ? "showing" : "disabled";
  }

  function hls(host) {
    const { Hls } = window;
    const { video } = host;
    const quick = { maxTimeToFirstByteMs: 8000, maxLoadTimeMs: 12000 };
    const retry = (count) => ({ maxNumRetry: count, retryDelayMs: 300, maxRetryDelayMs: 2000, backoff: "exponential" });
    const policy = (count) => ({ default: { ...quick, timeoutRetry: retry(2), errorRetry: retry(count) } });
    const player = new Hls({
      lowLatencyMode: true,
      maxLiveSyncPlaybackRate: CATCH_UP,
      liveMaxLatencyDuration: undefined,
      backBufferLength: 30,
      maxBufferLength: 20,
      startFragPrefetch: true,
      testBandwidth: false,
      abrEwmaDefaultEstimate: 3_000_000,
      capLevelToPlayerSize: host.embed,
      manifestLoadPolicy: policy(1),
      playlistLoadPolicy: policy(4),
      fragLoadPolicy: policy(4),
    });
    let mediaErrors = 0;
    player.on(Hls.Events.MANIFEST_PARSED, (_, data) => {
      const levels = data.levels.map((level) => ({ height: level.height, bitrate: level.bitrate, name: level.name }));
      host.levels(levels, (value) => { player.nextLevel = value; });
      host.play();
    });
    player.on(Hls.Events.AUDIO_TRACKS_UPDATED, (_, data) => {
      host.sounds(data.audioTracks, () => player.audioTrack, (value) => { player.audioTrack = value; });
    });
    player.on(Hls.Events.LEVEL_UPDATED, (_, data) => host.recorded(!data.details.live));
    player.on(Hls.Events.LEVEL_SWITCHED, (_, data) => host.level((player.levels[data.level] || {}).height));
    player.on(Hls.Events.ERROR, (_, data) => {
      const again = data.fatal && data.type === Hls.ErrorTypes.MEDIA_ERROR && mediaErrors < 2;
      host.error(data.details, data.fatal && !again);
      if (!again) return;
      mediaErrors += 1;
      player.recoverMediaError();
    });
    player.on(Hls.Events.BUFFER_EOS, () => video.addEventListener("ended", host.ended, { once: true }));
    player.subtitleDisplay = false;
    player.loadSource(host.hlsUrl);
    player.attachMedia(video);
    return {
      name: "hls.js",
      player,
      latency: () => player.latency || null,
      target: () => player.targetLatency || 3,
      reach(over) {
        const details = player.latestLevelDetails;
        return details && { start: details.fragmentStart, end: over ? details.edge : player.liveSyncPosition };
      },
      place(at, zero) {
        const details = player.latestLevelDetails;
        const found = details && details.fragments.find((fragment) => at < fragment.end);
        return found && found.programDateTime ? (found.programDateTime - zero) / 1000 + at - found.start : NaN;
      },
      edge: () => player.liveSyncPosition || 0,
      seek(at) { video.currentTime = at; },
      goLive() { video.currentTime = player.liveSyncPosition || Math.max(0, end(video) - 3); },
      captions(track, tracks) {
        player.subtitleDisplay = track !== undefined;
        show(track, tracks);
      },
      destroy: () => player.destroy(),
    };
  }

  // Safari's. Without MSE there is no other on a phone.
  function native(host) {
    const { video } = host;
    const target = () => 6;
    const began = () => video.getStartDate ? video.getStartDate().getTime() : NaN;
    const edge = () => end(video) - target();
    video.src = host.hlsUrl;
    video.onerror = () => host.error(video.error && video.error.message, true);
    video.onended = host.ended;
    video.ondurationchange = () => host.recorded(Number.isFinite(video.duration));
    host.levels([], () => {});
    host.play();
    return {
      name: "native",
      player: null,
      latency: () => Number.isNaN(began()) ? null : (Date.now() - began()) / 1000 - video.currentTime,
      target,
      reach: (over) => video.seekable.length ? { start: video.seekable.start(0), end: over ? video.duration : edge() } : null,
      place: (at, zero) => (began() - zero) / 1000 + at,
      edge,
      seek(at) { video.currentTime = at; },
      goLive() { if (video.seekable.length) video.currentTime = Math.max(video.seekable.start(0), end(video) - 3); },
      captions: show,
      destroy() {
        video.onerror = video.onended = video.ondurationchange = null;
        video.removeAttribute("src");
        video.load();
      },
    };
  }

  function dash(host) {
    const { video } = host;
    const player = window.dashjs.MediaPlayer().create();
    // maxDrift 0: no jumps to the live point, which lies between two Periods when a publisher has just come back; now
    // and then one ended there for good. The page jumps, if need be, while the picture moves.
    const liveCatchup = { enabled: true, maxDrift: 0, playbackRate: { min: -0.04, max: CATCH_UP - 1 } };
    player.updateSettings({ streaming: { liveCatchup, utcSynchronization: { enabled: true }, text: { defaultEnabled: false } } });
    const { events } = window.dashjs.MediaPlayer;
    const look = () => host.recorded(!player.isDynamic());
    player.on(events.DYNAMIC_TO_STATIC, look);
    player.on(events.STREAM_INITIALIZED, () => {
      look();
      const list = player.getRepresentationsByType("video") || [];
      host.levels(list.map((item) => ({ height: item.height, bitrate: item.bandwidth })), (value) => {
        player.updateSettings({ streaming: { abr: { autoSwitchBitrate: { video: value < 0 } } } });
        if (value >= 0) player.setRepresentationForTypeByIndex("video", value, true);
      });
      host.play();
    });
    player.on(events.QUALITY_CHANGE_RENDERED, (event) => {
      if (event.mediaType === "video" && event.newRepresentation) host.level(event.newRepresentation.height);
    });
    player.on(events.ERROR, (event) => host.error(event.error && event.error.message, true));
    // dash.js says it at the end of any Period that it did not leave by itself: where a publisher has just come back.
    player.on(events.PLAYBACK_ENDED, () => { if (!player.isDynamic()) host.ended(); });
    player.initialize(video, host.dashUrl, true);
    const latency = () => player.isReady() ? player.getCurrentLiveLatency() || null : null;
    const target = () => player.isReady() ? player.getTargetLiveDelay() || 3 : 3;
    const live = () => video.currentTime + latency() - target();
    // Behind a publisher's absence, dash.js waits as long again once it has what comes next. We go there when it is due;
    // who has gone back in time, at once.
    let stoodAt = -1;
    const leap = setInterval(() => {
      const at = video.currentTime;
      const next = Array.from({ length: video.buffered.length }, (_, index) => video.buffered.start(index)).find((start) => start > at);
      if (at === stoodAt && next < live() && !video.paused && !video.seeking) player.seekToPresentationTime(next + 0.01);
      stoodAt = at;
    }, 250);
    return {
      name: "dash.js",
      player,
      latency,
      target,
      reach(over) {
        if (!player.isReady()) return null;
        return over ? { start: 0, end: video.duration } : { start: player.getDvrWindow().start, end: live() };
      },
      place: (at) => at, // its clock is the MPD's, and that is the storyboard's
      edge: () => end(video) - target(),
      seek(at) { player.seekToPresentationTime(at); },
      goLive: () => player.seekToOriginalLive(),
      captions: (track, tracks) => player.setTextTrack(tracks.indexOf(track)),
      destroy() {
        clearInterval(leap);
        player.destroy(); // all of it: a reset() after it throws
      },
    };
  }

  return { hls, native, dash };
})();
