"use strict";
// Draws the figures of a report with Plotly, and the map of its rows. Texts of the data are only ever set as
// textContent; names in figures are escaped when the page is made.

const COLORS = ["#3b7dd8", "#e07b39", "#3a9e6b", "#c94f7c", "#8a63d2", "#b8a12c", "#2aa5b5", "#8c6d4f", "#d65f5f",
  "#6b8e23", "#5566aa", "#cc79a7", "#009e73", "#e69f00", "#56b4e9", "#a05195", "#7a9a01", "#ff7c43", "#4b6584",
  "#20bf6b", "#a55eea", "#eb3b5a", "#778ca3", "#999999"];
const SHOWN = 30;

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

// Theme

const media = window.matchMedia("(prefers-color-scheme: dark)");
const button = document.getElementById("theme");
const drawn = new Set();

function setTheme(isDark) {
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  button.setAttribute("aria-pressed", String(isDark));
  drawn.forEach((redraw) => redraw());
}

setTheme(media.matches);
media.addEventListener("change", (event) => setTheme(event.matches));
button.addEventListener("click", () => setTheme(button.getAttribute("aria-pressed") !== "true"));

// Links within the page

// In a frame of a notebook the base of links is the address of the notebook, which a link to a section would load.
if (location.protocol === "about:") document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  const target = link && document.getElementById(link.hash.slice(1));
  if (!target) return;
  event.preventDefault();
  target.tabIndex = -1;
  target.focus({ preventScroll: true });
  target.scrollIntoView();
});

// Figures

const CONFIG = { displayModeBar: false, responsive: true, showTips: false };

function themed(layout) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line") };
  return {
    margin: { l: 60, r: 20, t: 10, b: 50 },
    hovermode: "closest",
    legend: { orientation: "h", y: 1.12 },
    ...layout,
    font: { family: "inherit", size: 13, color: css("--text") },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: COLORS,
    hoverlabel: { bgcolor: css("--card"), font: { color: css("--text") }, bordercolor: css("--line") },
    xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
    shapes: (layout.shapes || []).map((shape) => ({ ...shape, line: { ...shape.line, color: css("--text") } })),
  };
}

function drawFigure(element) {
  const spec = JSON.parse(element.querySelector("script").textContent);
  const draw = () => Plotly.react(element, spec.data, themed(spec.layout), CONFIG);
  element.replaceChildren();
  draw();
  drawn.add(draw);
}

// Figures are drawn when they come near the screen, so that a long page opens at once.
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting)) {
    watcher.unobserve(entry.target);
    drawFigure(entry.target);
  }
}, { rootMargin: "600px" });
document.querySelectorAll(".plot").forEach((element) => watcher.observe(element));

// Map

function unpack(text, Type) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Type(bytes.buffer);
}

const hasWebGL = () => {
  try {
    const context = document.createElement("canvas").getContext("webgl");
    return Boolean(context);
  } catch {
    return false;
  }
};

function drawMap(root) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const part = (role) => root.querySelector(`[data-role="${role}"]`);
  const plot = root.querySelector(".plot-map"), tip = root.querySelector(".tip");
  const projections = Object.fromEntries(Object.entries(data.projections).map(([name, text]) => [name, unpack(text, Float32Array)]));
  const neighbors = unpack(data.neighbors, data.wide ? Uint32Array : Uint16Array);
  const cosines = unpack(data.cosines, Int16Array);
  data.colors.forEach((color) => { color.values = unpack(color.values, color.kind === "group" ? Uint8Array : Float32Array); });
  const searchable = data.texts.map((text) => text.toLowerCase());
  const type = hasWebGL() ? "scattergl" : "scatter";
  let chosen = -1, hits = [];

  Object.keys(projections).forEach((name) => part("projection").append(new Option(name, name)));
  data.colors.forEach((color, index) => part("color").append(new Option(color.name, String(index))));
  const positions = (rows) => {
    const points = projections[part("projection").value];
    return { x: rows.map((row) => points[2 * row]), y: rows.map((row) => points[2 * row + 1]), customdata: rows };
  };
  const size = Math.max(3, Math.min(9, 60 / Math.sqrt(data.count) + 3));
  const base = { type, mode: "markers", hoverinfo: "none" };

  function points() {
    const color = data.colors[Number(part("color").value)];
    if (color.kind === "number") {
      const values = color.values;
      const rows = Array.from(values.keys()).filter((row) => !Number.isNaN(values[row]));
      const without = Array.from(values.keys()).filter((row) => Number.isNaN(values[row]));
      return [
        { ...base, ...positions(without), name: "none", showlegend: false, marker: { size, color: css("--line"), opacity: 0.6 } },
        { ...base, ...positions(rows), name: color.name, showlegend: false,
          marker: { size, opacity: 0.8, color: rows.map((row) => values[row]), colorscale: "Viridis", showscale: true } },
      ];
    }
    const groups = color.groups.map(() => []);
    color.values.forEach((code, row) => groups[code].push(row));
    return groups.map((rows, code) => ({
      ...base, ...positions(rows), name: color.groups[code],
      marker: { size, color: COLORS[code % COLORS.length], opacity: 0.75 },
    }));
  }

  function marked() {
    const ring = (rows, color, name, width) => ({
      ...base, ...positions(rows), name, showlegend: false,
      marker: { size: size + 6, color: "rgba(0,0,0,0)", line: { color, width } },
    });
    const traces = [ring(hits, css("--text"), "found", 1.5)];
    if (chosen >= 0) traces.push(ring(nearest(chosen), css("--bad"), "nearest", 2), ring([chosen], css("--accent"), "chosen", 4));
    return traces;
  }

  const nearest = (row) => Array.from(neighbors.subarray(row * data.neighborCount, (row + 1) * data.neighborCount));
  const draw = () => Plotly.react(plot, [...points(), ...marked()], themed({
    xaxis: { showticklabels: false, showgrid: false, zeroline: false, showline: false },
    yaxis: { showticklabels: false, showgrid: false, zeroline: false, showline: false, scaleanchor: "x" },
    margin: { l: 10, r: 10, t: 10, b: 10 }, dragmode: "pan", uirevision: part("projection").value,
    legend: { orientation: "h", y: -0.02, itemsizing: "constant" },
  }), { ...CONFIG, scrollZoom: true });

  const line = (row, cosine) => {
    const item = make("li"), button = make("button");
    button.type = "button";
    button.append(make("span", "word", cosine === undefined ? `${data.ids[row]} ` : `${cosine.toFixed(3)} ${data.ids[row]} `));
    button.append(make("bdi", "", data.texts[row].slice(0, 160)));
    button.addEventListener("click", () => choose(row));
    item.append(button);
    return item;
  };

  function valuesOf(row) {
    return data.colors.map((color) => {
      const value = color.values[row];
      return `${color.name}: ${color.kind === "group" ? unescapeLabel(color.groups[value]) : Number(value.toPrecision(4))}`;
    });
  }

  function choose(row) {
    chosen = row;
    const text = make("div", "text", data.texts[row]);
    text.dir = "auto";
    const name = make("p", "id");
    name.append(make("bdi", "", data.ids[row]));
    const around = make("ol");
    nearest(row).forEach((other, rank) => around.append(line(other, cosines[row * data.neighborCount + rank] / 30000)));
    const values = make("p", "word", valuesOf(row).join(" · "));
    part("row").replaceChildren(name, text, make("h3", "", "Nearest rows, by cosine"), around, values);
    draw();
  }

  function search() {
    const wanted = part("search").value.trim().toLowerCase();
    hits = [];
    if (wanted) searchable.forEach((text, row) => { if (text.includes(wanted) || data.ids[row].toLowerCase().includes(wanted)) hits.push(row); });
    const more = hits.length > SHOWN ? `, the first ${SHOWN} are listed` : "";
    part("count").textContent = wanted ? `${hits.length.toLocaleString("en")} rows found${more}` : "";
    part("found").replaceChildren(...hits.slice(0, SHOWN).map((row) => line(row)));
    draw();
  }

  let waiting;
  part("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 150); });
  part("search").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    clearTimeout(waiting);
    search();
    if (hits.length) choose(hits[0]);
  });
  part("color").addEventListener("change", draw);
  part("projection").addEventListener("change", draw);
  draw();
  drawn.add(draw);
  plot.on("plotly_hover", (event) => {
    const point = event.points[0], bounds = root.querySelector(".canvas").getBoundingClientRect();
    tip.textContent = `${data.ids[point.customdata]}\n${data.texts[point.customdata].slice(0, 400)}`;
    tip.hidden = false;
    const x = event.event.clientX - bounds.left, y = event.event.clientY - bounds.top;
    tip.style.left = `${Math.max(0, Math.min(x + 14, bounds.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(0, Math.min(y + 14, bounds.height - tip.offsetHeight - 4))}px`;
  });
  plot.on("plotly_unhover", () => { tip.hidden = true; });
  plot.on("plotly_click", (event) => choose(event.points[0].customdata));
}

// Names of groups are escaped for Plotly, which reads markup; as textContent they are shown as they were.
const unescapeLabel = (text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

document.querySelectorAll("[data-map]").forEach(drawMap);
