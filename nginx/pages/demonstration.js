// The demonstration on the edge's page: requests that wait, all sent at the same moment, and a bar for each. A bar is one
// request through the chain: its place is the browser's clock, its parts are `Server-Timing` (nginx/snippets/timing.conf).
(() => {
  "use strict";
  const PARTS = { browser: "#868e96", network: "#74a9cf", queue: "#e03131", app: "#f2b134" }; // colours as in load tests
  const NO_STORE = { cache: "no-store", credentials: "omit" };
  const NS = "http://www.w3.org/2000/svg", WIDTH = 460, LEFT = 2, TOP = 18, STEP = 5.5;
  const section = document.getElementById("demonstration"), button = section.querySelector("button");
  const status = section.querySelector("[role=status]"), figures = [...section.querySelectorAll("figure")];
  const note = document.getElementById("kept-back");
  const COUNT = +section.dataset.count, MS = +section.dataset.ms; // requests to each app, and how long each waits in it
  let running = false, round = 0;

  // Over HTTP/1.1 a browser opens six connections to a name, and the other requests would wait in it: so they go to
  // several names of the same edge, if this browser finds them (Safari does not). Over HTTPS, HTTP/2 takes them all on one
  // connection. What a browser keeps back nevertheless is drawn as its own part.
  async function origins() {
    if (!section.dataset.names || location.protocol !== "http:") return [location.origin];
    const port = location.port && `:${location.port}`;
    const names = [1, 2, 3, 4, 5, 6, 7].map((number) => `http://${number}.${section.dataset.names}${port}`);
    const probe = { ...NO_STORE, signal: AbortSignal.timeout(2000) };
    const asked = await Promise.allSettled(names.map((origin) => fetch(`${origin}${figures[0].dataset.wait}?ms=0`, probe)));
    return [location.origin, ...names.filter((_, number) => asked[number].value?.ok)];
  }

  async function ask(wait, origin, number, start) {
    const url = `${origin}${wait}?ms=${MS}&request=${round}-${number}`, sent = performance.now();
    const answer = await fetch(url, NO_STORE).then(async (begun) => { await begun.text(); return begun; }).catch(() => null);
    if (!answer?.ok) return { failed: answer ? `status ${answer.status}` : "no answer" };
    const told = {};
    for (const [, hop, ms] of (answer.headers.get("Server-Timing") || "").matchAll(/(\w+);dur=([\d.]+)/g)) told[hop] = +ms;
    if (told.upstream === undefined || told.app === undefined) return { failed: "an answer without its times" };
    const seen = performance.getEntriesByName(url).pop(); // of the browser's network process: not late when scripts are
    const begun = seen?.requestStart || sent, end = seen?.responseStart || performance.now();
    const app = told.app - (told.pool || 0), queue = Math.max(told.upstream - app, 0); // a wait for a thread is a queue, too
    const network = Math.max(end - begun - queue - app, 0);
    return { start: sent - start, end: end - start, browser: begun - sent, network, queue, app };
  }

  function make(name, attributes, ...children) {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  // One row a request, in the order of their answers. The axis is the same for all apps.
  function draw(results) {
    const longest = Math.max(MS, ...[...results.values()].flat().map((row) => row.end || 0));
    const scale = (WIDTH - LEFT - 48) / longest, every = Math.ceil(longest / MS / 6); // room for the last tick's words
    for (const [figure, rows] of results) {
      const svg = figure.querySelector("svg");
      svg.replaceChildren();
      for (let step = 0; step * MS <= longest; step += every) {
        const x = LEFT + step * MS * scale;
        svg.append(make("path", { d: `M${x} ${TOP - 4}V${TOP + COUNT * STEP}`, stroke: "currentColor", opacity: 0.25 }),
                   make("text", { x, y: 10, "font-size": 11, fill: "currentColor" }, step ? `${step * MS} ms` : "0"));
      }
      rows.forEach((row, number) => {
        const parts = Object.keys(PARTS).filter((part) => row[part]), y = TOP + number * STEP;
        const bar = make("g", { "data-request": number, "data-failed": row.failed || "" });
        let x = LEFT + (row.start || 0) * scale;
        for (const part of parts) {
          const width = row[part] * scale, opacity = part === "browser" ? 0.5 : 1;
          bar.dataset[part] = row[part].toFixed(1);
          bar.append(make("rect", { x, y, width, height: STEP - 1.5, "data-hop": part, fill: PARTS[part], opacity }));
          x += width;
        }
        bar.append(make("title", {}, row.failed || parts.map((part) => `${part} ${row[part].toFixed(0)} ms`).join(", ")));
        svg.append(bar);
      });
    }
  }

  // In words, from what was measured. Two were in the app at once if the inner 70 % of their time there overlap: a few ms
  // between two clocks do not make two at once of one after the other.
  function summary(figure, rows) {
    const { app, places } = figure.dataset, good = rows.filter((row) => !row.failed);
    const from = (row) => row.end - 0.85 * row.app, to = (row) => row.end - 0.15 * row.app;
    const inside = (row) => good.filter((other) => from(other) <= from(row) && from(row) < to(other)).length;
    const most = Math.max(0, ...good.map(inside)), amount = most === COUNT ? "all" : `at most ${most} of`;
    const queues = good.map((row) => row.queue).filter((queue) => queue > MS / 4);
    const waited = queues.length ? `${queues.length} waited in front of it, up to ${Math.max(...queues).toFixed(0)} ms.`
                                 : "none waited in front of it.";
    const kept = good.filter((row) => row.browser > 0.75 * MS).length; // Firefox, too, takes 0.4 s to send 40
    const said = [`${app}: ${amount} ${COUNT} requests were in the app at once; ${waited}`];
    if (queues.length && most < 0.9 * parseInt(places))
      said.push(`Some of its ${places} stayed free: connections are not spread evenly over the workers.`);
    if (kept) said.push(`${kept} were kept back by this browser.`);
    if (note) note.hidden &&= !kept;
    if (good.length < COUNT) said.push(`${COUNT - good.length} failed: ${rows.find((row) => row.failed).failed}.`);
    return said.join(" ");
  }

  button.addEventListener("click", async () => {
    if (running) return;
    button.ariaDisabled = running = true;
    round += 1;
    performance.clearResourceTimings();
    const results = new Map(figures.map((figure) => [figure, []])), reached = await origins();
    for (const [figure, rows] of [...results].reverse()) { // in turn, because they share the machine; the event loop first
      const start = performance.now();
      status.textContent = `${COUNT} requests are on their way to ${figure.dataset.app} ...`;
      figure.parentElement.hidden = false;
      section.scrollIntoView({ block: "nearest" });
      await Promise.all(Array.from({ length: COUNT }, async (_, number) => {
        rows.push(await ask(figure.dataset.wait, reached[number % reached.length], number, start));
        requestAnimationFrame(() => draw(results));
      }));
    }
    const said = [...results].map(([figure, rows]) => summary(figure, rows));
    figures.forEach((figure, number) => figure.querySelector("svg").setAttribute("aria-label", said[number]));
    status.replaceChildren(...said.map((text) => Object.assign(document.createElement("span"), { textContent: text })));
    draw(results);
    section.dataset.done = round;
    button.ariaDisabled = running = false;
  });
  section.hidden = false;
})();
