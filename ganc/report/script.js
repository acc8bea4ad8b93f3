"use strict";

// The theme: what the system says, until the reader says otherwise.
const theme = document.getElementById("theme");
const themes = ["auto", "light", "dark"];
theme.hidden = false;
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const next = themes[(themes.indexOf(root.dataset.theme ?? "auto") + 1) % themes.length];
  root.dataset.theme = next;
  theme.textContent = `Theme: ${next}`;
});

// Galleries: one tab stop each, arrow keys inside, Enter or a click opens the large view.
const zoom = document.getElementById("zoom");
const large = zoom.querySelector(".large");
let open = null; // the gallery and the column that the large view shows

function shots(gallery) {
  return [...gallery.tBodies[0].rows].map((row) => [...row.querySelectorAll(".shot")]);
}

function show(gallery, column) {
  const rows = shots(gallery);
  const wrapped = (column + rows[0].length) % rows[0].length;
  open = { gallery, column: wrapped };
  zoom.classList.toggle("coarse", gallery.classList.contains("coarse"));
  document.getElementById("zoom-title").textContent = rows[0][wrapped].dataset.title;
  large.style.setProperty("--count", rows.length);
  large.replaceChildren(...rows.map((row) => picture(row[wrapped])));
}

function picture(shot) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const label = shot.closest("tr").querySelector("th").firstElementChild;
  caption.append(label.cloneNode(true));
  figure.append(caption, shot.querySelector("img").cloneNode());
  return figure;
}

function focusOn(shot) {
  for (const other of shot.closest("table").querySelectorAll(".shot")) other.tabIndex = -1;
  shot.tabIndex = 0;
  shot.focus();
}

const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function walk(event) {
  const move = moves[event.key];
  const shot = event.target.closest(".shot");
  if (!move || !shot) return;
  const rows = shots(shot.closest("table"));
  const row = rows.findIndex((own) => own.includes(shot));
  const next = rows[row + move[0]]?.[rows[row].indexOf(shot) + move[1]];
  if (next) focusOn(next);
  event.preventDefault();
}

for (const gallery of document.querySelectorAll(".gallery")) {
  const all = shots(gallery).flat();
  all.forEach((shot, index) => {
    shot.tabIndex = index ? -1 : 0;
    shot.addEventListener("click", () => {
      show(gallery, Number(shot.dataset.column));
      zoom.showModal();
    });
  });
  gallery.addEventListener("keydown", walk);
}

zoom.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) show(open.gallery, open.column + step);
});
zoom.addEventListener("click", (event) => {
  const step = Number(event.target.dataset.step ?? 0);
  if (step) show(open.gallery, open.column + step);
  if ("close" in event.target.dataset || event.target === large) zoom.close();
});
zoom.addEventListener("close", () => large.replaceChildren());
