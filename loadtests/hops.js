// The chart of the tab "Where the time goes": a stacked bar per route, the last two minutes, the generator's verdict.
// No library: Locust's page brings none that a script can use.
(() => {
  "use strict";
  const COLOURS = { generator: "#868e96", network: "#74a9cf", nginx: "#2b8a3e", queue: "#e03131", pool: "#e8590c",
                    app: "#f2b134", upstream: "#b08968", body: "#b197fc" };
  const NS = "http://www.w3.org/2000/svg";
  const make = (name, attributes, ...children) => {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const ms = (value) => (value >= 100 ? value.toFixed(0) : value.toFixed(1)) + " ms";
  const text = (x, y, content, extra = {}) =>
    make("text", { x, y, fill: "currentColor", "font-size": 12, ...extra }, content);
  const box = (x, y, width, height, hop, title) =>
    make("rect", { x, y, width: Math.max(width, 0), height: Math.max(height, 0), fill: COLOURS[hop], "data-hop": hop },
         make("title", {}, title));

  function bars(data) { // mean per route, hop after hop
    const rows = data.rows.filter((row) => data.hops.some((hop) => row[hop])).sort((a, b) => b.mean - a.mean);
    const widest = Math.max(...rows.map((row) => row.mean), 1e-9), left = 250, width = 660, step = 20;
    const parts = rows.flatMap((row, number) => {
      const y = number * step;
      let x = left;
      const drawn = [text(left - 8, y + 13, row.name, { "text-anchor": "end" })];
      for (const hop of data.hops.filter((hop) => row[hop])) {
        const share = row[hop] / widest * width;
        drawn.push(box(x, y + 2, share, step - 5, hop, `${row.name}: ${hop} ${ms(row[hop])} of ${ms(row.mean)}`));
        x += share;
      }
      return [...drawn, text(Math.min(x, left + width) + 6, y + 13, ms(row.mean))];
    });
    return make("svg", { viewBox: `0 0 1000 ${rows.length * step + 4}`, id: "hops-routes", width: "100%" }, ...parts);
  }

  function series(data) { // the last two minutes of all routes: mean time, hop upon hop
    const points = data.series.filter((point) => point.ago < 120), left = 60, width = 930, height = 130;
    const sum = (point) => data.hops.reduce((all, hop) => all + (point[hop] || 0), 0);
    const highest = Math.max(...points.map(sum), 1e-9), bar = width / 120;
    const parts = points.flatMap((point) => { // by their time: seconds without an answer stay empty
      let y = height;
      const x = left + width - (point.ago + 1) / 120 * width;
      return data.hops.filter((hop) => point[hop]).map((hop) => {
        const share = point[hop] / highest * (height - 14);
        y -= share;
        return box(x, y, bar - 0.5, share, hop, `${hop} ${ms(point[hop])}; ${point.requests.toFixed(0)}/s, ${point.failed} failed`);
      });
    });
    return make("svg", { viewBox: `0 0 1000 ${height + 20}`, id: "hops-series", width: "100%" }, ...parts,
      text(left - 6, 20, ms(highest), { "text-anchor": "end" }), text(left - 6, height, "0", { "text-anchor": "end" }),
      text(left, height + 15, "2 minutes ago"), text(left + width, height + 15, "now", { "text-anchor": "end" }));
  }

  function head(data) {
    const used = data.hops.filter((hop) => data.rows.some((row) => row[hop]));
    const line = document.createElement("div");
    line.style.cssText = "display:flex;flex-wrap:wrap;gap:.3rem 1rem;align-items:center;margin:.5rem 0;font-size:.85rem";
    const word = document.createElement("b");
    word.id = "hops-verdict";
    word.textContent = `Generator: ${data.verdict}`;
    word.style.color = { OK: "#2b8a3e", WARN: "#e8590c", INVALID: "#e03131" }[data.verdict];
    word.title = data.reasons.join("; ") || "it sent its requests on time";
    line.append(word);
    for (const hop of used) {
      const key = document.createElement("span"), dot = document.createElement("span");
      dot.style.cssText = `display:inline-block;width:.8em;height:.8em;margin-right:.35em;background:${COLOURS[hop]}`;
      key.append(dot, hop);
      line.append(key);
    }
    const busy = document.createElement("div");
    busy.style.fontSize = ".85rem";
    busy.append(...[...data.reasons, ...Object.entries(data.busy).map(([app, said]) => `${app}: ${said}`)].map((said) => {
      const row = document.createElement("div");
      row.textContent = said;
      return row;
    }));
    return [line, busy];
  }

  async function draw() {
    const shown = new URLSearchParams(location.search).get("tab") === "hops";
    let chart = document.getElementById("hops-chart");
    const table = shown && document.querySelector("main table, #root table");
    if (!table) { chart?.remove(); return; }
    const answer = await fetch("./gatehouse/hops.json", { redirect: "error" });
    if (!answer.ok) return;
    const data = await answer.json();
    if (!chart?.isConnected) {
      chart = document.createElement("div");
      chart.id = "hops-chart";
      const paper = table.closest(".MuiPaper-root") || table;
      paper.parentElement.insertBefore(chart, paper);
    }
    chart.replaceChildren(...head(data), ...(data.rows.length ? [series(data), bars(data)] : []));
  }
  setInterval(() => draw().catch(() => {}), 1000);
})();
