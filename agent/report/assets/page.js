"use strict";
// A player: the slider, the lanes below and the video show the same row; a click on a lane goes to its row.
function equip(player) {
  const video = player.querySelector("video"), controls = player.querySelector(".controls");
  if (!video || !controls) return;
  const button = player.querySelector("button"), slider = controls.querySelector("input");
  const rows = Number(controls.dataset.rows), fps = Number(controls.dataset.fps);
  const data = player.querySelector("script"), readout = player.querySelector(".readout");
  const state = data ? JSON.parse(data.textContent) : null;
  const heads = player.querySelectorAll("[data-track] .head");
  const digits = (x) => (x === null ? "–" : x.toFixed(Math.abs(x) < 100 ? 2 : 0));
  video.controls = false;

  function say(name, value, colour) {
    const line = document.createElement("div"), label = document.createElement("span"), bold = document.createElement("b");
    if (colour) {
      const swatch = document.createElement("i");
      swatch.className = "swatch";
      swatch.style.background = colour;
      bold.append(swatch);
    }
    label.textContent = name;
    bold.append(value);
    line.append(label, bold);
    readout.append(line);
  }
  function tell(row) {
    readout.textContent = "";
    if (state.component) {
      const number = state.component[row];
      if (state.pictures[number]) {
        const picture = document.createElement("img");
        picture.src = state.pictures[number];
        picture.alt = `component ${number}, decoded`;
        readout.append(picture);
      }
      say("component", String(number), state.colours[number]);
    }
    say("row", String(row));
    say("time", `${(row / fps).toFixed(2)} s`);
    for (const [name, values] of Object.entries(state.series)) say(name, digits(values[row]));
  }
  function show(row) {
    slider.value = row;
    heads.forEach((head) => { head.style.left = (100 * (row + 0.5)) / rows + "%"; });
    if (state) tell(row);
  }
  const rowNow = () => Math.max(0, Math.min(rows - 1, Math.floor(video.currentTime * fps + 1e-3)));
  function goTo(row) {
    row = Math.max(0, Math.min(rows - 1, row));
    video.currentTime = (row + 0.5) / fps;
    show(row);
  }
  function follow() {
    if (video.paused) return;
    show(rowNow());
    requestAnimationFrame(follow);
  }
  slider.addEventListener("input", () => { video.pause(); goTo(Number(slider.value)); });
  button.addEventListener("click", () => (video.paused ? video.play() : video.pause()));
  video.addEventListener("click", () => button.click());
  video.addEventListener("play", () => { button.textContent = "❚❚"; follow(); });
  video.addEventListener("pause", () => { button.textContent = "▶"; });
  player.querySelectorAll("[data-track]").forEach((track) => {
    const at = (event) => {
      const box = track.getBoundingClientRect();
      goTo(Math.floor(((event.clientX - box.left) / box.width) * rows));
    };
    track.addEventListener("pointerdown", (event) => { video.pause(); at(event); });
    track.addEventListener("pointermove", (event) => { if (event.buttons & 1) at(event); });
  });
  show(0);
}
document.querySelectorAll(".player").forEach(equip);
