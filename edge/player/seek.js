// The seek bar: what of the stream can be played again, with a picture of each place. It knows no engine; `host` does:
//   video, root     the element; the address of the stream's folder
//   reach()         { start, end, live }, seconds of video.currentTime; `end` of a live stream is where its viewers are;
//                   null while nobody knows
//   place(at, zero) seconds on the storyboard, whose zero is the wall clock `zero` (ms)
//   seek(at), goLive()
"use strict";
window.headraceSeek = (host) => {
  const $ = (id) => document.getElementById(id);
  const bar = $("seek");
  const SHOW_S = 33; // every stream has half a minute in memory: no bar for that
  const STEP_S = 5;
  const PAGE_S = 30;
  const EDGE_S = 1.5; // nearer to the live edge than this is live
  const FADING_S = 4; // the oldest of a live window is gone before it is loaded
  const FRESH_MS = 5000; // a live storyboard changes with each segment
  const MAX_CHARS = 1_000_000; // 720 pictures are 80 kB
  const MAX_CUES = 2000;

  let span = null; // what the bar shows now: reach()
  let held = false; // by a pointer: the bar says where it would go, not where the video is
  let hover = null; // the place under the pointer
  let board = { zero: 0, cues: [] };
  let asked = -Infinity;
  let loading = false; // one picture at a time; the newest wanted is the next
  let wanted = "";

  const at = () => bar.valueAsNumber + (span.live ? span.end : span.start);

  function clock(seconds) {
    const s = Math.max(0, Math.round(seconds));
    const two = (n) => String(n).padStart(2, "0");
    return (s >= 3600 ? Math.floor(s / 3600) + ":" + two(Math.floor(s / 60) % 60) : Math.floor(s / 60)) + ":" + two(s % 60);
  }

  function words(seconds) {
    const s = Math.max(0, Math.round(seconds));
    const parts = [[Math.floor(s / 3600), "h"], [Math.floor(s / 60) % 60, "min"], [s % 60, "s"]];
    return parts.filter(([n], i) => n || (i === 2 && s < 60)).map(([n, unit]) => n + " " + unit).join(" ");
  }

  // Of a place: for eyes ("-1:05", "2:10"), and for ears.
  const shown = (where) => !span.live ? clock(where - span.start) : span.end - where < EDGE_S ? "LIVE" : "-" + clock(span.end - where);
  const said = (where) => !span.live ? words(where - span.start) + " of " + words(span.end - span.start)
    : span.end - where < EDGE_S ? "live" : words(span.end - where) + " behind live";

  // Four times a second, by the page.
  function update() {
    const now = host.reach();
    const show = now !== null && (now.live ? now.end - now.start > SHOW_S : now.end - now.start > 1);
    bar.hidden = !show;
    if (!show) {
      span = hover = null;
      held = false;
      preview();
      return;
    }
    span = now;
    const [low, high] = now.live ? [now.start - now.end, 0] : [0, now.end - now.start];
    if (!held) {
      bar.min = low.toFixed(2);
      bar.max = high.toFixed(2);
      bar.value = (host.video.currentTime - (now.live ? now.end : now.start)).toFixed(2);
    }
    bar.style.setProperty("--played", ((100 * (bar.value - bar.min)) / (bar.max - bar.min || 1)).toFixed(2) + "%");
    const text = said(at());
    if (bar.getAttribute("aria-valuetext") !== text) bar.setAttribute("aria-valuetext", text);
    preview();
  }

  function go(where) {
    if (!span) return;
    if (span.live && span.end - where < EDGE_S) host.goLive();
    else host.seek(Math.min(Math.max(where, span.start + (span.live ? FADING_S : 0)), span.end));
    update();
  }

  const step = (seconds) => go(host.video.currentTime + seconds);

  // WebVTT as our server writes it. What is no cue with a picture of this stream is left out.
  function parse(text) {
    const cues = [];
    const zero = Date.parse((/^NOTE zero is (\S+)$/m.exec(text) || [])[1]) || 0;
    const lines = text.split(/\r?\n/);
    const seconds = (stamp) => stamp.split(":").reduce((sum, part) => sum * 60 + Number(part), 0);
    for (let i = 0; i + 1 < lines.length && cues.length < MAX_CUES; i += 1) {
      const times = /^([\d:.]{5,16}) --> ([\d:.]{5,16})/.exec(lines[i]);
      const name = times && /^[\w-]+\.jpg(?=#|$)/.exec(lines[i + 1]);
      if (name) cues.push({ from: seconds(times[1]), to: seconds(times[2]), url: host.root + name[0] });
    }
    return { zero, cues };
  }

  async function refresh() {
    if (performance.now() - asked < (span.live || !board.cues.length ? FRESH_MS : Infinity)) return;
    asked = performance.now();
    try {
      const answer = await fetch(host.root + "storyboard.vtt");
      const text = answer.ok ? await answer.text() : "";
      if (text.startsWith("WEBVTT") && text.length <= MAX_CHARS) board = parse(text);
    } catch {
      // No pictures, then: the time is shown all the same.
    }
  }

  function draw() {
    const image = $("preview-image");
    if (loading || !wanted || image.dataset.url === wanted) return;
    loading = true;
    image.dataset.url = wanted;
    image.src = wanted;
  }
  for (const event of ["load", "error"]) {
    $("preview-image").addEventListener(event, () => {
      loading = false;
      $("preview-image").hidden = event === "error";
      draw();
    });
  }

  // The picture and the time of the place under the pointer, under the finger, or, by keyboard, of the thumb.
  function preview() {
    const where = !span || $("stage").classList.contains("idle") ? null : held || (hover === null && bar.matches(":focus-visible")) ? at() : hover;
    $("preview").hidden = where === null;
    if (where === null) return;
    refresh();
    $("preview-time").textContent = shown(where);
    const place = host.place(where, board.zero);
    const cue = board.cues.findLast((item) => item.from <= place && place < item.to + 1);
    wanted = cue ? cue.url : "";
    if (!cue) $("preview-image").hidden = true;
    else if (!loading && $("preview-image").dataset.url === wanted) $("preview-image").hidden = false;
    draw();
    const ratio = (where - span.start) / (span.end - span.start || 1);
    const box = $("preview").offsetWidth;
    const x = bar.offsetLeft + THUMB_PX / 2 + ratio * (bar.offsetWidth - THUMB_PX) - box / 2;
    $("preview").style.left = Math.round(Math.min(Math.max(x, bar.offsetLeft), bar.offsetLeft + bar.offsetWidth - box)) + "px";
  }

  const THUMB_PX = 14; // as in player.css: the middle of the thumb does not reach the ends
  bar.addEventListener("pointermove", (event) => {
    if (!span || event.pointerType === "touch") return;
    const box = bar.getBoundingClientRect();
    const ratio = (event.clientX - box.left - THUMB_PX / 2) / (box.width - THUMB_PX);
    hover = span.start + Math.min(1, Math.max(0, ratio)) * (span.end - span.start);
    preview();
  });
  bar.addEventListener("pointerleave", () => { hover = null; preview(); });
  bar.addEventListener("blur", () => { held = false; preview(); });
  bar.addEventListener("focus", preview);
  bar.addEventListener("input", () => { held = span !== null; hover = null; preview(); });
  bar.addEventListener("change", () => {
    if (!span) return;
    const where = at();
    held = false;
    go(where);
  });
  bar.addEventListener("keydown", (event) => {
    if (!span || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: -STEP_S, ArrowDown: -STEP_S, ArrowRight: STEP_S, ArrowUp: STEP_S, PageDown: -PAGE_S, PageUp: PAGE_S }[event.key];
    hover = null;
    if (by) step(by);
    else if (event.key === "Home") go(span.start);
    else if (event.key === "End") go(span.end);
    else return;
    event.preventDefault();
  });

  // Of another start, or another day: nothing of the old one holds.
  function reset() {
    board = { zero: 0, cues: [] };
    asked = -Infinity;
    update();
  }

  return { update, step, reset, clock, get open() { return span !== null; }, get held() { return held; } };
};
