/* A static page: pictures from the data beside it, a circuit's edges chosen by the reader, tables
   that sort. How a scene becomes a figure is the app's own script (kc.js), which stands before. */
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const LISTED = 12;
  const narrow = window.matchMedia("(max-width: 600px)").matches;
  const config = { displaylogo: false, responsive: true, scrollZoom: false,
    displayModeBar: narrow ? false : "hover",
    modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]] };

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function text(markup) {
    const body = new DOMParser().parseFromString(markup.replace(/<br>/g, "\n"), "text/html").body;
    return body.textContent;
  }

  function graph(section, drawn) {
    const scene = drawn.scene, edges = scene.edges, names = scene.nodes.name;
    const one = (name) => section.querySelector(name);
    const pane = one(".picture"), details = one(".details");
    const view = { n: drawn.shown, t: 0, node: "", edge: "", q: "", role: [], kind: [],
      layers: null, hide: [], groups: [], only: false, off: [] };
    // By this name kc.js knows how wide pictures are, and that Escape lets a choice go.
    if (!document.getElementById("picture")) pane.id = "picture";
    const place = new Map(edges.name.map((name, index) => [name, index]));

    function draw() {
      const made = window.kcScene.figureOf(scene, view);
      const layout = Object.assign({}, made.figure.layout, { dragmode: narrow ? false : "pan" });
      if (narrow) {  // room for what stands at the left
        const [left, right] = layout.xaxis.range;
        layout.xaxis = Object.assign({}, layout.xaxis, { range: [left - 0.4, right] });
      }
      window.Plotly.react(pane, made.figure.data, layout, config);
      one(".count").textContent = made.count.toLocaleString("en-US") + " of " +
        edges.name.length.toLocaleString("en-US");
      one(".least").textContent = window.kcScene.short(view.t);
      section.querySelectorAll(".listing[data-picks] tr[data-pick]").forEach((row) => {
        const edge = place.get(row.dataset.pick);
        const chosen = row.dataset.pick === view.edge || row.dataset.pick === view.node;
        row.classList.toggle("picked", chosen);
        row.classList.toggle("out", edge !== undefined && !made.shown[edge]);
      });
    }

    function pick(name) {
      view.node = name && !name.includes("->") ? name : "";
      view.edge = name && name.includes("->") ? name : "";
      tell();
      draw();
    }

    function list(title, members) {
      if (!members.length) return;
      details.append(element("h3", title + " (" + members.length + ")"));
      const items = element("ul");
      members.sort((a, b) => edges.size[b] - edges.size[a]);
      members.slice(0, LISTED).forEach((edge) => {
        const item = element("li"), button = element("button", edges.name[edge]);
        button.type = "button";
        button.addEventListener("click", () => pick(edges.name[edge]));
        item.append(button, element("span", text(edges.title[edge]).split("\n")[1] || ""));
        items.append(item);
      });
      details.append(items);
      if (members.length > LISTED)
        details.append(element("p", "and " + (members.length - LISTED) + " weaker ones", "says"));
    }

    function facts(rows) {
      const found = element("dl");
      rows.forEach(([name, value]) => found.append(element("dt", name), element("dd", value)));
      if (rows.length) details.append(found);
    }

    function tell() {
      details.replaceChildren();
      if (!view.node && !view.edge) {
        details.append(element("p", "Click a node or an edge, or a row of the table.", "says"));
        return;
      }
      details.append(element("h2", view.node || view.edge));
      if (view.edge) {
        const edge = place.get(view.edge);
        if (edge === undefined) details.append(element("p", "not in the picture", "says"));
        else details.append(...text(edges.title[edge]).split("\n").slice(1).map((line) =>
          element("p", line)));
      } else {
        const at = names.indexOf(view.node);
        if (at >= 0) {
          details.append(element("p", text(scene.nodes.title[at]).replace(view.node, "").trim()));
          facts(drawn.notes[view.node] || []);
          const of = (side, which) => edges.name.map((_, edge) => edge)
            .filter((edge) => edges[side][edge] === which);
          list("Reads from", of("head", at));
          scene.shared.ends.filter((pair) => pair[1] === at).forEach((pair) =>
            list("Reads through " + names[pair[0]], of("head", pair[0])));
          list("Writes to", of("tail", at));
        } else details.append(element("p", "not in the picture", "says"));
      }
      const clear = element("button", "Clear", "clear");
      clear.type = "button";
      clear.addEventListener("click", () => pick(""));
      details.append(clear);
    }

    function legend() {
      const seen = new Map();
      scene.figure.data.filter((trace) => trace.meta.part === "boxes").forEach((trace) => {
        const at = scene.nodes.style.indexOf(trace.meta.key);
        if (trace.meta.key === "input" || trace.meta.key === "logits" || at < 0) return;
        const says = text(scene.nodes.title[at]).replace(names[at], "").trim();
        seen.set(says, trace);
      });
      seen.forEach((trace, says) => {
        const sample = element("i"), item = element("span");
        sample.style.background = trace.fillcolor;
        sample.style.borderColor = trace.line.color;
        if (trace.meta.key === "mlp" || trace.meta.key === "kv") sample.className = "square";
        item.append(sample, says);
        one(".nodes").append(item);
      });
    }

    one(".n").addEventListener("input", (event) => { view.n = Number(event.target.value); draw(); });
    one(".t").addEventListener("input", (event) => {
      view.t = window.kcScene.thresholdOf(scene, Number(event.target.value));
      draw();
    });
    one(".q").addEventListener("input", (event) => { view.q = event.target.value; draw(); });
    one(".q").addEventListener("change", (event) => {
      const query = event.target.value.trim().toLowerCase();
      const found = names.concat(edges.name).find((name) => name.toLowerCase() === query);
      if (found) pick(found);
    });
    section.querySelectorAll(".class input").forEach((box) =>
      box.addEventListener("change", () => {
        view.hide = Array.from(section.querySelectorAll(".class input"))
          .filter((each) => !each.checked).map((each) => each.value);
        draw();
      }));
    section.addEventListener("kc-pick", (event) => pick(event.detail));
    document.addEventListener("kc-clear", () => pick(""));
    tell();
    legend();
    draw();
    pane.on("plotly_click", (event) => {
      const name = event.points.length && event.points[0].customdata;
      if (typeof name === "string") pick(name);
    });
  }

  function views(section, drawn) {
    const pane = section.querySelector(".view");
    const buttons = Array.from(section.querySelectorAll(".tabs button"));
    function draw(index) {
      const figure = drawn[index].figure;
      const layout = Object.assign({}, figure.layout, { dragmode: false });
      pane.style.height = (layout.height || 420) + "px";
      window.Plotly.newPlot(pane, figure.data, layout, config);
      buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(at === index)));
    }
    buttons.forEach((button, at) => button.addEventListener("click", () => draw(at)));
    draw(0);
  }

  function table(section, listing) {
    const body = listing.querySelector("tbody"), rows = Array.from(body.rows);
    const heads = Array.from(listing.querySelectorAll("th"));
    const whole = listing.querySelector(".all"), filter = listing.querySelector(".filter");
    const first = rows.filter((row) => !row.classList.contains("more")).length;
    const open = () => { listing.classList.add("open"); if (whole) whole.remove(); };
    const value = (row, at) => {
      const cell = row.cells[at];
      return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
    };
    function sort(at) {
      const down = heads[at].getAttribute("aria-sort") !== "descending";
      heads.forEach((head) => head.removeAttribute("aria-sort"));
      heads[at].setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = rows.slice().sort((a, b) => {
        const x = value(a, at), y = value(b, at);
        const order = typeof x === "number" && typeof y === "number"
          ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
        return down ? -order : order;
      });
      body.replaceChildren(...sorted);
      sorted.forEach((row, index) => row.classList.toggle("more", index >= first));
    }
    heads.forEach((head, at) => head.firstChild.addEventListener("click", () => sort(at)));
    if (whole) whole.addEventListener("click", open);
    if (filter) filter.addEventListener("input", () => {
      const query = filter.value.trim().toLowerCase();
      if (query) open();
      rows.forEach((row) => row.classList.toggle("lost",
        query !== "" && !row.textContent.toLowerCase().includes(query)));
    });
    rows.filter((row) => row.dataset.pick).forEach((row) => {
      const choose = () => section.dispatchEvent(
        new CustomEvent("kc-pick", { detail: row.dataset.pick }));
      row.addEventListener("click", choose);
      row.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(); });
    });
  }

  document.querySelectorAll("section").forEach((section) => {
    const part = data[Number(section.dataset.index)];
    section.querySelectorAll(".listing").forEach((listing) => table(section, listing));
    if (part.graph) graph(section, part.graph);
    if (part.views.length) views(section, part.views);
  });
  document.body.dataset.ready = "yes";
})();
